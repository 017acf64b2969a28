"""What an agent on a batch topic receives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from faust.types import TP, ConsumerMessage


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive records of one partition, as columns.

    Attributes:
        tp: Topic and partition.
        keys: Kafka keys.
        values: Kafka values; None where a record has none.
        timestamps_ms: The broker's time stamps.
        offsets: One per record, ascending; gaps are normal (compaction, transaction markers).
        next_offset: Where the partition goes on: past the last record and past any transaction
            markers and aborted records that followed it. Committing it means this run is done.
        headers: Per record, only if the topic was declared with ``headers=True``.
    """

    tp: TP
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: list[int]
    offsets: Sequence[int]
    next_offset: int
    headers: list[tuple[tuple[str, bytes], ...]] | None = None

    def __len__(self) -> int:
        """Number of records."""
        return len(self.values)

    @property
    def first_offset(self) -> int:
        """Offset of the first record."""
        return self.offsets[0]

    @property
    def last_offset(self) -> int:
        """Offset of the last record."""
        return self.offsets[-1]

    def split(self, count: int) -> tuple["Run", "Run"]:
        """The first ``count`` records, and the rest; both must have some."""
        head, rest = slice(0, count), slice(count, None)
        return (
            self._part(head, self.offsets[count]),
            self._part(rest, self.next_offset),
        )

    def _part(self, part: slice, next_offset: int) -> "Run":
        return Run(
            self.tp,
            self.keys[part],
            self.values[part],
            self.timestamps_ms[part],
            self.offsets[part],
            next_offset,
            None if self.headers is None else self.headers[part],
        )


class DrainMessage(ConsumerMessage):
    """Faust's message around a drain: once acknowledged it lets go of the records."""

    __slots__ = ("_acked", "on_acked")

    _acked: bool
    on_acked: Callable[[], None] | None

    @property
    def acked(self) -> bool:
        """Whether the agent is done with it."""
        return self._acked

    @acked.setter
    def acked(self, value: bool) -> None:
        self._acked = value
        if value:
            done, self.on_acked = self.on_acked, None
            self.value = None
            if done is not None:
                done()


@dataclass(slots=True, eq=False)
class Drain:
    """Everything one turn of the fetch loop yielded, over all partitions of this worker.

    A partition occurs at most once. The agent that receives a drain calls `acknowledge` exactly
    once, when its effects are durable; until then its rows count as in flight, and the worker
    fetches only up to a bound of rows in flight.
    """

    runs: list[Run]
    generation: int
    num_bytes: int = 0
    """Of the values."""
    asked_ns: int = 0
    """When the consumer asked for it, and when it had it: Unix time."""
    fetched_ns: int = 0
    message: DrainMessage = field(init=False, repr=False)

    def __len__(self) -> int:
        """Number of records over all runs."""
        return sum(map(len, self.runs))

    def __iter__(self) -> Iterator[Run]:
        """The runs, one per partition."""
        return iter(self.runs)

    @property
    def oldest_ms(self) -> int | None:
        """The broker's time stamp of the oldest record, as good as runs are in order.

        None without records: a run may hold nothing but the markers of transactions.
        """
        return min((run.timestamps_ms[0] for run in self.runs if len(run)), default=None)

    def acknowledge(self, consumer: Any) -> None:
        """Say that this drain is done; the second time does nothing."""
        if not self.message.acked:
            self.message.ack(consumer)
