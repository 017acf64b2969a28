"""Scored rows: one Arrow message holds one batch of exactly one schema."""

import pyarrow as pa
import pytest

from schemas.arrow import write_batch
from schemas.errors import SchemaError
from schemas.scored import SCORED, read_scored

ROW = {
    "event_id": "e",
    "key": "k",
    "event_time": 1,
    "produced_at": 2,
    "predicted_at": 3,
    "score": 0.5,
    "model_version": "v",
    "model_age_ms": 4,
    "source_partition": 5,
    "source_offset": 6,
    "numeric": [1.0, -2.5],
    "category": ["ä", ""],
    "model_score": 0.25,
    "learner_position": 7,
}


def batch(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [ROW | {"event_id": f"e{i}", "source_offset": i} for i in range(rows)], schema=SCORED
    )


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_what_is_written_is_read(rows: int) -> None:
    """Every value and every type, also of no rows."""
    found = read_scored(write_batch(batch(rows)))
    assert found.schema.equals(SCORED)
    assert found.equals(batch(rows))


def test_a_slice_carries_its_own_rows_only() -> None:
    """Large batches are halved into messages; each must stand alone and be smaller."""
    whole = batch(1000)
    message = write_batch(whole.slice(500, 10))
    assert read_scored(message).equals(whole.slice(500, 10))
    assert len(message) < len(write_batch(whole)) / 10


def _stream(*batches: pa.RecordBatch, schema: pa.Schema = SCORED) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for one in batches:
            writer.write_batch(one)
    return sink.getvalue().to_pybytes()


_renamed = pa.schema([f if f.name != "score" else f.with_name("points") for f in SCORED])
_doubles = pa.schema([f if f.name != "score" else f.with_type(pa.float64()) for f in SCORED])
WRONG = {
    "nothing": b"",
    "no Arrow": b"hello, world",
    "cut off": write_batch(batch(3))[:-200],
    "no batch": _stream(),
    "two batches": _stream(batch(1), batch(1)),
    "another name": _stream(schema=_renamed),
    "another type": _stream(
        pa.RecordBatch.from_pylist([ROW], schema=_doubles), schema=_doubles
    ),
    "a column less": _stream(batch(1).drop_columns(["key"]), schema=batch(1).drop_columns(["key"]).schema),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG.values(), ids=WRONG.keys())
def test_anything_else_is_refused_with_its_reason(message: bytes) -> None:
    """A column that is silently missing would be landed as zeros."""
    with pytest.raises(SchemaError, match="could not read scored rows"):
        read_scored(message)


def test_a_message_of_the_release_before_is_completed() -> None:
    """What lies in the topic when a new worker starts was written by the old one."""
    old = batch(3).drop_columns(["model_score", "learner_position"])
    found = read_scored(_stream(old, schema=old.schema))
    assert found.schema.equals(SCORED)
    assert found["model_score"].equals(old["score"])
    assert found["learner_position"].to_pylist() == [-1] * 3
