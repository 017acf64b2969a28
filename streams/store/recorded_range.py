"""The recorded range: rows of one Kafka partition reach ClickHouse exactly once.

The protocol, in prose. Messages of one partition are frozen into a range [first, last]. Before the
insert, the offset commit of the group says so: offset ``first`` with the metadata
``{"p": [first, last], "n": rows}``. The insert carries a deduplication token made of topic, epoch,
partition, first and last. The commit that finishes this range announces the next, so the steady
cost is one commit per range.

A new owner of the partition finds either no pending range, or one. Then it reads exactly that range
again, asks ClickHouse how many of its rows are there, inserts with the same token if any is
missing, and goes on behind it. So:

* a worker that dies before the insert: the range is inserted by the next owner;
* one that dies after the insert, before the commit: the count says so, nothing is inserted;
* one that sleeps, is replaced, wakes up and inserts: ClickHouse drops it by the token, and its
  commit is refused because it carries the generation of the old assignment.

The token alone is not enough: after a restart Kafka regroups messages into other batches. The count
alone is not enough: it does not stop a sleeper. Rows are identified by ``topic_partition`` and
``topic_offset``, the place in Kafka they were landed from.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from schemas.errors import SchemaError, StoreUnavailable
from schemas.undecodable import UNDECODABLE

log = structlog.get_logger()

OFFSET_END = 1 << 63
BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 10.0
IDLE_S = 2.0
"""After this long without rows the pending range is closed, so that a restart finds nothing to
do."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """The range that the offset commit announces.

    Attributes:
        v: Format, 1.
        p: First and last offset of the range.
        n: Rows it holds.
        e: Epoch: changes when a topic is made anew, so that old tokens do not match.
    """

    v: int
    p: tuple[int, int]
    n: int
    e: str


def decode_pending(metadata: str) -> Pending | None:
    """The pending range in a committed offset's metadata; None for empty or foreign text."""
    if not metadata:
        return None
    try:
        found = msgspec.json.decode(metadata, type=Pending)
        if not 0 <= found.p[0] <= found.p[1] < OFFSET_END:
            raise SchemaError(f"p={found.p} is no range")
    except (*UNDECODABLE, UnicodeEncodeError, SchemaError):
        log.warning("commit metadata not understood", metadata=metadata[:200])
        return None
    return found


class Sink(Protocol):
    """Where rows of one partition go. Both calls block and run in a thread."""

    def insert(self, rows: pa.Table, token: str) -> None:
        """Insert all rows or raise `StoreUnavailable`; a repeated token changes nothing."""

    def count(self, first: int, last: int) -> int:
        """How many rows of the range are there."""


@dataclass(slots=True)
class Chunk:
    """What some consecutive messages of the partition become.

    Attributes:
        first_offset: The first of the messages.
        last_offset: The last of them.
        rows: Their rows, each with its ``topic_offset``; None when there are none to land.
        num_bytes: Memory that the rows hold.
        oldest_ms: The broker's time stamp of the oldest message.
    """

    first_offset: int
    last_offset: int
    rows: pa.Table | None
    num_bytes: int = field(init=False)
    oldest_ms: int = 0

    def __post_init__(self) -> None:
        """Measure once: it is asked for several times. ``nbytes`` would take 15 times as long."""
        self.num_bytes = 0 if self.rows is None else int(self.rows.get_total_buffer_size())

    @property
    def num_rows(self) -> int:
        """Rows of this chunk."""
        return 0 if self.rows is None else int(self.rows.num_rows)

    def split_behind(self, offset: int) -> tuple["Chunk", "Chunk"]:
        """The part up to ``offset``, and the rest."""
        first, second = None, None
        if self.rows is not None:
            head = pc.less_equal(self.rows["topic_offset"], offset)
            first, second = self.rows.filter(head), self.rows.filter(pc.invert(head))
        return (
            Chunk(self.first_offset, offset, first, self.oldest_ms),
            Chunk(offset + 1, self.last_offset, second, self.oldest_ms),
        )


Commit = Callable[[int, str], Awaitable[None]]
RunInThread = Callable[..., Awaitable[object]]


@dataclass(eq=False)
class PartitionLander:
    """Lands one partition under one assignment. `add` is fed by the agent, `run` is its task.

    Raises from `run`:
        FencedError: another worker owns the partition; this one stops, having done no harm.
        Exception: anything else means that the process must end.
    """

    name: str
    epoch: str
    commit: Commit
    sink: Sink
    run_in_thread: RunInThread
    pending: Pending | None = None
    rows_min: int = 10_000
    rows_max: int = 100_000
    bytes_max: int = 64 << 20
    age_s_max: float = 1.0
    few_rows_max: int = 0
    few_age_s_max: float = 0.2
    on_landed: Callable[[Sequence[Chunk], float], None] = lambda _chunks, _seconds: None
    on_store: Callable[[str], None] = lambda _trouble: None
    on_room: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    jitter: Random = field(default_factory=Random)
    rows_waiting: int = field(default=0, init=False)
    bytes_waiting: int = field(default=0, init=False)
    _waiting: "deque[Chunk]" = field(default_factory=deque, init=False)
    _oldest: float | None = field(default=None, init=False)
    _added: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _behind: int = field(default=-1, init=False)
    _next_offset: int = field(default=-1, init=False)
    _announced: bool = field(default=False, init=False)

    @property
    def recovering(self) -> bool:
        """Whether the announced range is not here as a whole yet, so that nothing can be landed."""
        return self.pending is not None and self._behind <= self.pending.p[1]

    def add(self, chunk: Chunk, next_offset: int) -> None:
        """Take one chunk; ``next_offset`` is where the partition goes on behind it."""
        self._waiting.append(chunk)
        self.rows_waiting += chunk.num_rows
        self.bytes_waiting += chunk.num_bytes
        self._behind = next_offset
        if self._oldest is None:
            self._oldest = self.clock()
        self._added.set()

    async def run(self) -> None:
        """Recover what is pending, then land range after range until cancelled."""
        if self.pending is not None:
            self._announced = True
            await self._recover(self.pending)
        while True:
            chunks = await self._freeze()
            if chunks is None:
                await self._close()
                continue
            first, last = chunks[0].first_offset, chunks[-1].last_offset
            if rows := sum(chunk.num_rows for chunk in chunks):
                pending = Pending(v=1, p=(first, last), n=rows, e=self.epoch)
                await self.commit(first, msgspec.json.encode(pending).decode())
                await self._insert(chunks, first, last)
            self._announced = True  # the next commit, at the latest the idle one, moves past it
            self._next_offset = last + 1

    # -- ranges

    async def _freeze(self) -> list[Chunk] | None:
        """The next range once it is large or old enough; None when idle with a range to close."""
        while self.rows_waiting < self.rows_min and self.bytes_waiting < self.bytes_max:
            if self._oldest is None:
                timeout = IDLE_S if self._announced else None
                if not await self._wait(timeout):
                    return None
                continue
            few = self.rows_waiting <= self.few_rows_max
            left_s = self._oldest + (self.few_age_s_max if few else self.age_s_max) - self.clock()
            if left_s <= 0:
                break
            await self._wait(left_s)
        taken = [self._waiting.popleft()]
        rows, size = taken[0].num_rows, taken[0].num_bytes
        while self._waiting:
            rows += self._waiting[0].num_rows
            size += self._waiting[0].num_bytes
            if rows > self.rows_max or size > self.bytes_max:
                break
            taken.append(self._waiting.popleft())
        self._took(taken)
        return taken

    def _took(self, chunks: list[Chunk]) -> None:
        self.rows_waiting -= sum(chunk.num_rows for chunk in chunks)
        self.bytes_waiting -= sum(chunk.num_bytes for chunk in chunks)
        self._oldest = self.clock() if self._waiting else None
        self.on_room()

    async def _wait(self, timeout_s: float | None) -> bool:
        """Wait for an added message; False when none came in time."""
        self._added.clear()
        try:
            await asyncio.wait_for(self._added.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _close(self) -> None:
        """Commit that everything up to here is landed, with nothing pending."""
        if self._next_offset >= 0:
            await self.commit(self._next_offset, "")
        self._announced = False

    async def _recover(self, pending: Pending) -> None:
        """Bring the range that the last owner announced to its end."""
        first, last = pending.p
        while self.recovering:
            await self._wait(None)
        chunks: list[Chunk] = []
        while self._waiting and self._waiting[0].first_offset <= last:
            chunk = self._waiting.popleft()
            if chunk.last_offset > last:
                whole, (chunk, rest) = chunk, chunk.split_behind(last)
                self._waiting.appendleft(rest)
                self.bytes_waiting += chunk.num_bytes + rest.num_bytes - whole.num_bytes
            chunks.append(chunk)
        rows = sum(chunk.num_rows for chunk in chunks)
        self._took(chunks)
        found = await self._count(first, last)
        log.info("recovering", partition=self.name, first=first, last=last, rows=rows, found=found)
        if found != pending.n:
            if rows != pending.n:
                raise RuntimeError(
                    f"could not recover {self.name}: range {pending.p} had {pending.n} rows, "
                    f"{found} of them landed, and Kafka now holds only {rows}: retention or "
                    "compaction removed some."
                )
            await self._insert(chunks, first, last, epoch=pending.e)
            found = await self._count(first, last)
        if found != pending.n:
            raise RuntimeError(
                f"could not recover {self.name}: after the insert of range {pending.p} there are "
                f"{found} rows, expected {pending.n}"
            )
        self._next_offset = last + 1

    # -- the store

    async def _insert(self, chunks: list[Chunk], first: int, last: int, *, epoch: str = "") -> None:
        token = f"{self.name}|{epoch or self.epoch}|{first}|{last}"
        table = pa.concat_tables([chunk.rows for chunk in chunks if chunk.rows is not None])
        started = time.perf_counter()
        await self._until_answered(lambda: self.sink.insert(table, token))
        self.on_landed(chunks, time.perf_counter() - started)

    async def _count(self, first: int, last: int) -> int:
        found: list[int] = []
        await self._until_answered(lambda: found.append(self.sink.count(first, last)))
        return found[-1]

    async def _until_answered(self, call: Callable[[], None]) -> None:
        """Run ``call`` in a thread, again with growing pauses while the store is away."""
        pause_s = BACKOFF_S_MIN
        while True:
            try:
                await self.run_in_thread(call)
            except StoreUnavailable as trouble:
                self.on_store(str(trouble))
                log.warning("store away, same range again", partition=self.name, why=str(trouble))
                await asyncio.sleep(pause_s * self.jitter.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, BACKOFF_S_MAX)
            else:
                self.on_store("")
                return
