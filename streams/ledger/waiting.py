"""Labels that overtook their prediction, or whose prediction will never come."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

WAITING_BYTES = 200
"""What a waiting label takes beside its id."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One label that waits."""

    event_id: str
    value: float
    label_time_ms: int
    revision: int
    entered_ms: int
    """The ledger's clock when it began to wait."""
    gone: bool = False
    """Its prediction has come."""


class WaitingLabels:
    """Waiting labels in the order in which they came; bounded by the ledger, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self._by_id: dict[str, list[Waiting]] = {}
        self._gone = 0
        """Entries of the queue whose prediction has come."""
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._queue) - self._gone

    def __iter__(self) -> Iterator[Waiting]:
        """Oldest first."""
        return (one for one in self._queue if not one.gone)

    def add(self, one: Waiting) -> None:
        """Let it wait."""
        self._queue.append(one)
        self._by_id.setdefault(one.event_id, []).append(one)
        self.num_bytes += _bytes(one)

    def take(self, event_ids: Sequence[str]) -> list[Waiting]:
        """The labels of these events, in the order of the events; they wait no longer."""
        if not self._by_id:
            return []
        pop = self._by_id.pop
        found = [one for event_id in event_ids for one in pop(event_id, ())]
        for one in found:
            one.gone = True
        self._gone += len(found)
        self.num_bytes -= sum(map(_bytes, found))
        if self._gone > len(self._queue) // 2:
            self._queue = deque(self)
            self._gone = 0
        return found

    def expire(self, limit_ms: int) -> int:
        """Give up those that entered at ``limit_ms`` or before; how many."""
        return self._drop(lambda one: one.entered_ms <= limit_ms)

    def evict(self, rows_max: int, bytes_max: int) -> int:
        """Give up the oldest until the rest fits; how many."""
        return self._drop(lambda _: len(self) > rows_max or self.num_bytes > bytes_max)

    def _drop(self, goes: Callable[[Waiting], bool]) -> int:
        count = 0
        queue = self._queue
        while queue:
            one = queue[0]
            if one.gone:
                queue.popleft()
                self._gone -= 1
                continue
            if not goes(one):
                break
            queue.popleft()
            rest = self._by_id[one.event_id]
            del rest[0]  # the oldest of all is the oldest of its id
            if not rest:
                del self._by_id[one.event_id]
            self.num_bytes -= _bytes(one)
            count += 1
        return count


def _bytes(one: Waiting) -> int:
    return WAITING_BYTES + len(one.event_id)
