"""How often a score of this height came true: what confidence is worth before the truth is known.

The idea is that of confidence-based performance estimation (CBPE, as in NannyML): if a prediction
with calibrated probability c is answered with yes, it is right with probability c. It holds as
long as the relation between score and truth stays as it was; a change of that relation (concept
drift) is exactly what it cannot see, which is why its error is measured once the truth arrives.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from models.sketches import SCORE_BINS, score_bins

_SCORE_BINS_PER_BIN = 8
_BINS: Final = SCORE_BINS // _SCORE_BINS_PER_BIN
_OWN_WEIGHT: Final = 10.0
"""Labels that the score's own word weighs: a bin without labels believes the score."""
_HALF_LIFE_LABELS: Final = 20_000.0


class Calibration:
    """Counts of yes and no per bin of the score, the old ones fading."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, _BINS))

    def probability(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The calibrated probability of yes for each score."""
        bins = score_bins(scores) // _SCORE_BINS_PER_BIN
        positives, total = self._counts[1][bins], self._counts[:, bins].sum(axis=0)
        share = np.clip(scores, 0.0, 1.0)
        calibrated = (positives + _OWN_WEIGHT * share) / (total + _OWN_WEIGHT)
        return np.asarray(calibrated, np.float64)

    def learn(self, scores: npt.NDArray[np.float64], truths: npt.NDArray[np.float64]) -> None:
        """Count these labels."""
        if not len(scores):
            return
        self._counts *= 0.5 ** (len(scores) / _HALF_LIFE_LABELS)
        bins = score_bins(scores) // _SCORE_BINS_PER_BIN
        np.add.at(self._counts, ((truths > 0.5).astype(np.int64), bins), 1.0)

    def content(self) -> bytes:
        """The counts, in one canonical form."""
        return self._counts.tobytes()

    def load(self, content: bytes) -> None:
        """Count on from ``content``.

        Raises:
            ValueError: it is not the counts of a calibration.
        """
        self._counts = np.frombuffer(content).reshape(2, _BINS).copy()
