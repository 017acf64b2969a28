"""Rows of a training on the real engine: which of them are read, and what they say."""

import time

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from schemas.topics import DAY_MS
from streams.store.client import connect, insert_rows
from streams.store.migrations import migrate
from streams.store.tables import TABLES
from streams.store.training_set import write_set

EVENTS = 3_000
HOUR_MS = 3_600_000
BEGAN_MS = 1_700_000_000_000
PRODUCED_MS = time.time_ns() // 1_000_000
"""Old events, new rows: they expire by when they were made."""
LATE_MS = 5 * HOUR_MS
CORRECTED_MS = 30 * HOUR_MS

shop = Pipeline(
    name="shop", key="user", features=[numeric("price"), category("country")],
    target=label("bought", prior=0.3),
)  # fmt: skip


def rows(table: str, given: list[dict]) -> pa.Table:
    """A table as the lander inserts it; what is not given is zero."""
    schema = TABLES[table]
    empty = {
        field.name: None if field.nullable and table == "examples" else "" if
        pa.types.is_string(field.type) else [] if pa.types.is_list(field.type) else 0
        for field in schema
    }  # fmt: skip
    return pa.Table.from_pylist([{**empty, "pipeline": "shop", **row} for row in given], schema)


def event_ms(event: int) -> int:
    """One an hour: 125 days of them."""
    return BEGAN_MS + event * HOUR_MS


@pytest.fixture
def client(store, unique):
    own = Settings(clickhouse=store, database=unique("set"))
    migrate(own)
    made = connect(own)
    yield made
    made.close()


def land(client, *, silent: bool) -> None:
    """Every event with a price of its number and a label; a seventh is corrected a day later.

    ``silent``: no label came, so silence stands for each.
    """
    scored, examples = [], []
    for event in range(EVENTS):
        place = {"source_partition": event % 3, "source_offset": event // 3}
        moment = event_ms(event)
        scored.append({
            **place, "topic_offset": event, "event_id": str(event), "event_time": moment,
            "predicted_at": PRODUCED_MS, "produced_at": PRODUCED_MS, "numeric": [float(event)],
            "category": ["de"],
        })  # fmt: skip
        step = {**place, "topic_offset": event, "kind": "final", "label": 0.0, "revision": 0}
        given = {"label_time": None if silent else moment + LATE_MS, "produced_at": PRODUCED_MS}
        examples.append({**step, **given})
        if event % 7 == 0 and not silent:
            examples.append({
                **step, "kind": "corrected", "label": 1.0, "revision": 1, "produced_at": PRODUCED_MS,
                "label_time": moment + CORRECTED_MS,
            })  # fmt: skip
    insert_rows(client, "scored", rows("scored", scored), token="scored")
    insert_rows(client, "examples", rows("examples", examples), token="examples")


def read(client, path, **asked) -> pa.Table:
    """The file that a training reads."""
    write_set(client, shop, path, **asked)
    return pa.ipc.open_file(path).read_all()


@pytest.mark.parametrize("as_of_ms", [None, event_ms(2_000)], ids=["now", "earlier"])
def test_a_training_that_looks_back_some_days_reads_those_alone(client, tmp_path, as_of_ms):
    """
    Goal: it costs what it looks at, not what is kept, and learns the same.

    Method: the set of ten days equals the part of the whole set that `prepare` would keep.
    """
    land(client, silent=False)
    whole = read(client, tmp_path / "whole.arrow", as_of_ms=as_of_ms)
    assert len(whole) == (EVENTS if as_of_ms is None else 2_000 - LATE_MS // HOUR_MS)
    until = pc.max(whole["label_time_ms"]).as_py() if as_of_ms is None else as_of_ms
    kept = whole.filter(pc.greater_equal(whole["event_time_ms"], until - 10 * DAY_MS))
    assert 200 < len(kept) <= 241
    assert kept["label"].to_pylist().count(1.0) > 20
    assert read(client, tmp_path / "part.arrow", as_of_ms=as_of_ms, days=10).equals(kept)


def test_where_silence_gave_every_label_all_rows_are_read(client, tmp_path):
    """
    Goal: without the time of any label, nothing that the training wants is left out.

    Method: as above, with rows whose label has no time; only a moment that is given limits them.
    """
    land(client, silent=True)
    assert len(read(client, tmp_path / "all.arrow", as_of_ms=None, days=10)) == EVENTS
    part = read(client, tmp_path / "part.arrow", as_of_ms=event_ms(2_000), days=10)
    horizon = shop.horizon_ms // HOUR_MS
    assert part["event_time_ms"].to_pylist() == [event_ms(e) for e in range(1_760, 2_000 - horizon)]
