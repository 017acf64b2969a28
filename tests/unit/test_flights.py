"""The flights of 2013: facts of the data that the ready pipeline relies on."""

import datetime as dt
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from schemas.errors import SetupError
from schemas.events import event_type
from schemas.pipelines import _departures
from schemas.pipelines._departures import departures
from schemas.pipelines.flights import flights

DEPARTED, DIVERTED = 328_521, 1_175
"""Counted in the CSV file: 336,776 flights less 8,255 without a departure; 9,430 less those 8,255
have a departure but no arrival delay."""


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return departures()


def row(table: pa.Table, event_id: str) -> dict[str, Any]:
    (found,) = table.filter(pc.equal(table["event_id"], event_id)).to_pylist()
    return found


def test_every_departure_is_there_once_and_in_order(table: pa.Table) -> None:
    """Counts in the demo and in reconciliation start from these."""
    assert table.num_rows == DEPARTED
    assert len(pc.unique(table["event_id"])) == DEPARTED
    times = table["event_time_ms"].combine_chunks()
    assert pc.all(pc.less_equal(times[:-1], times[1:])).as_py()


def test_the_truth_is_late_and_missing_for_diverted_flights_only(table: pa.Table) -> None:
    """A label that were known at departure would be a leak."""
    assert table["label"].null_count == table["label_time_ms"].null_count == DIVERTED
    share = pc.mean(table["label"]).as_py()
    assert share == pytest.approx(0.2371, abs=1e-4)
    assert flights.target.prior == pytest.approx(share, abs=0.01)
    delay = pc.subtract(table["label_time_ms"], table["event_time_ms"])
    assert 40 * 60_000 <= pc.min(delay).as_py() <= pc.max(delay).as_py() <= 12 * 3_600_000


def test_the_first_flight_as_a_person_reads_it(table: pa.Table) -> None:
    """UA1545 was due at 05:15 Eastern, left 2 minutes late, flew 227 minutes, arrived 11 late."""
    first = row(table, "2013-01-01-UA1545-EWR-0515")
    left = dt.datetime(2013, 1, 1, 10, 17, tzinfo=dt.UTC)
    assert first["event_time_ms"] == left.timestamp() * 1000
    assert first["label"] == 0.0
    assert first["label_time_ms"] == (left + dt.timedelta(minutes=227 + 20)).timestamp() * 1000
    assert first["day_of_week"] == 1  # 2013-01-01 was a Tuesday, Monday is 0
    assert (first["scheduled_hour"], first["distance_miles"]) == (5, 1400)
    assert (first["tail_number"], first["destination"]) == ("N14228", "IAH")
    assert first["temperature_f"] == 39.02


def test_weather_is_missing_where_there_was_no_reading(table: pa.Table) -> None:
    """Nulls exercise the declared ``missing``; all other columns are complete."""
    assert all(
        (table[name].null_count > 0) == (missing is not None)
        for name, missing in ((f.name, f.missing) for f in flights.features)
    )
    assert pc.max(table["wind_speed_mph"]).as_py() < 100
    assert table["tail_number"].null_count == 0


def test_the_columns_are_the_declared_event_and_its_label(table: pa.Table) -> None:
    """What the replay sends is what the worker expects."""
    fields = set(event_type(flights).__struct_fields__)
    assert fields | {"label", "label_time_ms"} == set(table.column_names)


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person must act, so the error names the remedy."""
    monkeypatch.setattr(_departures.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SetupError, match="make setup"):
        departures.__wrapped__()
