"""What rows of evaluations mean: accuracy, AUC, losses, kappa, delays, from their sums.

The views of the store compute the same in SQL.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.sketches import DELAY_BINS, SCORE_BINS, auc, delay_quantile
from schemas.evaluations import EVALUATIONS, SUM

_NAN = float("nan")


def _zeros(length: int) -> npt.NDArray[np.int64]:
    return np.zeros(length, np.int64)


@dataclass(slots=True)
class Measures:
    """The sums of some rows of one subject; what cannot be said is NaN."""

    counts: dict[str, int] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    positives: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(SCORE_BINS))
    negatives: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(SCORE_BINS))
    delays: npt.NDArray[np.int64] = field(default_factory=lambda: _zeros(DELAY_BINS))

    def _per_label(self, value: float) -> float:
        labels = self.counts["labels"]
        return value / labels if labels > 0 else _NAN

    @property
    def accuracy(self) -> float:
        """Share of truths that the score was on the right side of."""
        return self._per_label(self.counts["correct"])

    @property
    def kappa(self) -> float:
        """Cohen's kappa: how much of what chance leaves open was got right."""
        labels, yes, said = (
            self.counts[name] for name in ("labels", "positives", "predicted_positives")
        )
        if labels <= 0:
            return _NAN
        chance = (yes * said + (labels - yes) * (labels - said)) / labels**2
        return (self.accuracy - chance) / (1 - chance) if chance < 1 else _NAN

    @property
    def auc(self) -> tuple[float, float]:
        """Area under the ROC curve, and its largest possible error; see `models.sketches.auc`."""
        return auc(self.positives, self.negatives)

    @property
    def log_loss(self) -> float:
        """Nats per truth."""
        return self._per_label(self.sums["log_loss"])

    @property
    def brier(self) -> float:
        """Mean squared difference of score and truth."""
        return self._per_label(self.sums["squared_error"])

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return self._per_label(self.sums["absolute_error"])

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return math.sqrt(self.brier) if self.counts["labels"] > 0 else _NAN

    @property
    def coverage(self) -> float:
        """Share of the predictions whose truth is known."""
        asked = self.counts["predictions"]
        return self.counts["labels"] / asked if asked else _NAN

    @property
    def estimated_accuracy(self) -> float:
        """What accuracy was expected to be, over all predictions, before any truth came."""
        asked = self.counts["predictions"]
        return self.sums["estimated_correct"] / asked if asked else _NAN

    @property
    def estimate_error(self) -> float:
        """Expected less true accuracy, over the predictions that have both."""
        checked = self.counts["checked"]
        foretold = self.sums["checked_estimated_correct"]
        return (foretold - self.counts["checked_correct"]) / checked if checked else _NAN

    def delay_ms(self, share: float) -> float:
        """The delay that this share of the truths did not exceed; at most 2.2 % off."""
        return delay_quantile(self.delays, share)


_COUNTS = [field.name for field in EVALUATIONS if field.type == pa.int64()]
_SUMS = [field.name for field in EVALUATIONS if field.type == SUM]


def summed(batches: Iterable[pa.RecordBatch]) -> dict[str, Measures]:
    """The sums of all rows about scores, by subject."""
    found: dict[str, Measures] = {}
    exact: dict[tuple[str, str], object] = {}
    for batch in batches:
        for row in batch.to_pylist():
            if row["subject_kind"] != "score":
                continue
            name = row["subject"]
            own = found.setdefault(name, Measures(dict.fromkeys(_COUNTS, 0)))
            for count in _COUNTS:
                own.counts[count] += row[count]
            for total in _SUMS:
                exact[name, total] = exact.get((name, total), 0) + row[total]
            bins = np.array(row["score_bins"], np.int64)
            own.positives[bins] += np.array(row["bin_positives"], np.int64)
            own.negatives[bins] += np.array(row["bin_negatives"], np.int64)
            own.delays[np.array(row["delay_bins"], np.int64)] += np.array(
                row["delay_counts"], np.int64
            )
    for (name, total), value in exact.items():
        found[name].sums[total] = float(value)  # type: ignore[arg-type]  # a Decimal
    return found
