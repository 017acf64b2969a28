"""How good the predictions are, as sums to add: Arrow streams on ``<pipeline>.evaluations``.

A row is an *increment*: what one turn of a shard adds to one window of event time, for one score or
one feature. The quality of a window is the sum of all its rows, over all shards, in any order. A
label that is corrected adds a row in which its first contribution is negative. So nothing needs to
stay open: a correction that comes a week later finds its window.

Counts are whole numbers and sums are decimals with nine digits after the point, so that adding
them is exact, and what is taken back is exactly what was added.
"""

import pyarrow as pa

from schemas.arrow import read_batch, write_batch

SUM = pa.decimal128(38, 9)
"""The type of every sum. A contribution is rounded to nine digits once, then only added."""

_MOMENT = pa.timestamp("ms", tz="UTC")


def _count(name: str) -> pa.Field:
    return pa.field(name, pa.int64(), nullable=False)


def _sum(name: str) -> pa.Field:
    return pa.field(name, SUM, nullable=False)


def _bins(name: str) -> pa.Field:
    return pa.field(name, pa.list_(pa.uint16()), nullable=False)


def _per_bin(name: str) -> pa.Field:
    return pa.field(name, pa.list_(pa.int64()), nullable=False)


EVALUATIONS = pa.schema(
    [
        pa.field("window_start", _MOMENT, nullable=False),
        _count("window_ms"),
        pa.field("subject_kind", pa.utf8(), nullable=False),
        pa.field("subject", pa.utf8(), nullable=False),
        pa.field("model_version", pa.utf8(), nullable=False),
        _count("predictions"),
        _count("labels"),
        _count("provisional"),
        _count("corrected"),
        _count("expired"),
        _count("evicted"),
        _count("correct"),
        _count("positives"),
        _count("predicted_positives"),
        _sum("log_loss"),
        _sum("squared_error"),
        _sum("absolute_error"),
        _sum("estimated_correct"),
        _sum("estimated_log_loss"),
        _sum("estimated_squared_error"),
        _count("checked"),
        _count("checked_correct"),
        _sum("checked_estimated_correct"),
        _bins("score_bins"),
        _per_bin("bin_positives"),
        _per_bin("bin_negatives"),
        _bins("delay_bins"),
        _per_bin("delay_counts"),
        pa.field("stability", pa.float64()),
    ]
)
"""``subject_kind`` is ``score`` (then ``subject`` is ``served``, ``model``, ``online``, ``hybrid``,
``no_change`` or ``prior``) or ``feature`` (a feature's name; only ``predictions``, the rows looked
at, and ``stability``, its population stability index, say something).

``predictions`` were made in the window; of ``labels`` the truth is known, ``provisional`` of them
by silence; ``corrected`` truths were replaced. ``expired`` had none within the horizon (some get
one later all the same), ``evicted`` are not waited for any longer. ``correct``: score above 0.5
exactly where the truth is 1. ``positives``: truths that are 1. Losses are in nats.

``estimated_*`` are expected values of the same sums, from calibrated confidence, over
``predictions``. ``checked`` predictions have an estimate and a truth; over these alone
``checked_correct`` is what ``checked_estimated_correct`` foretold.

``score_bins`` and ``delay_bins`` name the bins that change, `models.sketches` says which score or
delay belongs to which; the lists beside them are as long and say by how much."""


def write_evaluations(batch: pa.RecordBatch) -> bytes:
    """One Arrow stream with one record batch."""
    return write_batch(batch)


def read_evaluations(message: bytes) -> pa.RecordBatch:
    """The record batch of one message.

    Raises:
        SchemaError: not an Arrow stream of one batch with exactly this schema.
    """
    return read_batch(message, EVALUATIONS, what="evaluations")
