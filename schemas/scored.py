"""What the stages after scoring read: one Arrow stream per run, on ``<pipeline>.scored``.

It repeats the prediction and adds the features exactly as the model saw them, so that learning and
auditing never have to rebuild them.
"""

import pyarrow as pa

from schemas.arrow import read_batch

SCORED = pa.schema(
    [
        pa.field("event_id", pa.utf8(), nullable=False),
        pa.field("key", pa.utf8(), nullable=False),
        pa.field("event_time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("produced_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("predicted_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("model_version", pa.utf8(), nullable=False),
        pa.field("model_age_ms", pa.int64(), nullable=False),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        pa.field("numeric", pa.list_(pa.float32()), nullable=False),
        pa.field("category", pa.list_(pa.utf8()), nullable=False),
        pa.field("model_score", pa.float32(), nullable=False),
        pa.field("learner_position", pa.int64(), nullable=False),
    ]
)
"""``score`` is what was served, ``model_score`` what the deep model said alone, and
``learner_position`` how far the online learner that helped had learned (-1: none did).
``numeric`` and ``category`` hold the features in declared order. ``produced_at`` is the broker's
time stamp of the event, ``predicted_at`` the worker's clock."""

_BEFORE_LEARNING = pa.schema(list(SCORED)[:-2])


def read_scored(message: bytes) -> pa.RecordBatch:
    """The record batch of one message.

    A message of a release before online learning is completed: its score was the model's own.

    Raises:
        SchemaError: not an Arrow stream of one batch with this schema.
    """
    batch = read_batch(message, SCORED, _BEFORE_LEARNING, what="scored rows")
    return batch if batch.num_columns == len(SCORED) else _completed(batch)


def _completed(batch: pa.RecordBatch) -> pa.RecordBatch:
    position = pa.repeat(pa.scalar(-1, pa.int64()), batch.num_rows)
    return pa.RecordBatch.from_arrays([*batch.columns, batch["score"], position], schema=SCORED)
