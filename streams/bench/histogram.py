"""Latencies as counts in fixed logarithmic buckets: two runs can be added and compared."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

BUCKETS_PER_OCTAVE = 4
FIRST_MS = 0.5
OCTAVES = 17
BOUNDS_MS: npt.NDArray[np.float64] = FIRST_MS * 2.0 ** (
    np.arange(BUCKETS_PER_OCTAVE * OCTAVES + 1) / BUCKETS_PER_OCTAVE
)
"""Upper ends of the buckets, 0.5 ms to 65.5 s, each 19 % above the one before."""


def histogram(seconds: npt.NDArray[np.float64]) -> list[list[float]]:
    """``[up to ms, how many]`` of every bucket that holds any; the last one has no upper end."""
    position = np.searchsorted(BOUNDS_MS, seconds * 1000)
    counts = np.bincount(position, minlength=len(BOUNDS_MS) + 1)
    ends = [*BOUNDS_MS.tolist(), float("inf")]
    return [[round(ends[i], 3), int(counts[i])] for i in np.flatnonzero(counts)]


def quantiles(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    """p50, p90, p95, p99, p99.9 and the largest, in milliseconds, from the values themselves."""
    names = ("p50", "p90", "p95", "p99", "p99_9", "max")
    found = np.quantile(seconds, [0.5, 0.9, 0.95, 0.99, 0.999, 1.0]) * 1000
    return {name: round(float(value), 1) for name, value in zip(names, found, strict=True)}


def bars(counted: list[list[float]], *, width: int = 40) -> list[str]:
    """The histogram as lines of text, for a terminal."""
    if not counted:
        return []
    most = max(count for _, count in counted)
    lower = [0.0, *(end for end, _ in counted[:-1])]
    assert all(a < b for a, b in pairwise([end for end, _ in counted]))
    return [
        f"{low:>9.1f} - {high:<9.1f} {count:>8,.0f} " + "#" * round(width * count / most)
        for low, (high, count) in zip(lower, counted, strict=True)
    ]
