"""Journals of examples for tests: what the label ledger writes, with as few words as possible."""

import pyarrow as pa

from schemas.examples import EXAMPLES

HOUR_MS = 3_600_000


def row(number, kind, *, label=None, previous=None, score=0.5, model=None, hour=0, delay_ms=None,
        version="v1", partition=0, numeric=(0.0,), category=("a",), time_ms=None):  # fmt: skip
    """One transition of prediction ``number``."""
    event_ms = hour * HOUR_MS + number % HOUR_MS if time_ms is None else time_ms
    return {
        "event_id": f"e{number}", "key": "k", "kind": kind, "label": label, "previous": previous,
        "weight": 1.0, "score": score, "model_score": score if model is None else model,
        "learner_position": -1, "model_version": version, "event_time": event_ms,
        "predicted_at": event_ms, "revision": 0, "delay_ms": delay_ms,
        "label_time": None if delay_ms is None else event_ms + delay_ms,
        "source_partition": partition, "source_offset": number,
        "numeric": list(numeric), "category": list(category),
    }  # fmt: skip


def message(rows):
    """One message of the examples topic."""
    return pa.RecordBatch.from_pylist(rows, schema=EXAMPLES)
