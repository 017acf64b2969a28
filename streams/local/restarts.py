"""When a process that ended is started again: soon at first, later when it keeps ending.

No clock and no process of its own, so that the rule can be tested second by second.
"""

from dataclasses import dataclass

BACKOFF_S_MIN = 0.2
"""The wait after the first end."""

BACKOFF_S_MAX = 30.0
"""The longest wait: a crash loop then costs one start in half a minute."""

STEADY_S = 30.0
"""A process that ran this long is healthy: its next end counts as the first again."""

WORKED_BACKOFF_S_MAX = 2.0
"""The longest wait for one that had done some of its work: it was killed rather than broken, and
what it left waits for it. Not zero, as one that fails on every batch worked before that, too."""


@dataclass(slots=True)
class Restarts:
    """The restart rule for one process; times are seconds on one clock that never goes back."""

    started_s: float
    count: int = 0
    """How often it was started again."""

    due_s: float | None = None
    """When to start it again; None while it runs."""

    _wait_s: float = 0.0

    def ended(self, now_s: float, *, worked: bool = False) -> float:
        """Note that it has ended, and return the wait until the next start in seconds.

        ``worked``: it had done some of its work since it was started.
        """
        steady = now_s - self.started_s >= STEADY_S
        longest = WORKED_BACKOFF_S_MAX if worked else BACKOFF_S_MAX
        doubled = min(longest, self._wait_s * 2)
        self._wait_s = BACKOFF_S_MIN if steady or not self._wait_s else doubled
        self.due_s = now_s + self._wait_s
        return self._wait_s

    def started(self, now_s: float) -> None:
        """Note that it was started again."""
        self.started_s = now_s
        self.due_s = None
        self.count += 1
