"""Evidence that may be looked at after every row, with a bound on false alarms for all looks
together.

A bet against the hypothesis "the mean is at most 0, whatever came before": the capital starts at 1
and is multiplied by ``1 + stake * x`` for every x from -1 to 1. If the hypothesis holds, no stake
chosen from the past makes capital grow on average, so the chance that it ever reaches 1 / alpha is
at most alpha (Ville, 1939). Neither a distribution nor independence is assumed, only the bounds.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
86 (2024), with its stake "aGRAPA"; Ramdas, Gruenwald, Vovk and Shafer, "Game-theoretic statistics
and safe anytime-valid inference", Statistical Science 38 (2023).
"""

import math

import numpy as np
import numpy.typing as npt

STAKE_MAX = 0.5
"""Largest stake: a single row of -1 at most halves the capital."""
LOOK_ROWS = 64
"""Rows between two looks; the stake is chosen anew after each."""
_PRIOR_ROWS = 16
"""Rows of mean 0 and variance 1/4 that every estimate begins with, so that early stakes are low."""


class Evidence:
    """Grows when the mean of what it is shown is above 0."""

    def __init__(self) -> None:
        self._log_capital = 0.0
        self._highest = 0.0
        self._rows = 0
        self._sum = 0.0
        self._squares = 0.25 * _PRIOR_ROWS

    @property
    def rows(self) -> int:
        """Rows it was shown."""
        return self._rows

    @property
    def mean(self) -> float:
        """Of what it was shown; 0 without any."""
        return self._sum / self._rows if self._rows else 0.0

    @property
    def chance(self) -> float:
        """Bound on the chance of evidence this strong, at any time, if the mean is at most 0."""
        return math.exp(-self._highest)

    def observe(self, values: npt.NDArray[np.float64]) -> None:
        """Look at more rows, in their order.

        Raises:
            ValueError: one is not from -1 to 1.
        """
        if len(values) and not (np.abs(values) <= 1.0).all():  # NaN fails, too
            raise ValueError("evidence is only for numbers from -1 to 1")
        for start in range(0, len(values), LOOK_ROWS):
            part = values[start : start + LOOK_ROWS]
            stake = self._stake()
            if stake > 0.0:
                self._log_capital += float(np.log1p(stake * part).sum())
                self._highest = max(self._highest, self._log_capital)
            self._rows += len(part)
            self._sum += float(part.sum())
            self._squares += float(np.square(part).sum())

    def _stake(self) -> float:
        """From rows that came before: mean over variance plus squared mean, within bounds."""
        rows = self._rows + _PRIOR_ROWS
        mean = self._sum / rows
        return min(STAKE_MAX, max(0.0, mean / (self._squares / rows)))
