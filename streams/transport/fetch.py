"""Faust's consumer "thread", with columns for batch topics and the group requests we need.

It is none: it runs on the worker's own event loop. With few events a thread costs more than the
fetch itself: each drain wakes it and is handed back, and the two wait for each other's interpreter.
With many, the interpreter lets only one of them work anyway. So heartbeats stop while the event
loop stands still: what takes longer than a moment belongs into another thread.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError, KafkaError, for_code
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import maybe_async

from schemas.errors import FencedError, TransientError
from streams.transport import private_names as _checked  # noqa: F401  # fails on a bad upgrade
from streams.transport.take import take_run
from streams.transport.wire import (
    FENCED_CODES,
    METADATA_CHARACTERS_MAX,
    UNSTABLE_OFFSET_COMMIT,
    Membership,
    StableOffsetFetch,
)

COMMIT_RETRIES_MAX = 600
COMMIT_RETRY_S = 0.1
IDLE_WAIT_MS = 100
"""How long a fetch may find nothing while records come rarely: an idle worker costs nothing."""
QUIET_S = 0.1
"""After which the rate is looked at again although nothing came."""
GATHER_ROWS_PER_S_MIN = 300.0
"""Below it a fetch is made for each record: some 1 ms of CPU each, a third of a core at most."""
UNKNOWN_TOPIC_S = 0.5
"""How soon a topic whose partitions are not known is looked up again."""
PACE_S = 0.2
"""The span over which the rate of records is averaged."""


class Pace:
    """Records per second, averaged over about `PACE_S`."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._at_s = 0.0

    def after(self, rows: int, now_s: float) -> float:
        """The rate once ``rows`` more have come at ``now_s``."""
        self._rows = self._rows * math.exp((self._at_s - now_s) / PACE_S) + rows
        self._at_s = now_s
        return self._rows / PACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How one worker fetches.

    Attributes:
        wait_ms_max: How long the broker gathers before it answers.
        bytes_min: It answers at once when it has this much. Gathering in the broker is what makes
            few events as cheap as many: sleeping in the client does not gather, because a
            partition with undrained data is not fetched again.
        gather_rows_per_s_min: Below this rate there is nothing to gather: the broker answers with
            the first record, and after `IDLE_WAIT_MS` if there is none. 0: it always gathers.
        rows_max: Rows in one drain.
        partition_rows_max: Rows of one partition in one drain. A soft limit: a run ends at the
            next boundary of a producer's batch.
        read_committed: Skip records of transactions that were rolled back.
    """

    wait_ms_max: int = 10
    bytes_min: int = 65_536
    gather_rows_per_s_min: float = GATHER_ROWS_PER_S_MIN
    rows_max: int = 32_768
    partition_rows_max: int = 16_384
    read_committed: bool = False


class OnLoop:
    """Where mode wants a thread that runs a service: a task of the loop that starts it."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def start(self) -> None:
        """Begin."""
        self._task = self._service.parent_loop.create_task(self._service._serve())
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Nothing to wait for: the service is told to stop, and says when it did."""

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # mode has told the app
        self._service.set_shutdown()  # or who stops it would wait, should stopping have failed


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """What Faust asks of its consumer thread, on the event loop of the worker."""

    Worker = OnLoop  # type: ignore[assignment]  # all that mode asks of it
    consumer: Any
    """The `streams.transport.consumer.Consumer` that owns it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pace = Pace()
        self._looking: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        super().__init__(*args, **kwargs)

    async def _gather_remaining_tasks(self) -> None:
        """Leave the loop's tasks alone: most are not ours."""

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kw: Any) -> Any:
        """Call ``fun``. Stock mode puts it into a queue of the thread, with two workers."""
        return await maybe_async(fun(*args, **kw))

    async def look_for_topics(self) -> None:
        """Look up the topics that are subscribed to until the partitions of each are known.

        The leader of a group whose look-up failed, because the broker was away for a moment, gives
        the partitions of that topic to nobody, and aiokafka looks again after five minutes. What
        it finds then makes the group assign again.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_for_topics())

    async def _look_for_topics(self) -> None:
        consumer = self._ensure_consumer()
        known = consumer._client.cluster.partitions_for_topic
        while not consumer._closed and not all(map(known, consumer.subscription())):
            await consumer._client.force_metadata_update()
            await asyncio.sleep(UNKNOWN_TOPIC_S)

    async def on_thread_stop(self) -> None:
        """Stop looking, then as Faust does."""
        if self._looking is not None:
            self._looking.cancel()
        await super().on_thread_stop()

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        options: FetchOptions = self.consumer.options
        # Read when start() makes the Fetcher; Faust has no settings for these.
        consumer._fetch_max_wait_ms = options.wait_ms_max
        consumer._fetch_min_bytes = options.bytes_min
        if options.read_committed:
            consumer._isolation_level = "read_committed"
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TP, Any]:
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            try:
                return await self._drain(fetcher, active_partitions, timeout or 0.0, max_records)
            except Exception as error:  # Faust ends the consumer with it
                self._failure = error
                raise

    async def _drain(
        self, fetcher: Any, active: set[TP], timeout_s: float, rows_max: int | None
    ) -> dict[TP, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            if fetcher._subscriptions.reassignment_in_progress:
                await fetcher._subscriptions.wait_for_assignment()
            taken = self._take(fetcher, active, rows_max)
            self._set_pace(fetcher, taken)
            left_s = deadline - time.monotonic()
            if taken or left_s <= 0:
                return taken
            waiter = fetcher._create_fetch_waiter()
            done, pending = await asyncio.wait([waiter], timeout=min(left_s, QUIET_S))
            if not done and left_s > QUIET_S and not fetcher._closed:
                waiter.cancel()
                continue
            if not done or fetcher._closed:
                for future in pending:
                    future.cancel()
                return {}
            waiter.result()

    def _set_pace(self, fetcher: Any, taken: Mapping[TP, Any]) -> None:
        """Let the broker gather while records come often, and answer at once while they do not.

        The next request reads these two attributes; it is made after this turn of the loop.
        """
        options: FetchOptions = self.consumer.options
        rate = self._pace.after(sum(map(len, taken.values())), time.monotonic())
        gather = rate >= options.gather_rows_per_s_min
        fetcher._fetch_min_bytes = options.bytes_min if gather else 1
        fetcher._fetch_max_wait_ms = (
            options.wait_ms_max if gather else max(options.wait_ms_max, IDLE_WAIT_MS)
        )

    def _take(self, fetcher: Any, active: set[TP], rows_max: int | None) -> dict[TP, Any]:
        """One pass over what has been fetched: a `Run` per batch partition, records for others."""
        options: FetchOptions = self.consumer.options
        headers_of: Mapping[str, bool] = self.consumer.batch_topics
        taken: dict[TP, Any] = {}
        rows_left = min(rows_max or options.rows_max, self.consumer.rows_wanted())
        for tp in list(fetcher._records):
            if active and tp not in active:
                if not fetcher._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            result = fetcher._records[tp]
            if type(result) is not FetchResult:
                if taken:
                    return taken  # the error is raised at the next turn
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
                result.check_raise()
            if tp.topic in headers_of:
                if rows_left <= 0:
                    continue
                found = take_run(
                    result,
                    TP(tp.topic, tp.partition),
                    rows_max=min(options.partition_rows_max, rows_left),
                    with_headers=headers_of[tp.topic],
                )
                rows_left -= 0 if found is None else len(found)
            else:
                found = result.getall(rows_max)
            if not result.has_more():
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
            if found:
                taken[tp] = found
        return taken

    def failure(self) -> BaseException | None:
        """What ended fetching or one of aiokafka's background tasks, or its coordinator waits with.

        aiokafka raises it from its own ``getmany``, which nobody calls here. Until somebody has
        asked, its coordinator neither joins the group again nor says anything. Safe to call from
        any thread.
        """
        if self._failure is not None:
            return self._failure
        consumer = self._consumer
        if consumer is None or consumer._closed or consumer._coordinator is None:
            return None  # it has not started yet, or is stopped
        coordinator = consumer._coordinator
        if (waiting := coordinator._pending_exception) is not None:
            return cast("BaseException", waiting)
        tasks = (
            coordinator._coordination_task,
            consumer._fetcher.error_future,
            consumer._client._sync_task,  # who leads a partition is never known again without it
        )
        for task in tasks:
            if task.done() and not task.cancelled() and (ended := task.exception()):
                return cast("BaseException", ended)
        return None

    async def membership(self) -> Membership:
        """This worker's place in the group right now."""
        coordinator = self._ensure_consumer()._coordinator
        return Membership(coordinator.group_id, coordinator.generation, coordinator.member_id)

    async def stable_offsets(self, tps: list[TP]) -> dict[TP, OffsetAndMetadata]:
        """Committed offsets that no open transaction can change; unstable partitions are left out.

        A partition without a committed offset has offset -1. Never waits for a transaction to end:
        ask again later.

        Raises:
            KafkaError: the coordinator did not answer or refused.
        """
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        wanted: dict[str, list[int]] = {}
        for tp in tps:
            wanted.setdefault(tp.topic, []).append(tp.partition)
        await coordinator.ensure_coordinator_known()
        response = await consumer._client.send(
            coordinator.coordinator_id,
            StableOffsetFetch(coordinator.group_id, wanted),
            group=ConnectionGroup.COORDINATION,
        )
        self._raise_for(coordinator, response.error_code)
        found = {}
        for topic, partitions, *_ in response.topics:
            for partition, offset, _epoch, metadata, code, *_tags in partitions:
                if code == UNSTABLE_OFFSET_COMMIT:
                    continue
                self._raise_for(coordinator, code)
                found[TP(topic, partition)] = OffsetAndMetadata(offset, metadata)
        return found

    @staticmethod
    def _raise_for(coordinator: Any, code: int) -> None:
        if code in (14, 15, 16):  # loading, not available, moved: look it up again
            coordinator.coordinator_dead()
        if code not in (0, UNSTABLE_OFFSET_COMMIT):
            raise for_code(code)

    def backlog(self, tp: TP) -> int | None:
        """How many offsets of ``tp`` are not drained yet, up to the last stable one; None: not
        known.
        """
        consumer = self._ensure_consumer()
        place = TopicPartition(tp.topic, tp.partition)
        subscription = consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None or place not in assignment.tps:
            return None
        state = assignment.state_value(place)
        if state.lso is None or not state.has_valid_position:
            return None
        return max(0, int(state.lso) - int(state.position))

    async def seek_to(self, tp: TP, offset: int) -> None:
        """Go on at ``offset``, or at the start of the log if it is negative.

        Records fetched for another position are dropped by the fetcher.
        """
        place = TopicPartition(tp.topic, tp.partition)
        consumer = self._ensure_consumer()
        if offset < 0:
            await consumer.seek_to_beginning(place)
        else:
            consumer.seek(place, offset)

    async def fenced_commit(
        self, membership: Membership, tp: TP, offset: int, metadata: str
    ) -> None:
        """Commit under the generation of an *assignment*, not under today's.

        aiokafka's own commit sends the current member and generation, so a worker that slept
        through a rebalance and has joined again could commit an old position.

        Raises:
            FencedError: another worker owns the partition.
            TransientError: the coordinator did not take it for a minute.
        """
        assert len(metadata) <= METADATA_CHARACTERS_MAX, len(metadata)
        coordinator = self._ensure_consumer()._coordinator
        request = OffsetCommitRequest(
            membership.group,
            membership.generation,
            membership.member,
            -1,
            [(tp.topic, [(tp.partition, offset, metadata)])],
        )
        for _ in range(COMMIT_RETRIES_MAX):
            try:
                await coordinator.ensure_coordinator_known()
                response = await coordinator._send_req(request)
                code = response.topics[0][1][0][1]
                if code in FENCED_CODES or code == 27:  # 27: a rebalance is in progress
                    raise FencedError(
                        f"could not commit {tp} offset={offset}: {for_code(code).__name__}"
                    )
                self._raise_for(coordinator, code)
            except KafkaError as error:
                if not getattr(error, "retriable", False):
                    raise
            else:
                return
            await asyncio.sleep(COMMIT_RETRY_S)
        raise TransientError(f"could not commit {tp} offset={offset}: no coordinator for a minute")
