"""Faust's consumer, handing out drains and keeping the book of what is in flight.

The commit protocol, in prose. Every drain handed to an agent is entered in the book of each of its
partitions, in fetch order. For a topic that Faust commits, the committed offset is the end of the
longest *prefix* of acknowledged entries: a later drain that finishes first moves nothing. A topic
with an owner (the scorer's transactions, the lander's recorded ranges) is never committed by Faust;
the owner is told its membership at assignment, receives the stable committed offset of each
partition before its first record, and is asked to finish or forget at revocation.
"""

import asyncio
import contextlib
import gc
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ack_lock
from mode.services import WaitResults

from streams.transport.fetch import ConsumerThread, FetchOptions
from streams.transport.records import Drain, DrainMessage, Run
from streams.transport.wire import Membership

log = structlog.get_logger()

ROW_BYTES = 1024
"""A record larger than this counts as several rows in flight: so rows bound memory, too."""
POLL_S = 0.02
"""How long a fetch may wait while some partitions are held back."""
WAIT_EMPTY_S_MAX = 10.0
"""How long a revocation or a shutdown waits for agents; then their drains are given up."""


class PartitionOwner(Protocol):
    """Who commits the offsets of topics that Faust must leave alone."""

    def assigned(self, membership: Membership) -> None:
        """Partitions are about to be assigned under ``membership``. Must not wait."""

    def settled(self, tp: TP, committed: OffsetAndMetadata) -> None:
        """``tp`` starts at ``committed`` (offset -1: never committed). Must not wait."""

    def ahead(self) -> set[TP]:
        """Partitions that are not to be fetched for now: others must catch up with them."""

    async def revoked(self, tps: set[TP]) -> None:
        """``tps`` are going away: finish what is half done within seconds, forget the rest."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One drain in the book. It does not hold the drain: a drain that Faust drops is collected."""

    rows: int
    acknowledged: bool = False


class Consumer(driver.Consumer):
    """One worker's consumer. Settings that Faust cannot carry are class attributes, see
    `driver`.
    """

    options: FetchOptions = FetchOptions()
    batch_topics: Mapping[str, bool]
    """Batch topics by name; the value says whether headers are wanted."""
    owned_topics: frozenset[str] = frozenset()
    owner: PartitionOwner | None = None
    in_flight_rows_max: int = 98_304
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._in_flight: defaultdict[TP, deque[tuple[_Entry, int]]] = defaultdict(deque)
        self._open: set[_Entry] = set()
        self._rows_in_flight = 0
        self._acknowledged = asyncio.Event()
        self._unsettled: set[TP] = set()
        self._assignments = self._sought = 0
        self._revoking = False
        self._told_unstable = False
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon)

    # -- fetching

    def rows_wanted(self) -> int:
        """How many more rows may be in flight."""
        return max(0, self.in_flight_rows_max - self._rows_in_flight)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP]]:
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        self.not_waiting_next_records.set()
        if self._unsettled and self._sought == self._assignments:
            await self._settle()
        active = self._get_active_partitions()
        full = self.rows_wanted() == 0
        ahead = set() if self.owner is None else self.owner.ahead()
        if full or ahead or self._unsettled:
            held = {tp for tp in active if tp.topic in self.batch_topics and full}
            active = active - held - ahead - self._unsettled
            timeout = min(timeout, POLL_S)
        if not active:
            self._acknowledged.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._acknowledged.wait(), timeout)
            return {}, active
        return await self._getmany(active_partitions=active, timeout=timeout), active

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield one message per drain, then ordinary messages of ordinary topics."""
        asked_ns = time.time_ns()
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if not records or self.should_stop:
            return
        if not self.flow_active:
            try:
                await self._go_back()
            except Exception as error:
                self.log.warning("seek while the flow is stopped failed: %r", error)
            return
        runs = []
        for tp in [tp for tp in records if tp.topic in self.batch_topics]:
            run: Run = records.pop(tp)
            read = self._read_offset[run.tp]
            # A fetch that began before a rebalance can end after it, with records of partitions
            # that have not settled; settling seeks, so they will come again.
            if run.tp not in self._unsettled and (read is None or run.last_offset >= read):
                runs.append(run)
        for tp in records:
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
        if runs:
            yield self._hand_out(runs, generation, asked_ns)
        for tp, record in self.scheduler.iterate(records):
            if not self.flow_active or self.app.consumer_generation_id != generation:
                break
            if tp in active or tp in self._buffered_partitions:
                yield tp, self._to_message(tp, record)

    def backlog(self, tp: TP) -> int | None:
        """See `ConsumerThread.backlog`."""
        return self._thread.backlog(tp)

    def failure(self) -> BaseException | None:
        """See `ConsumerThread.failure`."""
        return self._thread.failure()

    def _hand_out(
        self, runs: list[Run], generation: int, asked_ns: int = 0
    ) -> tuple[TP, DrainMessage]:
        drain = Drain(runs, generation, _size(runs), asked_ns, time.time_ns())
        # A record larger than `ROW_BYTES` counts as several.
        first, rows = runs[0], max(len(drain), drain.num_bytes // ROW_BYTES)
        message = DrainMessage(
            first.tp.topic,
            first.tp.partition,
            first.last_offset,
            first.timestamps_ms[-1] / 1000.0,
            0,
            None,
            None,
            cast("bytes", drain),  # Faust carries the value through untouched
            None,
            0,
            0,
            first.tp,
            generation_id=generation,
        )
        entry = _Entry(rows)
        message.on_acked = lambda: self._release(entry)
        drain.message = message
        self._open.add(entry)
        self._rows_in_flight += rows
        for run in runs:
            self._in_flight[run.tp].append((entry, run.next_offset))
            # Equal to the message's offset, so Faust's own loop sees neither a gap nor a repeat.
            self._read_offset[run.tp] = run.last_offset
        return first.tp, message

    def _release(self, entry: _Entry) -> None:
        entry.acknowledged = True
        if entry in self._open:
            self._open.remove(entry)
            self._rows_in_flight -= entry.rows
        self._acknowledged.set()

    def _forget_all(self) -> None:
        """Everything handed out so far belongs to an old position: it will be fetched again."""
        self._in_flight.clear()
        self._open.clear()
        self._rows_in_flight = 0
        self._acknowledged.set()

    # -- committing

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in self.batch_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        for tp, book in list(self._in_flight.items()):
            wanted = topics is None or tp in topics or tp.topic in topics
            if book and book[0][0].acknowledged and tp not in self._acked and wanted:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic not in self.batch_topics:
            offset: int | None = super()._new_offset(tp)
            return offset
        last: int | None = None
        with ack_lock:
            book = self._in_flight[tp]
            while book and book[0][0].acknowledged:
                last = book.popleft()[1]
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)
        return None if tp.topic in self.owned_topics else last

    # -- positions and rebalances

    async def perform_seek(self) -> None:
        """Go back to the committed offsets; owned partitions settle before their first record.

        Faust calls it once after each assignment, maybe while the next one is under way.
        """
        seeking = self._assignments
        await self._go_back()
        self._sought = seeking

    async def _go_back(self) -> None:
        if self._revoking:
            return  # getmany() seeks while the flow is stopped; work in hand must not be forgotten
        self._forget_all()
        await super().perform_seek()
        self._unsettled = {tp for tp in self.assignment() if tp.topic in self.owned_topics}

    async def seek(self, partition: TP, offset: int) -> None:
        """Go on at ``offset``; what was fetched before it is forgotten, not committed."""
        self._in_flight.pop(partition, None)
        await super().seek(partition, offset)

    async def _settle(self) -> None:
        """Ask once for the stable offsets of unsettled partitions, and start those that have one.

        While it waits, partitions may be revoked and others assigned: what was asked under the old
        assignment says nothing about the new one, which has a set of its own.
        """
        waiting = self._unsettled & self.assignment()
        self._unsettled = waiting
        if not waiting:
            return
        try:
            stable = await self._thread.call_thread(self._thread.stable_offsets, list(waiting))
        except (KafkaError, TimeoutError) as error:
            self.log.warning("stable offsets not known yet: %r", error)
            await asyncio.sleep(0.1)
            return
        if len(stable) < len(waiting) and not self._told_unstable:
            self._told_unstable = True
            log.info("waiting for the end of a transaction", partitions=len(waiting) - len(stable))
        for tp, committed in stable.items():
            try:
                if tp in waiting:
                    await self._thread.call_thread(self._thread.seek_to, tp, committed.offset)
            except IllegalStateError:  # the group takes it away, and we have not been told yet
                await asyncio.sleep(0.05)
                continue
            if self._unsettled is not waiting or tp not in waiting:
                continue
            self._read_offset[tp] = committed.offset if committed.offset > 0 else None
            self._unsettled.discard(tp)
            if self.owner is not None:
                self.owner.settled(tp, committed)
        if not self._unsettled:
            log.info("settled", partitions=len(stable))
            self._told_unstable = False

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Tell the owner its membership, then let Faust assign and seek.

        Owned partitions settle after that seek, not before. Faust stops the flow when it takes
        partitions away: a worker that had none would read on, and the seek would then make a
        record that is in an open transaction come again.
        """
        self._assignments += 1
        if self.owner is not None:
            self.owner.assigned(await self._thread.call_thread(self._thread.membership))
        self._unsettled = {tp for tp in assigned if tp.topic in self.owned_topics}
        await super().on_partitions_assigned(assigned, generation_id)
        await self._thread.call_thread(self._thread.look_for_topics)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish or forget work in hand and commit, and only then drop the book.

        Stock Faust throws the acknowledgements away before it waits for running work, so everything
        since the last timer commit would be processed twice.
        """
        self._revoking = True
        try:
            self._unsettled -= revoked
            if self.owner is not None:
                owned = {tp for tp in revoked if tp.topic in self.owned_topics}
                await self.owner.revoked(owned)
            await self._on_partitions_revoked(revoked)
            stock, self._on_partitions_revoked = self._on_partitions_revoked, _nothing
            try:
                await super().on_partitions_revoked(revoked)
            finally:
                self._on_partitions_revoked = stock
        finally:
            self._revoking = False
        # Rebalancing is eager: everything is revoked, whatever is assigned next.
        self._forget_all()

    async def sleep(self, n: float) -> None:  # type: ignore[override]
        """As mode's; a turn of the loop, asked for with each drain, without two tasks for it."""
        await (asyncio.sleep(0) if not n else super().sleep(n))

    async def wait_first(self, *waiting: Any, timeout: Any = None) -> Any:
        """As mode's; but a message that nothing holds up is handed over without four tasks."""
        if len(waiting) == 2 and self.flow_active and self.app.flow_control.is_active():
            handing, suspended = waiting
            suspended.close()
            return WaitResults([handing], [await handing], False)
        return await super().wait_first(*waiting, timeout=timeout)

    async def wait_empty(self) -> None:
        """Wait for drains in hand, but not for ever: an agent that hangs must not hang the
        group.
        """
        deadline = time.monotonic() + WAIT_EMPTY_S_MAX
        while not self.should_stop and time.monotonic() < deadline:
            self._clean_unacked_messages()
            if not self._unacked_messages:
                break
            gc.collect()  # drains that Faust dropped from its queues are cycles: message and drain
            await self.commit()
            await self._wait_for_ack(timeout=1)
        if self._unacked_messages:
            self.log.warning("%d messages given up unfinished", len(self._unacked_messages))
            self._unacked_messages.clear()
        await self.commit_and_end_transactions()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave batch topics out of Faust's idle check: it looks at single messages."""
        if tp.topic not in self.batch_topics:
            super().verify_event_path(now, tp)


def _size(runs: Sequence[Run]) -> int:
    """Bytes of all values."""
    return sum(sum(map(len, filter(None, run.values))) for run in runs)


async def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand in for a callback that has already run."""
