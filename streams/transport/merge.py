"""Several topics of one partition, taken in about the order of their records' time stamps.

While a worker catches up, the broker hands out one topic after the other. A state that waits for
one topic with what it has of the other would have to hold all of it. So of a topic that is ahead
only what is no newer than the newest record of the one that is behind is taken; the rest waits, and
is not fetched any further (`Merge.ahead`). Topics that are read to their end hold nobody back.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from streams.transport.records import Run


@dataclass(slots=True)
class Taken:
    """A run, or the first part of one.

    Attributes:
        run: The records.
        token: What was given with them.
        last: Nothing of the given run is left.
    """

    run: Run
    token: Any
    last: bool


@dataclass(slots=True)
class _Queue:
    runs: deque[tuple[Run, Any]] = field(default_factory=deque)
    rows: int = 0
    newest_ms: float = -math.inf
    """The newest time stamp of all records that were ever added."""
    done: int = 0
    """The offset behind all that was taken."""


class Merge:
    """What waits of each topic of one partition."""

    def __init__(self, topics: int) -> None:
        self._queues = [_Queue() for _ in range(topics)]

    def start(self, topic: int, offset: int) -> None:
        """``topic`` goes on at ``offset``."""
        self._queues[topic].done = offset

    def add(self, topic: int, run: Run, token: Any) -> None:
        """Let a run wait; runs of a topic are added in the order of their offsets."""
        queue = self._queues[topic]
        queue.runs.append((run, token))
        queue.rows += len(run)
        newest_ms = max(run.timestamps_ms)
        queue.newest_ms = max(queue.newest_ms, newest_ms)

    @property
    def offsets(self) -> tuple[int, ...]:
        """For each topic the offset behind all that was taken."""
        return tuple(queue.done for queue in self._queues)

    @property
    def rows(self) -> tuple[int, ...]:
        """For each topic how many records wait."""
        return tuple(queue.rows for queue in self._queues)

    def tokens(self) -> list[Any]:
        """The tokens of everything that waits."""
        return [token for queue in self._queues for _run, token in queue.runs]

    def limits(self, behind: Sequence[bool]) -> list[float]:
        """Up to which time stamp each topic may be taken: what those that are ``behind`` have."""
        return [
            min(
                (q.newest_ms for j, q in enumerate(self._queues) if j != i and behind[j]),
                default=math.inf,
            )
            for i in range(len(self._queues))
        ]

    def take(self, limits: Sequence[float]) -> list[list[Taken]]:
        """For each topic the records that wait, up to the first that is newer than its limit."""
        return [_take(queue, limit) for queue, limit in zip(self._queues, limits, strict=True)]


def _take(queue: _Queue, limit: float) -> list[Taken]:
    taken = []
    while queue.runs:
        run, token = queue.runs[0]
        count = len(run)
        if max(run.timestamps_ms) > limit:
            count = sum(1 for _ in takewhile(lambda ms: ms <= limit, run.timestamps_ms))
        if count:
            head, rest = (run, None) if count == len(run) else run.split(count)
            taken.append(Taken(head, token, rest is None))
            queue.rows -= count
            queue.done = head.next_offset
            if rest is None:
                queue.runs.popleft()
            else:
                queue.runs[0] = (rest, token)
        if count < len(run):
            break
    return taken
