"""Whether a backlog grows or shrinks, and when it will be gone: what scales workers by lag."""

from collections.abc import Mapping
from typing import Any

TREND_S = 1.0
"""Between the two looks at the lag."""


def trend(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> dict[str, Any]:
    """By role: ``lag_per_s`` (negative while it shrinks) and ``drained_in_s``.

    ``drained_in_s`` is 0 without a lag, and None when it does not shrink: then more workers, or
    more partitions, are needed. Both come from two looks ``seconds`` apart, so they are noisy where
    few records come; whoever scales by them should want the same answer several times.
    """
    found = {}
    for role, lag in after.items():
        slope = (lag - before.get(role, lag)) / seconds
        drained = 0.0 if lag == 0 else round(lag / -slope, 1) if slope < 0 else None
        found[role] = {"lag_per_s": round(slope, 1), "drained_in_s": drained}
    return found
