"""The swap benchmark finds what it says it looks for."""

import pyarrow as pa
import pytest

pytest.importorskip("confluent_kafka")

from streams.bench.swap import _figures

STAMP = pa.timestamp("ms", tz="UTC")
ANNOUNCED = [(10_000, "b"), (12_000, "c")]


def rows(changes: dict[int, dict] | None = None, leave_out: int | None = None) -> pa.Table:
    """Two partitions, an event every 100 ms each, answered 20 ms later; 300 ms to switch."""
    found = [
        {
            "source_partition": p,
            "source_offset": i,
            "model_version": "a" if at < 10_300 else "b" if at < 12_300 + 100 * p else "c",
            "produced_at": at - 20,
            "predicted_at": at,
        }
        for p in (0, 1)
        for i, at in enumerate(range(9_000, 15_000, 100))
    ]
    for place, change in (changes or {}).items():
        found[place] |= change
    if leave_out is not None:
        del found[leave_out]
    schema = pa.schema(
        [("source_partition", pa.int32()), ("source_offset", pa.int64()),
         ("model_version", pa.utf8()), ("produced_at", STAMP), ("predicted_at", STAMP)]
    )  # fmt: skip
    return pa.Table.from_pylist(found, schema=schema)


def test_a_clean_run_has_its_times() -> None:
    """By hand: 0.3 s and, where partition 1 is later, 0.4 s."""
    found = _figures(rows(), ANNOUNCED, sent=120)
    assert (found["lost"], found["doubled"], found["mixed"], found["swaps"]) == (0, 0, 0, 2)
    assert found["announce_to_all_p50_s"] == pytest.approx(0.35)
    assert found["added_p99_ms"] == 0.0


def test_what_is_wrong_is_counted() -> None:
    """A missing row, a second one, a batch of two versions, and waiting in the second of a swap."""
    assert _figures(rows(leave_out=7), ANNOUNCED, sent=120)["lost"] == 1
    twice = _figures(rows({8: {"source_offset": 7}}), ANNOUNCED, sent=120)
    assert (twice["doubled"], twice["lost"]) == (1, 1)
    mixed = _figures(rows({13: {"predicted_at": 10_200}}), ANNOUNCED, sent=120)
    assert mixed["mixed"] == 1
    slow = {12 + i: {"produced_at": 9_500} for i in range(5)}
    assert _figures(rows(slow), ANNOUNCED, sent=120)["added_p99_ms"] > 50
