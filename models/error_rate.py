"""Answers that became wrong more often: the Shiryaev-Roberts procedure, with a budget.

After each answer the statistic becomes ``R = (1 + R) * (probability of this answer if errors are
more frequent / if they are as frequent as before)``. While they are as before, R grows by one per
answer on average and no faster, so an alarm at R >= A comes no more often than once in A answers
(Roberts, Technometrics 1966; Pollak, Annals of Statistics 1985; exact, not asymptotic). How much
more frequent is not known, so R is the mean of four, for which the same holds.

How often an answer is wrong depends on how sure the score was. So that is measured, and judged, by
how far the score is from undecided: an error where the model was sure says much more than one where
it was not. On the abrupt change of SEA this halves the delay. The measurement is of the stream
itself, old answers fade, and it is taken half a standard error too high: what it is too low by
would be paid for in false alarms.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

REFERENCE_MIN: Final = 300
"""Answers before the first verdict."""
_HALF_LIFE: Final = 10_000.0
_FADING: Final = 0.5 ** (1.0 / _HALF_LIFE)
_ODDS: Final = (2.0, 4.0, 8.0, 16.0)
"""How many times the normal odds of an error the raised ones are."""
_BLOCK: Final = 32
"""Answers between two measurements of what is normal."""
_MARGIN_ERRORS: Final = 0.5
_RATE_MAX: Final = 0.9
_EDGES: Final = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
_STRATA: Final = len(_EDGES) + 1

Rise = tuple[float, float, float, int, int]
"""Statistic, error rate before, error rate since, and how many answers each comes from."""


def strata(scores: npt.NDArray[np.float64]) -> list[int]:
    """How sure each score is, as a number from 0 (undecided) to 9."""
    share = np.clip(scores, 1e-9, 1 - 1e-9)
    found: list[int] = np.searchsorted(
        _EDGES, np.abs(np.log(share) - np.log1p(-share)), side="right"
    ).tolist()
    return found


class ErrorRate:
    """Finds that answers are wrong more often. At most one false alarm in ``every`` answers."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._answers = 0
        self._weights = [0.0] * _STRATA
        self._errors = [0.0] * _STRATA
        self._statistics = [0.0] * len(_ODDS)
        self._gains = [(1.0, 1.0)] * (_STRATA * len(_ODDS))
        self._sum = 0.0
        self._since = 0
        self._errors_since = 0

    def update(self, *, wrong: bool, stratum: int) -> Rise | None:
        """Take one answer; the rise, if it is one too many."""
        if self._answers % _BLOCK == 0:
            self._measure()
        self._answers += 1
        risen = self._judge(wrong, stratum) if self._answers > REFERENCE_MIN else None
        self._weights[stratum] += 1.0
        self._errors[stratum] += wrong
        return risen

    def _measure(self) -> None:
        """Let the old answers fade, and settle what the next ones are held against."""
        fading = _FADING ** min(_BLOCK, self._answers)
        self._weights = [weight * fading for weight in self._weights]
        self._errors = [errors * fading for errors in self._errors]
        self._gains = []
        for weight, errors in zip(self._weights, self._errors, strict=True):
            rate = (errors + 0.5) / (weight + 1.0)
            margin = _MARGIN_ERRORS * math.sqrt(rate * (1.0 - rate) / (weight + 1.0))
            normal = min(rate + margin, _RATE_MAX)
            for odds in _ODDS:
                raised = odds * normal / (1.0 - normal + odds * normal)
                self._gains.append(((1.0 - raised) / (1.0 - normal), raised / normal))

    def _judge(self, wrong: bool, stratum: int) -> Rise | None:
        statistics, gains = self._statistics, self._gains
        first = stratum * len(_ODDS)
        for i in range(len(_ODDS)):
            statistics[i] = (1.0 + statistics[i]) * gains[first + i][wrong]
        # One of them as a cumulative sum: it is zero as long as nothing speaks for a change, so it
        # tells since when something does.
        self._sum += math.log(gains[first + 1][wrong])
        self._since += 1
        self._errors_since += wrong
        if self._sum <= 0.0:
            self._sum, self._since, self._errors_since = 0.0, 0, 0
        statistic = sum(statistics) / len(statistics)
        if statistic < self._every:
            return None
        since = max(1, self._since)
        weight = max(1.0, sum(self._weights) - since)
        before = max(0.0, sum(self._errors) - self._errors_since) / weight
        return statistic, before, self._errors_since / since, round(weight), since

    def content(self) -> list[float]:
        """The state as numbers, in one canonical form."""
        gains = [number for pair in self._gains for number in pair]
        counts = [float(n) for n in (self._answers, self._since, self._errors_since)]
        return [*counts, self._sum, *self._weights, *self._errors, *self._statistics, *gains]

    def load(self, content: list[float]) -> None:
        """Continue from ``content``."""
        answers, since, errors_since, self._sum = content[:4]
        self._answers, self._since = int(answers), int(since)
        self._errors_since = int(errors_since)
        parts = content[4:]
        self._weights, parts = parts[:_STRATA], parts[_STRATA:]
        self._errors, parts = parts[:_STRATA], parts[_STRATA:]
        self._statistics, parts = parts[: len(_ODDS)], parts[len(_ODDS) :]
        self._gains = list(zip(parts[::2], parts[1::2], strict=True))
