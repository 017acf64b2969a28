"""A stage with state: both topics of a partition in, messages out, and a way back after a crash.

The protocol, in prose. Rows of several topics that share a partition number are gathered into a
*turn*. A turn changes the partition's state and yields messages; these, the offsets of all topics
and the text that finds the state again commit in one fenced transaction. The text names a snapshot
and the turns since. A new owner waits until every topic of the partition has settled, loads the
snapshot, reads the logs again from there to the committed offsets, and repeats the recorded turns
without sending anything. Only then come live rows. Rows that arrive meanwhile wait.

The offsets alone would not do: they do not say how two topics were interleaved. The state in memory
may run ahead of the open transaction, because any failure ends the process and the state with it.

A partition with no way back (its snapshot is lost or changed, its record does not fit) is
*isolated*: it stands still, with the reason in the report, and is tried again every `RETRY_S`; the
others go on. Its rows stay in Kafka, so nothing is lost while retention lasts. Not isolated: a turn
that fails. That ends the process, because the state may be ahead of what is committed.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from schemas.errors import SetupError
from streams.telemetry import Reporter
from streams.tracing import UNTRACED, Step, Tracer, transaction
from streams.transport.commit import GroupCommit, Outgoing
from streams.transport.merge import Merge, Taken
from streams.transport.records import Drain, Run
from streams.transport.stage import REVOKE_S_MAX, crash
from streams.transport.wire import Membership

log = structlog.get_logger()

BACKLOG_RECORDS_MAX = 100
"""Records of a topic that are still to be fetched, above which the others wait for it. A worker
that keeps up has fewer: what arrives within one turn."""

RETRY_S = 15.0
"""Until an isolated partition is tried again: somebody may have put its snapshot back."""

Offsets = tuple[int, ...]
"""The next offset of each topic, in the order in which the stage names its topics."""


class State(Protocol):
    """The state of one partition. All calls come one at a time, from a thread."""

    def restore(self, metadata: str) -> tuple[Offsets, Sequence[Offsets]]:
        """Load the snapshot that ``metadata`` names; its offsets, and where each turn since ended.

        Empty text: nothing was ever committed. Raises `SetupError` if there is no way back.
        """

    def turn(self, runs: Sequence[Sequence[Run]]) -> list[Outgoing]:
        """Apply one turn: for each topic its runs, in order of offsets. Deterministic in their
        records; how they are cut into runs must not matter.
        """

    def verify(self) -> None:
        """The recorded turns were applied: raise `SetupError` if the state is not as recorded."""

    def record(self, offsets: Offsets) -> str:
        """What to commit with ``offsets`` after a turn. Writes a snapshot first when one is due."""

    def committed(self) -> None:
        """The last `record` is committed: older snapshots may go."""


@dataclass(slots=True)
class _Part:
    state: State
    merge: Merge
    settled: dict[str, OffsetAndMetadata] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    live: bool = False
    holds: bool = False
    """Some records wait because another topic is behind."""
    isolated: str = ""
    """Why it stands still."""


@dataclass(slots=True)
class _Open:
    """A drain and how many of its runs are not wholly committed yet."""

    drain: Drain
    runs: int


@dataclass(eq=False)
class TurnStage:
    """Owns the offsets of ``topics``: they move only inside transactions, all topics of a
    partition together.

    Args of the constructor:
        topics: Co-partitioned, so that the group gives a partition of all of them to one worker.
        make_state: Makes the empty state of a partition.
        read: Reads ``tp`` from an offset to another again, committed records only.
        turn_ms_max: How long rows are gathered before their turn.
        on_failure: Called with what failed; must not return unless a test says otherwise.
        tracer: Traces a share of the turns.
        retry_s: Until an isolated partition is tried again.
    """

    commit: GroupCommit
    topics: tuple[str, ...]
    make_state: Callable[[int], State]
    read: Callable[[TP, int, int], Awaitable[Run]]
    reporter: Reporter
    turn_ms_max: int = 100
    clock: Callable[[], float] = time.time
    on_failure: Callable[[str, BaseException], None] = crash
    tracer: Tracer = UNTRACED
    retry_s: float = RETRY_S
    _membership: Membership | None = field(default=None, init=False)
    _parts: dict[int, _Part] = field(default_factory=dict, init=False)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set, init=False)
    _work: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _committing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _thread: ThreadPoolExecutor = field(init=False)
    _consumer: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make the one compute thread."""
        self._thread = ThreadPoolExecutor(1, "turns")

    # -- what the consumer tells its owner

    def assigned(self, membership: Membership) -> None:
        """Forget every state: the committed offsets say which ones are ours now, and how far."""
        self._forget()
        self._membership = membership
        log.info("assigned", generation=membership.generation, group=membership.group)

    def settled(self, tp: TP, committed: OffsetAndMetadata) -> None:
        """Begin recovery once every topic of the partition has settled."""
        part = self._parts.get(tp.partition)
        if part is None or tp.topic in part.settled:
            state, merge = self.make_state(tp.partition), Merge(len(self.topics))
            part = self._parts[tp.partition] = _Part(state, merge)
        part.settled[tp.topic] = committed
        part.offsets[tp.topic] = max(committed.offset, 0)
        part.merge.start(self.topics.index(tp.topic), max(committed.offset, 0))
        if len(part.settled) == len(self.topics):
            task = asyncio.create_task(self._recover(tp.partition, part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def revoked(self, tps: set[TP]) -> None:
        """Let the open transaction end, and forget everything that is not in it."""
        self._membership = None
        try:
            async with asyncio.timeout(REVOKE_S_MAX), self._committing:
                self._forget()
        except TimeoutError as error:
            self.on_failure("a transaction did not end before a revocation", error)
        log.info("revoked", partitions=len(tps))

    def _forget(self) -> None:
        for task in self._tasks:
            task.cancel()
        for part in self._parts.values():
            for opened in part.merge.tokens():
                opened.drain.acknowledge(self._consumer)
        self._parts.clear()
        self.reporter.isolated = []

    # -- recovery

    async def _recover(self, partition: int, part: _Part) -> None:
        try:
            while True:
                try:
                    replayed = await self._restore(partition, part)
                    break
                except SetupError as error:
                    part.isolated = str(error)
                    log.warning("partition isolated", partition=partition, why=part.isolated)
                    self._tell()
                await asyncio.sleep(self.retry_s)
                part.state = self.make_state(partition)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.on_failure(f"recovery of partition {partition}", error)
            raise
        if self._parts.get(partition) is part:
            part.live, part.isolated = True, ""
            self._work.set()
            log.info("recovered", partition=partition, replayed=replayed)
            self._tell()

    def _tell(self) -> None:
        """Report what works and what does not, once it is known of every partition."""
        isolated = {number: part for number, part in self._parts.items() if part.isolated}
        self.reporter.isolated = [f"{topic}/{n}" for n in sorted(isolated) for topic in self.topics]
        if all(part.live or part.isolated for part in self._parts.values()):
            why = "; ".join(f"partition {n}: {part.isolated}" for n, part in isolated.items())
            works = len(isolated) < len(self._parts)
            self.reporter.change("running" if works else "waiting", why)

    async def _restore(self, partition: int, part: _Part) -> int:
        """Bring the state to the committed offsets; how many records that took."""
        texts = {committed.metadata for committed in part.settled.values()}
        ends = tuple(max(part.settled[topic].offset, 0) for topic in self.topics)
        if len(texts) != 1 or (texts == {""} and any(ends)):
            raise SetupError(
                f"could not find the state of partition {partition}: offsets={ends} are committed "
                "without one record of it. Something else committed offsets for this group; "
                "start it under another name, or set its offsets back to where its state began."
            )
        loop = asyncio.get_running_loop()
        state, text = part.state, texts.pop()
        base, turns = await loop.run_in_executor(self._thread, state.restore, text)
        if not text:
            return 0
        if (turns[-1] if turns else base) != ends:
            raise SetupError(
                f"could not rebuild partition {partition}: its record ends at "
                f"{turns[-1] if turns else base}, committed is {ends}"
            )
        logs = [
            await self.read(TP(topic, partition), first, end)
            for topic, first, end in zip(self.topics, base, ends, strict=True)
        ]

        def replay() -> None:
            before = base
            for after in turns:
                cuts = zip(logs, before, after, strict=True)
                state.turn([_cut(run, first, end) for run, first, end in cuts])
                before = after
            state.verify()

        await loop.run_in_executor(self._thread, replay)
        return sum(map(len, logs))

    # -- the work

    async def take(self, drain: Drain, consumer: Any) -> None:
        """Queue one drain for the next turns of its partitions."""
        self._consumer = consumer
        self.reporter.counters["received_bytes"] += drain.num_bytes
        membership = self._membership
        opened = _Open(drain, 0)
        if membership is not None and drain.generation == membership.generation:
            for run in drain:
                part = self._parts.get(run.tp.partition)
                # What was taken is never taken twice.
                if part is None or run.first_offset < part.offsets.get(run.tp.topic, 1 << 62):
                    log.warning("run dropped", tp=str(run.tp), offset_first=run.first_offset)
                    continue
                part.offsets[run.tp.topic] = run.next_offset
                part.merge.add(self.topics.index(run.tp.topic), run, opened)
                opened.runs += 1
        if not opened.runs:
            drain.acknowledge(consumer)
        self._work.set()

    async def commit_forever(self) -> None:
        """Gather, compute, commit; again and again, one transaction at a time."""
        while True:
            await self._work.wait()
            await asyncio.sleep(self.turn_ms_max / 1000)
            self._work.clear()
            async with self._committing:
                membership = self._membership
                due = {n: p for n, p in self._parts.items() if p.live and any(p.merge.rows)}
                if membership is None or not due:
                    continue
                taken = {number: self._take(number, part) for number, part in due.items()}
                if any(part.holds for part in due.values()):
                    self._work.set()  # what waits is looked at again, also without a new drain
                taken = {number: found for number, found in taken.items() if any(found)}
                if not taken:
                    continue
                try:
                    await self._turn(taken, membership)
                except asyncio.CancelledError:
                    raise
                except BaseException as error:
                    self.on_failure("turn", error)
                    raise

    def _take(self, number: int, part: _Part) -> list[list[Taken]]:
        """What is due of one partition: all of it, unless one of its topics is behind."""
        behind = [self._behind(TP(topic, number)) for topic in self.topics]
        limits = part.merge.limits(behind)
        if self._consumer.rows_wanted() == 0:  # nothing more could come of the one behind
            limits = [math.inf] * len(limits)
        found = part.merge.take(limits)
        part.holds = any(part.merge.rows)
        return found

    def _behind(self, tp: TP) -> bool:
        backlog = self._consumer.backlog(tp)
        return backlog is None or backlog > BACKLOG_RECORDS_MAX

    def ahead(self) -> set[TP]:
        """Topics of which enough waits, while their partition waits for another topic or for its
        state.
        """
        if self._consumer is None or not self._parts:
            return set()
        rows_max = self._consumer.in_flight_rows_max // (4 * len(self._parts))
        return {
            TP(topic, number)
            for number, part in self._parts.items()
            if part.holds or not part.live
            for topic, rows in zip(self.topics, part.merge.rows, strict=True)
            if rows > rows_max
        }

    async def _turn(
        self, taken: Mapping[int, Sequence[Sequence[Taken]]], membership: Membership
    ) -> None:
        began_s, began_ns = time.perf_counter(), time.time_ns()
        parts = {number: self._parts[number] for number in taken}
        ends = {number: part.merge.offsets for number, part in parts.items()}
        texts: dict[TP, str] = {}
        outgoing: list[Outgoing] = []

        def compute() -> None:
            for number, part in parts.items():
                outgoing.extend(
                    part.state.turn([[one.run for one in found] for found in taken[number]])
                )
                text = part.state.record(ends[number])
                texts.update({TP(topic, number): text for topic in self.topics})

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, compute)
        every = [one for topics in taken.values() for found in topics for one in found]
        rows = sum(len(one.run) for one in every)
        self.reporter.computed(rows=rows, num_bytes=0, began_s=began_s)
        computed_ns = time.time_ns()
        offsets = {
            TP(topic, number): offset
            for number, end in ends.items()
            for topic, offset in zip(self.topics, end, strict=True)
        }
        await self.commit.send(
            outgoing,
            offsets,
            membership=membership,
            timestamp_ms=int(self.clock() * 1000),
            metadata=texts,
        )
        for part in parts.values():
            await loop.run_in_executor(self._thread, part.state.committed)
        self.reporter.committed(
            rows=rows,
            sent_bytes=self.commit.sent_bytes,
            began_s=began_s,
            oldest_ms=min(
                (one.run.timestamps_ms[0] for one in every if len(one.run)), default=None
            ),
        )
        self._trace(began_ns, computed_ns, rows=rows, partitions=len(parts))
        for one in every:
            one.token.runs -= one.last
            if not one.token.runs:
                one.token.drain.acknowledge(self._consumer)

    def _trace(self, began_ns: int, computed_ns: int, *, rows: int, partitions: int) -> None:
        trace = self.tracer.begin(began_ns, rows=rows, partitions=partitions)
        if trace is not None:
            trace.steps.append(Step("compute", began_ns, computed_ns))
            trace.steps.append(transaction(computed_ns, self.commit.produced_ns, time.time_ns()))
            self.tracer.end(trace)


def _cut(run: Run, first: int, end: int) -> list[Run]:
    """The records of ``run`` from offset ``first`` up to, not including, ``end``."""
    kept = [i for i, offset in enumerate(run.offsets) if first <= offset < end]
    if not kept:
        return []
    part = slice(kept[0], kept[-1] + 1)
    return [
        Run(
            run.tp,
            run.keys[part],
            run.values[part],
            run.timestamps_ms[part],
            run.offsets[part],
            end,
        )
    ]
