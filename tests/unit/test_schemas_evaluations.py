"""Evaluations and alarms: what is written is read, anything else is refused."""

from decimal import Decimal

import pyarrow as pa
import pytest

from schemas.alarms import Alarm, decode_alarm, encode_alarm
from schemas.errors import SchemaError
from schemas.evaluations import EVALUATIONS, SUM, read_evaluations, write_evaluations


def value_of(kind: pa.DataType) -> object:
    if kind == SUM:
        return Decimal("-12345678901234567890123456789.123456789")
    if pa.types.is_list(kind):
        return [1, 2, 3]
    return {pa.utf8(): "served", pa.float64(): 0.25}.get(kind, 7)


def test_what_is_written_is_read() -> None:
    """Every column, sums with all their digits, and a stability that was not measured."""
    full = {field.name: value_of(field.type) for field in EVALUATIONS}
    batch = pa.RecordBatch.from_pylist([full, full | {"stability": None}], schema=EVALUATIONS)
    assert read_evaluations(write_evaluations(batch)).equals(batch)


@pytest.mark.parametrize("message", [b"", b"hello"])
def test_anything_else_is_refused(message: bytes) -> None:
    with pytest.raises(SchemaError, match="could not read evaluations"):
        read_evaluations(message)
    with pytest.raises(SchemaError, match="could not read alarm"):
        decode_alarm(message)


ALARM = Alarm(
    alarm_id="error-rate|served|0|10153", detector="error-rate", subject="served",
    model_version="v", event_time_ms=1, source_partition=0, source_offset=10_153, shard=0,
    statistic=1.2e6, threshold=1e6, before=0.013, after=None, rows_before=10_000, rows_after=150,
    false_alarm_every=1_000_000,
)  # fmt: skip


def test_an_alarm_of_this_release_is_read_for_ever() -> None:
    """Its bytes lie in topics and in other people's programs."""
    golden = (
        b'{"alarm_id":"error-rate|served|0|10153","detector":"error-rate","subject":"served",'
        b'"model_version":"v","event_time_ms":1,"source_partition":0,"source_offset":10153,'
        b'"shard":0,"statistic":1200000.0,"threshold":1000000.0,"before":0.013,"after":null,'
        b'"rows_before":10000,"rows_after":150,"false_alarm_every":1000000}'
    )
    assert encode_alarm(ALARM) == golden
    assert decode_alarm(golden) == ALARM
