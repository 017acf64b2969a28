"""A stage that reads, computes and writes exactly once: the loop around `commit.GroupCommit`.

Drains come from the agent, are computed one after the other (small ones on the event loop, larger
or slow ones in one thread), and wait in a short queue. The committer puts everything that is ready
into one transaction; while it commits, the next drains are computed.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from streams.telemetry import Reporter
from streams.tracing import UNTRACED, Step, Tracer, transaction
from streams.transport.at_once import AtOnce
from streams.transport.commit import GroupCommit, Outgoing
from streams.transport.records import Drain, Run
from streams.transport.wire import Membership

log = structlog.get_logger()

READY_DRAINS_MAX = 256
"""Computed drains that may wait for the open transaction. Rows in flight are the tighter bound when
drains are large; tiny ones must not wait for each other here."""
REVOKE_S_MAX = 8.0
"""How long a revocation waits for the open transaction before the process gives up."""
SWITCH_INTERVAL_FEW_S = 0.0005
SWITCH_INTERVAL_MANY_S = 0.005
"""How long a thread may hold the interpreter when another wants it. With few events the event loop
should not wait for a model that is being loaded or a shadow that computes. With many, each
hand-over only costs: 6.9 to 8.0 us CPU per event with 5 ms, 8.5 to 8.8 with 0.5."""
INLINE_S_MAX = 0.05
"""When a drain took longer, the next is not computed on the event loop, however few its events:
meanwhile nobody tells the group that this worker is alive."""
EXIT_CRASH = 70
"""EX_SOFTWARE of sysexits.h: the worker ended itself; whoever watches it starts it again."""

Compute = Callable[[list[Run]], Sequence[Any]]
"""Runs of one drain to items: `Outgoing`, or what `Finish` makes one of."""
Finish = Callable[[list[Any]], list[Outgoing]]
"""The items of one transaction, drain after drain, to its messages."""


def crash(what: str, error: BaseException) -> None:
    """End the process at once, as ``kill -9`` would: crash-only is what recovery is tested for."""
    log.error("worker ends itself", what=what, error=repr(error), exc_info=error)
    os._exit(EXIT_CRASH)


@dataclass(slots=True)
class _Ready:
    drain: Drain
    items: list[Any]
    offsets: dict[TP, int]
    sent: list[Any]
    """Futures of what left at once: the offsets must not move before the broker has it."""
    trace: Step | None


@dataclass(eq=False)
class TransactionalStage:
    """Owns the offsets of its topics: they move only inside transactions.

    Args of the constructor:
        commit: The worker's transactional producer.
        compute: Turns the runs of one drain into items; runs in a thread when the drain is large,
            and one call at a time.
        finish: Turns the items of one transaction into messages; on the event loop.
        at_once: Sends messages to the topics ``at_once_topics`` before the transaction, at least
            once. None: everything is in the transaction.
        gather_ms: How long a transaction may wait for more drains once one is ready. Nobody waits
            for it when answers leave at once, and few large ones cost less than many.
        transaction_rows_max: Rows after which a transaction is closed although more are ready.
        inline_rows_max: Drains up to this size are computed on the event loop, while the model is
            fast enough for that (`INLINE_S_MAX`).
        on_failure: Called with what failed; must not return. `crash` unless a test says otherwise.
        tracer: Traces a share of the drains.
    """

    commit: GroupCommit
    compute: Compute
    reporter: Reporter
    transaction_rows_max: int = 32_768
    inline_rows_max: int = 256
    finish: Finish = list
    at_once: AtOnce | None = None
    at_once_topics: frozenset[str] = frozenset()
    gather_ms: int = 0
    clock: Callable[[], float] = time.time
    on_failure: Callable[[str, BaseException], None] = crash
    tracer: Tracer = UNTRACED
    _membership: Membership | None = field(default=None, init=False)
    _positions: dict[TP, int] = field(default_factory=dict, init=False)
    _ready: "asyncio.Queue[_Ready]" = field(init=False)
    _committing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _thread: ThreadPoolExecutor = field(init=False)
    _consumer: Any = field(default=None, init=False)
    _computed_s: float = field(default=0.0, init=False)
    """How long the last drain took."""

    def __post_init__(self) -> None:
        """Make the queue and the one compute thread."""
        self._ready = asyncio.Queue(READY_DRAINS_MAX)
        self._thread = ThreadPoolExecutor(1, "compute")

    # -- what the consumer tells its owner

    def assigned(self, membership: Membership) -> None:
        """Remember under which generation the next drains are fetched."""
        self._membership = membership
        self._positions.clear()
        log.info("assigned", generation=membership.generation, group=membership.group)

    def settled(self, tp: TP, committed: OffsetAndMetadata) -> None:
        """``tp`` starts at its stable committed offset."""
        self._positions[tp] = max(committed.offset, 0)
        self.reporter.change("running")

    def ahead(self) -> set[TP]:
        """None: the topics do not depend on each other."""
        return set()

    async def revoked(self, tps: set[TP]) -> None:
        """Let the open transaction end, and forget everything that is not in it."""
        self._membership = None
        try:
            async with asyncio.timeout(REVOKE_S_MAX), self._committing:
                while not self._ready.empty():
                    self._ready.get_nowait().drain.acknowledge(self._consumer)
        except TimeoutError as error:
            self.on_failure("a transaction did not end before a revocation", error)
        log.info("revoked", partitions=len(tps))

    # -- the work

    async def take(self, drain: Drain, consumer: Any) -> None:
        """Compute one drain and queue it for the next transaction."""
        self._consumer = consumer
        membership = self._membership
        if membership is None or drain.generation != membership.generation:
            drain.acknowledge(consumer)
            return
        runs = [run for run in drain if self._continues(run)]
        began_s = time.perf_counter()
        trace = self.tracer.current = self._begun(drain)
        try:
            if len(drain) <= self.inline_rows_max and self._computed_s <= INLINE_S_MAX:
                sys.setswitchinterval(SWITCH_INTERVAL_FEW_S)
                items = list(self.compute(runs))
            else:
                sys.setswitchinterval(SWITCH_INTERVAL_MANY_S)
                loop = asyncio.get_running_loop()
                items = list(await loop.run_in_executor(self._thread, self.compute, runs))
            self._computed_s = time.perf_counter() - began_s
            sent = await self._send_at_once(items)
        except Exception as error:
            self.on_failure("compute", error)
            raise
        finally:
            self.tracer.current = None
        self.reporter.computed(rows=len(drain), num_bytes=drain.num_bytes, began_s=began_s)
        offsets = {run.tp: run.next_offset for run in runs}
        await self._ready.put(_Ready(drain, items, offsets, sent, trace))

    def _begun(self, drain: Drain) -> Step | None:
        trace = self.tracer.begin(drain.asked_ns, rows=len(drain), partitions=len(drain.runs))
        if trace is not None:
            trace.steps.append(Step("fetch", drain.asked_ns, drain.fetched_ns))
        return trace

    async def _send_at_once(self, items: list[Any]) -> list[Any]:
        """Send what does not wait for the transaction, and take it out of ``items``."""
        if self.at_once is None:
            return []
        now: list[Outgoing] = []
        rest: list[Any] = []
        for item in items:
            at_once = isinstance(item, Outgoing) and item.topic in self.at_once_topics
            (now if at_once else rest).append(item)
        items[:] = rest
        return await self.at_once.send(now, timestamp_ms=int(self.clock() * 1000))

    def _continues(self, run: Run) -> bool:
        """Whether ``run`` lies past everything taken before; what was taken is never taken
        twice.
        """
        position = self._positions.get(run.tp)
        if position is None or run.first_offset < position:
            log.warning(
                "run dropped, it was taken before",
                topic=run.tp.topic,
                partition=run.tp.partition,
                offset_first=run.first_offset,
                position=position,
            )
            return False
        self._positions[run.tp] = run.next_offset
        return True

    async def commit_forever(self) -> None:
        """The committer: everything that is ready goes into one transaction, again and again."""
        while True:
            batch = [await self._ready.get()]
            if self.gather_ms:
                await self._gather(batch)
            async with self._committing:
                rows = sum(len(item.drain) for item in batch)
                while not self._ready.empty() and rows < self.transaction_rows_max:
                    batch.append(self._ready.get_nowait())
                    rows += len(batch[-1].drain)
                membership = self._membership
                current = [
                    item
                    for item in batch
                    if membership is not None and item.drain.generation == membership.generation
                ]
                if membership is not None and current:
                    await self._commit(current, membership)
            for item in batch:
                item.drain.acknowledge(self._consumer)

    async def _gather(self, batch: list[_Ready]) -> None:
        """Add what becomes ready within `gather_ms`, up to the rows of one transaction."""
        rows = len(batch[0].drain)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.gather_ms / 1000):
                while rows < self.transaction_rows_max:
                    batch.append(await self._ready.get())
                    rows += len(batch[-1].drain)

    async def _commit(self, batch: list[_Ready], membership: Membership) -> None:
        began_s, began_ns = time.perf_counter(), time.time_ns()
        offsets = {tp: offset for item in batch for tp, offset in item.offsets.items()}
        if not offsets:
            return
        try:
            for item in batch:
                for future in item.sent:
                    await future
            await self.commit.send(
                self.finish([part for item in batch for part in item.items]),
                offsets,
                membership=membership,
                timestamp_ms=int(self.clock() * 1000),
            )
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.on_failure("transaction", error)
            raise
        self.reporter.committed(
            rows=sum(len(item.drain) for item in batch),
            sent_bytes=self.commit.sent_bytes + (self.at_once.sent_bytes if self.at_once else 0),
            began_s=began_s,
            oldest_ms=min(
                (oldest for item in batch if (oldest := item.drain.oldest_ms) is not None),
                default=None,
            ),
        )
        for trace in (item.trace for item in batch if item.trace is not None):
            trace.steps.append(transaction(began_ns, self.commit.produced_ns, time.time_ns()))
            self.tracer.end(trace)
