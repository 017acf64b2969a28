"""ADWIN: a window that keeps what comes from the present mean and drops what came before.

Bifet and Gavalda, Learning from time-changing data with adaptive windowing, SDM 2007, in the form
of River's (bound with the window's variance, buckets of doubling size). It is made anew because the
state must be written as plain numbers, the same bytes for the same state; River's can only be
pickled. A test holds it to River's, detection by detection.
"""

import math
from typing import Final

_BUCKETS_MAX: Final = 5
CLOCK: Final = 32
"""Values between two looks for a cut."""
_WINDOW_MIN: Final = 5
_GRACE: Final = 10

Cut = tuple[float, float, float, int, int]
"""By how much the means may differ by chance, mean before, mean since, values of each."""


class Adwin:
    """Finds changes of the mean of values in [0, 1].

    While the mean stays, a look finds a change with a probability of at most about ``delta``.
    """

    def __init__(self, delta: float) -> None:
        self._delta = delta
        # Level k holds sums of 2**k values and their squared deviations, the oldest first.
        self._levels: list[list[tuple[float, float]]] = [[]]
        self._width = 0
        self._total = 0.0
        self._deviation = 0.0
        self._seen = 0

    @property
    def width(self) -> int:
        """Values in the window."""
        return self._width

    @property
    def mean(self) -> float:
        """Of the window; 0 while it is empty."""
        return self._total / self._width if self._width else 0.0

    def update(self, value: float) -> Cut | None:
        """Take one value; the largest change that was cut off, if any was."""
        if self._width:
            excess = value - self._total / self._width
            self._deviation += self._width * excess * excess / (self._width + 1)
        self._width += 1
        self._total += value
        self._levels[0].append((value, 0.0))
        self._compress()
        self._seen += 1
        if self._seen % CLOCK or self._width <= _GRACE:
            return None
        first: Cut | None = None
        while (cut := self._cut()) is not None:
            first = first or cut
            self._drop_oldest()
        return first

    def _compress(self) -> None:
        level = 0
        while len(self._levels[level]) > _BUCKETS_MAX:
            (total_a, deviation_a), (total_b, deviation_b) = self._levels[level][:2]
            del self._levels[level][:2]
            size = 1 << level
            excess = (total_a - total_b) / size
            if level + 1 == len(self._levels):
                self._levels.append([])
            merged = deviation_a + deviation_b + size / 2 * excess * excess
            self._levels[level + 1].append((total_a + total_b, merged))
            level += 1

    def _cut(self) -> Cut | None:
        """The oldest place at which the means of both sides differ by more than chance."""
        log_term = math.log(2.0 * math.log(self._width) / self._delta)
        spread = 2.0 * self._deviation / self._width * log_term
        before, total = 0, 0.0
        for level in range(len(self._levels) - 1, -1, -1):
            for bucket, _deviation in self._levels[level]:
                before += 1 << level
                total += bucket
                after = self._width - before
                if before <= _WINDOW_MIN or after <= _WINDOW_MIN:
                    continue
                size = 1.0 / (before - _WINDOW_MIN + 1) + 1.0 / (after - _WINDOW_MIN + 1)
                mean, since = total / before, (self._total - total) / after
                bound = math.sqrt(spread * size) + 2.0 / 3.0 * log_term * size
                if abs(mean - since) > bound:
                    return bound, mean, since, before, after
        return None

    def _drop_oldest(self) -> None:
        level = len(self._levels) - 1
        size = 1 << level
        total, deviation = self._levels[level].pop(0)
        self._width -= size
        self._total -= total
        excess = total / size - self._total / self._width
        lost = deviation + size * self._width * excess * excess / (size + self._width)
        self._deviation = max(0.0, self._deviation - lost)
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()

    def content(self) -> list[float]:
        """The state as numbers, in one canonical form."""
        found = [self._width, self._total, self._deviation, self._seen, len(self._levels)]
        for level in self._levels:
            found.append(len(level))
            found += [number for bucket in level for number in bucket]
        return [float(number) for number in found]

    def load(self, content: list[float]) -> None:
        """Continue from ``content``."""
        width, self._total, self._deviation, seen, levels = content[:5]
        self._width, self._seen, self._levels = int(width), int(seen), []
        place = 5
        for _ in range(int(levels)):
            end = place + 1 + 2 * int(content[place])
            numbers = content[place + 1 : end]
            self._levels.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
            place = end
