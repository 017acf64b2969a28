"""Examples: one Arrow message holds one batch of exactly one schema."""

import pyarrow as pa
import pytest

from schemas.arrow import write_batch
from schemas.errors import SchemaError
from schemas.examples import EXAMPLES, read_examples

ROW = {
    "event_id": "e", "key": "k", "kind": "corrected", "label": 1.0, "previous": 0.0, "weight": 1.0,
    "score": 0.5, "model_score": 0.25, "learner_position": 7, "model_version": "v",
    "event_time": 1, "predicted_at": 2, "label_time": 5, "revision": 3, "delay_ms": 4,
    "source_partition": 1, "source_offset": 9, "numeric": [1.0, 2.5], "category": ["ä", ""],
}  # fmt: skip
WITHOUT_LABEL = ROW | {
    "kind": "pending", "label": None, "previous": None, "label_time": None, "delay_ms": None,
}  # fmt: skip


def test_what_is_written_is_read() -> None:
    """Every value, every type, and what is not known yet."""
    batch = pa.RecordBatch.from_pylist([ROW, WITHOUT_LABEL], schema=EXAMPLES)
    found = read_examples(write_batch(batch))
    assert found.schema.equals(EXAMPLES)
    assert found.equals(batch)


@pytest.mark.parametrize("message", [b"", b"hello", "a column less"])
def test_anything_else_is_refused(message: bytes | str) -> None:
    if isinstance(message, str):
        batch = pa.RecordBatch.from_pylist([ROW], schema=EXAMPLES)
        message = write_batch(batch.drop_columns(["revision"]))
    with pytest.raises(SchemaError, match="could not read examples"):
        read_examples(message)
