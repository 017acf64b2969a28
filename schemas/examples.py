"""What everything that learns, evaluates or watches for drift reads: ``<pipeline>.examples``.

It is the journal of the label ledger: one row for every transition of a prediction, with the
features as the model saw them, so whoever reads it needs no state of its own. One Arrow stream with
one record batch per message.
"""

import pyarrow as pa

from schemas.arrow import read_batch

KINDS = ("pending", "provisional", "expired", "evicted", "final", "corrected")
"""What happened to the prediction.

* ``pending``: it was made; its truth is not known. The first row of every prediction.
* ``provisional``: the horizon passed, and ``label`` is what the pipeline says silence means.
* ``expired``: the horizon passed, and silence means nothing.
* ``evicted``: the ledger was full, so its truth is not waited for any longer.
* ``final``: the truth came in time.
* ``corrected``: another truth than ``previous``, which had been given before; or, without a
  ``previous``, the truth that came after ``expired``.

In this order a prediction passes through them, so the highest kind and in it the highest
``revision`` is what holds now. Whoever learns takes rows with a ``label``; one with a ``previous``
replaces what was learned before. What was evicted never gets a truth."""

_MOMENT = pa.timestamp("ms", tz="UTC")

EXAMPLES = pa.schema(
    [
        pa.field("event_id", pa.utf8(), nullable=False),
        pa.field("key", pa.utf8(), nullable=False),
        pa.field("kind", pa.utf8(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("previous", pa.float64()),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("model_score", pa.float32(), nullable=False),
        pa.field("learner_position", pa.int64(), nullable=False),
        pa.field("model_version", pa.utf8(), nullable=False),
        pa.field("event_time", _MOMENT, nullable=False),
        pa.field("predicted_at", _MOMENT, nullable=False),
        pa.field("label_time", _MOMENT),
        pa.field("revision", pa.uint32(), nullable=False),
        pa.field("delay_ms", pa.int64()),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        pa.field("numeric", pa.list_(pa.float32()), nullable=False),
        pa.field("category", pa.list_(pa.utf8()), nullable=False),
    ]
)
"""``kind`` is one of `KINDS`. ``previous`` is the label that a correction replaces. ``score`` is as
served, ``model_score`` that of the deep model alone, ``learner_position`` the offset in this topic
up to which the online learner had learned (-1: none served). ``delay_ms`` is ``label_time`` less
``event_time``; both are null where no label came. ``source_partition`` and ``source_offset``
name the event."""


def read_examples(message: bytes) -> pa.RecordBatch:
    """The record batch of one message.

    Raises:
        SchemaError: not an Arrow stream of one batch with exactly this schema.
    """
    return read_batch(message, EXAMPLES, what="examples")
