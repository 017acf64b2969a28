"""The short round of all doors, what the long ones found, and that a finding would be seen."""

import hashlib
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import rollout
from schemas.alarms import decode_alarm
from schemas.arrow import read_batch, write_batch
from schemas.errors import ModelError, SchemaError, SettingsError
from schemas.labels import LabelRejected, decode_label
from schemas.manifest import decode_manifest
from schemas.settings import Settings
from streams.ledger.pointer import Pointer
from streams.store.gateway import request
from streams.store.gateway.authentication import read_claim
from streams.store.gateway.client_ids import with_client_ids
from streams.store.gateway.errors import EngineError
from streams.store.gateway.statement import SQL_BYTES_MAX, output_format, split_insert
from streams.store.recorded_range import decode_pending
from tests.fuzz import running, targets
from tests.fuzz.control import RING
from tests.fuzz.target import Inputs, Target

COUNT = 600
"""Inputs of each target; one in 500 is as long as it may be."""
SEED = 20_130_101


@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_input_breaks_a_door(name: str) -> None:
    """In a process of its own, because some findings end it. `make fuzz` gives each a million."""
    outcome = running.try_apart(name, seed=SEED, first=0, count=COUNT)
    assert not outcome.problem, outcome
    assert outcome.inputs == COUNT


@pytest.mark.parametrize(
    "name", ["event", "label", "alarm", "settings", "pointer", "pending", "sql"]
)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda t: t.encode())))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_neither_does_what_hypothesis_thinks_of(name: str, content: bytes) -> None:
    """It knows other corners than the mutations of good inputs do, and makes them small."""
    targets.TARGETS[name].check(content)


def test_an_input_follows_from_seed_and_number_alone() -> None:
    """Otherwise the command that a finding prints would not find it again."""
    target = targets.TARGETS["event"]
    forward = [Inputs(target, 3)[number] for number in range(50)]
    inputs = Inputs(target, 3)
    assert [inputs[number] for number in reversed(range(50))] == forward[::-1]
    assert forward != [Inputs(target, 4)[number] for number in range(50)]
    assert len(inputs[499]) > 60_000


def _raises(content: bytes) -> None:
    if len(content) > 40:
        raise KeyError("found")


def _ends(content: bytes) -> None:
    if len(content) > 40:
        os.kill(os.getpid(), signal.SIGKILL)


def _hangs(content: bytes) -> None:
    while len(content) > 40:
        pass


def _slow(content: bytes) -> None:
    if len(content) > 40:
        began_s = time.process_time()
        while time.process_time() < began_s + 0.2:
            pass


@pytest.mark.parametrize(
    ("check", "why"),
    [(_raises, "KeyError"), (_ends, "code -9"), (_hangs, "no answer"), (_slow, "took")],
)
def test_a_finding_is_named_and_comes_again(check, why, monkeypatch) -> None:
    """An error, a crash, an endless loop and slowness: each is seen, with the input that does it."""
    monkeypatch.setitem(targets.TARGETS, "bad", Target("bad", [b"x" * 30], check))
    monkeypatch.setattr(running, "HANG_S_MAX", 1.0)
    monkeypatch.setattr(running, "INPUT_S_MAX", 0.1)
    outcome = running.try_apart("bad", seed=1, first=0, count=10_000)
    assert why in outcome.problem
    assert len(Inputs(targets.TARGETS["bad"], 1)[outcome.number]) > 40
    assert f"--target bad --seed 1 --only {outcome.number}" in str(outcome)


# -- what was found


def test_a_label_of_escaped_quotes_takes_no_minute() -> None:
    """64 KiB of them stopped scorer and joiner for 46 s: each quote was tried as a beginning."""
    began_s = time.process_time()
    with pytest.raises(LabelRejected):
        decode_label(b"[" * 101 + b'\\"' * 32_000, now_ms=1)
    assert time.process_time() - began_s < 1.0


@pytest.mark.parametrize(
    "unit", [b"\\'", b'\\"', b"\\`", b"/* ", b"$a$ $b$ ", b"$%d$ ", b"'' ", b"` "]
)
def test_sql_that_never_closes_what_it_opens_takes_no_time(unit: bytes) -> None:
    """16 KiB of escaped quotes took 5 s on the store's event loop, and the time grew as the square."""
    many = range(SQL_BYTES_MAX // len(unit))
    text = b"".join(unit % number for number in many) if b"%d" in unit else unit * len(many)
    began_s = time.process_time()
    with pytest.raises(EngineError, match="longer than"):
        split_insert(b"INSERT INTO t " + text)
    output_format((b"SELECT format " + text)[:SQL_BYTES_MAX])
    assert time.process_time() - began_s < 5.0


def test_a_comment_before_the_rows_swallows_neither_format_nor_settings() -> None:
    found = split_insert(b"INSERT INTO t -- mine\nFORMAT CSV\n1")
    assert found is not None
    assert found.sql == "INSERT INTO t -- mine\nFORMAT CSV"
    told = found.from_file("/f", {"a": "1"})
    assert told == "INSERT INTO t -- mine\nFROM INFILE '/f'\nSETTINGS a = '1'\nFORMAT CSV"


def test_bytes_that_are_no_text_or_nest_without_end_are_a_schema_error() -> None:
    """msgspec raises other errors for them than for other garbage; readers of topics died of it."""
    for content in (b'{"alarm_id":"\xff"}', b'{"x":' + b"[" * 100_000):
        with pytest.raises(SchemaError):
            decode_alarm(content)
        with pytest.raises(ModelError):
            decode_manifest(content)
        signature = RING.sign(rollout._PURPOSE, hashlib.sha256(content).digest())
        with pytest.raises(ModelError):
            rollout.unseal(RING, content, signature)


def test_an_arrow_message_whose_texts_lie_outside_of_it_is_refused() -> None:
    """It passed for whole and ended the process of whoever read the text."""
    schema = pa.schema([pa.field("text", pa.utf8(), nullable=False)])
    good = write_batch(pa.RecordBatch.from_pydict({"text": ["abcd", "efgh"]}, schema=schema))
    at = good.index(b"\0\0\0\0\x04\0\0\0\x08\0\0\0")
    bad = good[: at + 8] + b"\0\0\0\x7f" + good[at + 12 :]
    assert read_batch(good, schema, what="texts").num_rows == 2
    with pytest.raises(SchemaError, match="could not read texts"):
        read_batch(bad, schema, what="texts")
    nulls = pa.RecordBatch.from_arrays([pa.nulls(2, pa.utf8())], schema=schema)
    with pytest.raises(SchemaError, match="nulls"):
        read_batch(write_batch(nulls), schema, what="texts")


def test_every_id_in_a_long_statement_is_replaced() -> None:
    """Each of 21,000 of them copied all 256 KiB once."""
    calls = SQL_BYTES_MAX // 12 - 1
    changed = with_client_ids("SELECT " + "query_id(), " * calls + "1", "id")
    assert changed == "SELECT " + "('id' AS `query_id()`), " * calls + "1"


def test_an_insert_keeps_signs_that_are_blanks_to_python_alone() -> None:
    """Without it, the word behind the dot became the name of the table."""
    found = split_insert(b"insert into db.\x1e format CSV\n1")
    assert found is not None
    assert found.into == "insert into db.\x1e"


def test_arrow_columns_of_another_type_are_not_looked_at() -> None:
    """An empty union without children ended the process."""
    union = pa.schema([pa.field("number", pa.dense_union([]), nullable=False)])
    wanted = pa.schema([pa.field("number", pa.int64(), nullable=False)])
    rows = write_batch(pa.RecordBatch.from_pydict({"number": []}, schema=wanted))
    foreign = rows.replace(wanted.serialize().to_pybytes(), union.serialize().to_pybytes())
    assert read_batch(rows, wanted, what="numbers").num_rows == 0
    with pytest.raises(SchemaError, match=r"columns=\['number dense_union<>'\]"):
        read_batch(foreign, wanted, what="numbers")


def test_a_user_name_of_bytes_that_are_no_text_is_nobodys() -> None:
    """It could not be written down, so the request ended in an internal error."""
    assert read_claim({"X-ClickHouse-User": "\udc8f"}, {}).name == "?"


@pytest.mark.parametrize(("text", "seconds"), [("inf", 3600.0), ("-inf", 1.0), ("30", 30.0)])
def test_a_session_is_kept_for_a_number_of_seconds_within_bounds(text: str, seconds: float) -> None:
    """One that was kept for NaN seconds never ended."""
    assert request._seconds(text) == seconds
    with pytest.raises(EngineError, match="session_timeout"):
        request._seconds("nan")


def test_a_pending_range_that_is_none_is_foreign_text() -> None:
    """Recovery would have waited for offset 3 after offset 9."""
    assert decode_pending('{"v":1,"p":[9,3],"n":7,"e":"1"}') is None
    assert decode_pending('{"v":1,"p":[-1,3],"n":7,"e":"1"}') is None


@pytest.mark.parametrize(
    "text",
    [
        '[1,"",3,4,"gICAgICAgICAgICAAawCAAI=",5,115292156846976,{"closed":2}]',
        '[1,"",-3,4,"",5,1,{}]',
    ],
)
def test_a_pointer_beyond_what_kafka_counts_is_refused(text: str) -> None:
    """Recovery would have waited for an offset that no topic has."""
    with pytest.raises(SchemaError, match="no number of Kafka's"):
        Pointer.decode(text)


def test_settings_that_cannot_be_read_are_refused_and_all_reach_a_child(tmp_path: Path) -> None:
    """The first three ended in a trace back; an empty database became the default one in a child."""
    (tmp_path / "secret").write_bytes(b"hush\xff")
    for name, value in (
        ("KAFKA_PASSWORD_FILE", "a\0b"),
        ("KAFKA_PASSWORD_FILE", str(tmp_path / "secret")),
        ("CLICKHOUSE", "http://["),
    ):
        with pytest.raises(SettingsError, match=f"TIDEMILL_{name}") as caught:
            Settings.from_environment({f"TIDEMILL_{name}": value})
        assert "hush" not in str(caught.value)
    odd = Settings(database="")
    assert Settings.from_environment(odd.environment()) == odd
