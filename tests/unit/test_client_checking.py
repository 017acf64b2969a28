"""What the client refuses before anything is sent, and that it costs little to import."""

import subprocess
import sys
import time
from datetime import datetime

import msgspec
import numpy as np
import pytest

from schemas.errors import PipelineError, RecordsRejected, SetupError
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from streams.client import AsyncClient, Client, as_table
from streams.client.checking import checked_events, checked_labels
from streams.client.following import check_start
from streams.client.sending import Position

SHOP = Pipeline(
    name="shop",
    key="customer",
    features=[numeric("price"), numeric("age", missing=0.0), category("country")],
    target=label("returned"),
)
NOW_MS = int(time.time() * 1000)


def event(**changes):
    whole = {
        "event_id": "e1",
        "event_time_ms": NOW_MS,
        "customer": "c1",
        "price": 2.5,
        "country": "FI",
    }
    return {name: value for name, value in (whole | changes).items() if value is not ...}


def problems(events):
    with pytest.raises(RecordsRejected) as refused:
        checked_events(SHOP, events, Settings())
    return refused.value


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"price": ...}, "missing required field `price`. Give the field"),
        ({"price": "2.5"}, "Expected `float`, got `str`"),
        ({"price": 1e39}, "does not fit a float32. Send a finite number"),
        ({"price": float("nan")}, "Expected `float`, got `null`"),
        ({"event_time_ms": NOW_MS + 90_000_000}, "Times are Unix epoch in milliseconds"),
        ({"event_time_ms": NOW_MS / 1000 + 0.5}, "Expected `int`, got `float`"),
        ({"country": "x" * 70_000}, "raise TIDEMILL_EVENT_BYTES_MAX"),
        ({"customer": ...}, "missing required field `customer`"),
        ({"customer": ""}, "it has no customer, the key of its topic"),
        ({"price": object()}, "object is no JSON"),
    ],
)
def test_what_a_scorer_would_reject_is_refused_with_place_and_fix(changes, told):
    """Otherwise a program learns of it from dead letters, a day later."""
    found = problems([event(), event(event_id="bad", **changes)])
    assert told in found.problems[1]
    assert "could not send events: 1 of 2 would become dead letters; none was sent" in str(found)
    assert "events[1] event_id='bad'" in str(found)


def test_all_problems_are_counted_and_few_are_shown():
    """A million wrong events must not make a message of a million lines."""
    found = problems([event(price=None)] * 50)
    assert len(found.problems) == 50
    assert str(found).count("\n") == 6
    assert str(found).endswith("and 45 more")


def test_rows_of_data_frames_are_sent_as_they_are():
    """Their numbers are NumPy's; a missing age is declared, so null stands for it."""
    [record] = checked_events(
        SHOP, [event(price=np.float32(2.5), event_time_ms=np.int64(NOW_MS), age=None)], Settings()
    )
    assert record.key == b"c1"
    sent = msgspec.json.decode(record.value)
    assert (sent["price"], sent["event_time_ms"], sent["age"]) == (2.5, NOW_MS, None)


def test_a_label_needs_the_key_of_its_event_and_a_value():
    """Without the key it would land on another partition and never meet its prediction."""
    truth = {"event_id": "e1", "customer": "c1", "value": 1}
    before_ms = time.time_ns() // 1_000_000
    [record] = checked_labels(SHOP, [truth], Settings())
    after_ms = time.time_ns() // 1_000_000
    assert before_ms <= msgspec.json.decode(record.value)["label_time_ms"] <= after_ms
    with pytest.raises(RecordsRejected, match="it has no customer"):
        checked_labels(SHOP, [{"event_id": "e1", "value": 1}], Settings())
    with pytest.raises(RecordsRejected, match="neither 0 nor 1"):
        checked_labels(SHOP, [truth | {"value": 2}], Settings())


def test_a_start_says_what_may_be_given():
    """A moment without a zone would be another one on the next machine."""
    with pytest.raises(ValueError, match="no time zone"):
        check_start(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="'earliest', 'latest', a datetime"):
        check_start("now")


def test_what_is_missing_is_said(tmp_path):
    """Each with what to set or start."""
    nothing = Settings(home=tmp_path)
    with pytest.raises(PipelineError, match="ready ones are flights"):
        Client("flihgts", settings=nothing)
    with Client(SHOP, settings=nothing) as client:
        with pytest.raises(SetupError, match="TIDEMILL_KAFKA"):
            client.send_events([event()])
        with pytest.raises(SetupError, match="TIDEMILL_CLICKHOUSE"):
            client.query("SELECT 1")
    with Client(settings=nothing) as client, pytest.raises(SetupError, match="no pipeline"):
        client.send_events([event()])


def test_an_empty_table_has_the_columns_of_sql():
    """So a notebook that runs before the first prediction does not fail in its second cell."""
    table = as_table([])
    assert table.num_rows == 0
    assert table.column_names[:5] == ["event_id", "key", "score", "event_time", "source_offset"]
    assert str(table.schema.field("predicted_at").type) == "timestamp[ms, tz=UTC]"


def test_importing_the_client_is_quick_and_imports_nothing_heavy():
    """A program that sends one event must not load a framework. Measured: 0.2 s, cold 0.3 s."""
    script = (
        "import time, sys; began = time.process_time(); import streams.client; "
        "took = time.process_time() - began; "
        "heavy = {'torch', 'river', 'pandas', 'polars', 'pyarrow', 'faust', 'aiokafka', 'chdb', "
        "'sklearn', 'clickhouse_connect'} & set(sys.modules); "
        "print(took, sorted(heavy)); "
        "from streams.client import Client; Client('flights'); print('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    seconds, _, heavy = ran[0].partition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.5
    assert ran[1] == "False"


def test_positions_are_plain_tuples():
    """They are kept in tables and compared."""
    assert Position(1, 2) == (1, 2)
    assert AsyncClient.__doc__ is not None
