"""The population stability index of a feature: is what comes now distributed as what came before?

``PSI = sum((now - then) * ln(now / then))`` over ten bins of the reference. While nothing changes
it is distributed about as ``(1/rows_now + 1/rows_then) * chi2(bins - 1)`` (Yurdakul, 2018), which
turns a budget of false alarms into a threshold. Below `STABILITY_FLOOR` nothing is an alarm,
however certain: with many rows a shift becomes certain long before it matters.
"""

from collections import Counter
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

STABILITY_FLOOR: Final = 0.1
"""The usual reading: below 0.1 stable, above 0.25 changed."""
BINS: Final = 10

Column = npt.NDArray[np.float64] | list[str]


def priorities(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A number per key that looks random and is always the same: the sample is those with the
    smallest ones. (splitmix64, Steele et al., 2014.)
    """
    mixed = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def stability(then: Column, now: Column) -> tuple[float, int]:
    """The index of two samples of one feature, and the number of bins it was taken over.

    Numbers are put into tenths of ``then``, words into its nine most frequent ones and the rest. A
    half is added to each count, so that an empty bin is no infinity. What is no number is left out.
    """
    if isinstance(then, list):
        counts = Counter(then)
        words = [word for word, _ in sorted(counts.items(), key=lambda w: (-w[1], w[0]))]
        places = {word: place for place, word in enumerate(words[: BINS - 1])}
        size = len(places) + 1
        before = np.array([places.get(word, size - 1) for word in then], np.int64)
        after = np.array([places.get(word, size - 1) for word in now], np.int64)
    else:
        numbers = [np.asarray(sample, np.float64) for sample in (then, now)]
        numbers = [sample[np.isfinite(sample)] for sample in numbers]
        tenths = np.arange(1, BINS) / BINS
        edges = np.unique(np.quantile(numbers[0], tenths)) if len(numbers[0]) else np.empty(0)
        size = len(edges) + 1
        before, after = (np.searchsorted(edges, sample, side="left") for sample in numbers)
    shares = [
        (np.bincount(sample, minlength=size) + 0.5) / (len(sample) + size / 2)
        for sample in (before, after)
    ]
    ratio = np.log(shares[1] / shares[0])
    return float(((shares[1] - shares[0]) * ratio).sum()), size


def threshold(rows_then: int, rows_now: int, bins: int, probability: float) -> float:
    """What the index passes with this probability although nothing changed; `STABILITY_FLOOR` if
    that is more.
    """
    # Chi-square's quantile by Wilson and Hilferty (1931): with ten bins at most 2 % too high down
    # to one in 100,000, with three 7 %.
    freedom = max(1, bins - 1)
    unit = 2.0 / (9.0 * freedom)
    normal = NormalDist().inv_cdf(1.0 - min(0.5, max(1e-15, probability)))
    quantile = freedom * (1.0 - unit + normal * unit**0.5) ** 3
    return max(STABILITY_FLOOR, float((1.0 / rows_then + 1.0 / rows_now) * quantile))
