"""Makes what a ledger reads: scored rows and labels, from a few numbers."""

from collections.abc import Sequence

import pyarrow as pa

from schemas.labels import Label
from schemas.scored import SCORED
from streams.ledger.columns import LabelColumns

RECORD_MS = 1 << 50
"""A broker's time stamp that no event runs ahead of."""


def scored(
    rows: Sequence[tuple[str, int]],
    *,
    offset: int = 0,
    partition: int = 0,
    record_ms: int = RECORD_MS,
) -> pa.RecordBatch:
    """One batch of predictions: (event id, event time)."""
    return pa.RecordBatch.from_pylist(
        [
            {
                "event_id": event_id, "key": f"k{offset + i}", "event_time": time_ms,
                "produced_at": record_ms, "predicted_at": time_ms + 5, "score": 0.5,
                "model_version": f"v{(offset + i) // 7}", "model_age_ms": 1,
                "source_partition": partition, "source_offset": offset + i,
                "numeric": [float(offset + i), -1.0], "category": ["a", "bc"][: 1 + i % 2],
                "model_score": 0.25, "learner_position": -1,
            }
            for i, (event_id, time_ms) in enumerate(rows)
        ],
        schema=SCORED,
    )  # fmt: skip


def labels(
    rows: Sequence[tuple[str, float, int, int]], *, record_ms: int = RECORD_MS
) -> LabelColumns:
    """Labels: (event id, value, label time, revision)."""
    return LabelColumns.of(
        [Label(event_id=e, value=v, label_time_ms=t, revision=r) for e, v, t, r in rows],
        [record_ms] * len(rows),
    )
