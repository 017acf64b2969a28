"""Two histograms with fixed bins, which add up over windows, shards and releases.

Scores: `SCORE_BINS` bins of equal width in the logit, so that scores near 0 and 1 are told apart as
well as those in the middle. Delays: 16 bins per doubling. Bins never change: they lie in tables.
"""

import numpy as np
import numpy.typing as npt

SCORE_BINS = 512
_LOGIT_MAX = 8.0
_BINS_PER_LOGIT = SCORE_BINS / (2 * _LOGIT_MAX)

DELAY_BINS_PER_DOUBLING = 16
DELAY_BINS = 1 + 48 * DELAY_BINS_PER_DOUBLING
"""Bin 0 holds delays below 1 ms, negative ones too; the last one all above 8,900 years."""
DELAY_RELATIVE_ERROR_MAX = 2 ** (0.5 / DELAY_BINS_PER_DOUBLING) - 1
"""A quantile is the middle of its bin, so it is at most this far off: 2.2 %."""

Counts = npt.NDArray[np.int64]


def score_bins(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bin of each score; what is at or beyond 0 or 1 falls into the first or the last.

    Shape:
        (B,) finite -> (B,), 0 to `SCORE_BINS` - 1, not decreasing in the score.
    """
    share = np.clip(scores, 1e-9, 1 - 1e-9)
    logit = np.log(share) - np.log1p(-share)
    found = np.floor((logit + _LOGIT_MAX) * _BINS_PER_LOGIT).astype(np.int64)
    return np.clip(found, 0, SCORE_BINS - 1)


def delay_bins(delays_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bin of each delay."""
    octaves = np.log2(np.maximum(delays_ms, 1).astype(np.float64))
    found = 1 + np.floor(octaves * DELAY_BINS_PER_DOUBLING).astype(np.int64)
    return np.where(delays_ms < 1, 0, np.minimum(found, DELAY_BINS - 1))


def auc(positives: Counts, negatives: Counts) -> tuple[float, float]:
    """The area under the ROC curve, and how far at most it is from that of the scores themselves.

    Pairs that share a bin count as ties, one half each; so the error is at most half of their
    share of all pairs. NaN and NaN without a positive or without a negative.

    Shape:
        Counts per score bin, ascending, both equally long.
    """
    pairs = int(positives.sum()) * int(negatives.sum())
    if pairs <= 0:
        return float("nan"), float("nan")
    below = np.cumsum(negatives) - negatives
    tied = float(positives.astype(np.float64) @ negatives)
    return (float(positives.astype(np.float64) @ below) + tied / 2) / pairs, tied / 2 / pairs


def delay_quantile(counts: Counts, share: float) -> float:
    """The delay in ms that ``share`` of the counted delays do not exceed; NaN without any.

    Shape:
        Counts per delay bin, (`DELAY_BINS`,).
    """
    total = int(counts.sum())
    if total <= 0:
        return float("nan")
    rank = max(1, int(np.ceil(share * total)))
    found = int(np.searchsorted(np.cumsum(counts), rank))
    return 0.0 if found == 0 else float(2 ** ((found - 0.5) / DELAY_BINS_PER_DOUBLING))
