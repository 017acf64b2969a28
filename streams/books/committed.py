"""Reads topics as any careful consumer sees them: `read_committed`, from their beginning to now."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from schemas.errors import KafkaUnavailable, PermanentError, PreflightError
from schemas.settings import Settings

DECIDED_S_MAX = 60.0
RECORDS_MAX = 20_000
"""Records handed over at once."""

Record: TypeAlias = ConsumerRecord  # of bytes; aiokafka has no types


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets of one partition at one moment: ``first`` is there or was, ``end`` is not yet."""

    first: int
    end: int


class CommittedReader:
    """One consumer without a group: it commits nothing and disturbs nobody.

    Use it as an asynchronous context manager.

    Raises:
        KafkaUnavailable: no broker answered within ``deadline_s``.
    """

    def __init__(self, settings: Settings, *, deadline_s: float = 10.0) -> None:
        self._settings = settings
        self._deadline_s = deadline_s
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(
            **self._settings.kafka_client_options(),
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=4 << 20,
        )
        try:
            await asyncio.wait_for(self._consumer.start(), self._deadline_s)
        except (KafkaError, TimeoutError) as cause:
            await self._consumer.stop()
            raise KafkaUnavailable(
                f"could not reach Kafka: {cause!r}; kafka={self._settings.kafka}"
            ) from cause
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._consumer.stop()

    async def spans(self, topic: str) -> dict[int, Span]:
        """The present offsets of every partition; ``end`` is the last stable one.

        Raises:
            PreflightError: there is no such topic.
        """
        return (await self.spans_of([topic]))[topic]

    async def spans_of(self, topics: Sequence[str]) -> dict[str, dict[int, Span]]:
        """`spans` of several topics, for the price of one.

        Raises:
            PreflightError: one of them does not exist.
        """
        known = await asyncio.wait_for(self._consumer.topics(), self._deadline_s)
        if missing := [topic for topic in topics if topic not in known]:
            raise PreflightError(
                f"could not read topic {missing[0]}: it does not exist on "
                f"kafka={self._settings.kafka}. "
                "`tidemill up PIPELINE` creates the topics of a pipeline."
            )
        # An assignment is the public way to make the client learn about topics; paused, so that
        # it fetches nothing.
        probes = [TopicPartition(topic, 0) for topic in topics]
        self._consumer.assign(probes)
        self._consumer.pause(*probes)
        try:
            await self._consumer.beginning_offsets(probes)
            partitions = [
                TopicPartition(topic, p)
                for topic in topics
                for p in sorted(self._consumer.partitions_for_topic(topic))
            ]
            firsts = await self._consumer.beginning_offsets(partitions)
            ends = await self._consumer.end_offsets(partitions)
        except KafkaError as cause:
            raise KafkaUnavailable(
                f"could not read the offsets of {', '.join(topics)}: {cause!r}"
            ) from cause
        found: dict[str, dict[int, Span]] = {topic: {} for topic in topics}
        for one in partitions:
            found[one.topic][one.partition] = Span(firsts[one], ends[one])
        return found

    async def decided_spans(self, topic: str) -> dict[int, Span]:
        """`spans`, once every transaction that is open at this moment has ended.

        A commit reaches the partitions it wrote to one after the other. Whoever has just read the
        offsets that it committed may not see the records yet that those offsets vouch for.

        Raises:
            KafkaUnavailable: a transaction stays open, longer than a dead worker's would.
        """
        spans = await self.spans(topic)
        ends = await self._ends_of_everything([TopicPartition(topic, p) for p in spans])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DECIDED_S_MAX
        while any(spans[p.partition].end < end for p, end in ends.items()):
            if loop.time() > deadline:
                raise KafkaUnavailable(
                    f"could not read {topic}: a transaction has been open for {DECIDED_S_MAX} s. "
                    "A stopped worker's ends after TIDEMILL_TRANSACTION_TIMEOUT_MS."
                )
            await asyncio.sleep(0.02)
            spans = await self.spans(topic)
        return spans

    async def _ends_of_everything(
        self, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where the logs end, open transactions included."""
        consumer = AIOKafkaConsumer(**self._settings.kafka_client_options(), group_id=None)
        try:
            await asyncio.wait_for(consumer.start(), self._deadline_s)
            consumer.assign(partitions)
            consumer.pause(*partitions)
            ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        except (KafkaError, TimeoutError) as cause:
            raise KafkaUnavailable(f"could not read the ends of a topic: {cause!r}") from cause
        finally:
            await consumer.stop()
        return ends

    async def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """For each partition the first record whose time stamp is ``time_ms`` or later.

        Where there is none, the present end. Time stamps are those of the broker's records: Unix
        epoch, milliseconds, UTC.

        Raises:
            KafkaUnavailable: no broker answered.
            PreflightError: there is no such topic.
        """
        spans = await self.spans(topic)
        asked = {TopicPartition(topic, p): time_ms for p in spans}
        try:
            found = await self._consumer.offsets_for_times(asked)
        except KafkaError as cause:
            raise KafkaUnavailable(
                f"could not look up time_ms={time_ms} in {topic}: {cause!r}"
            ) from cause
        return {
            tp.partition: spans[tp.partition].end if at is None else at.offset
            for tp, at in found.items()
        }

    async def follow(
        self, topic: str, offsets: Mapping[int, int], *, records_max: int = RECORDS_MAX
    ) -> AsyncGenerator[tuple[int, list[Record]], None]:
        """Every visible record from ``offsets`` on, without an end; empty runs when none is new.

        Runs of one partition, in offset order. The client fetches ahead by at most one answer per
        broker and partition (4 MiB each). While no broker answers it waits.

        Raises:
            PermanentError: the broker has deleted what was to be read next.
        """
        expected = {TopicPartition(topic, p): offset for p, offset in offsets.items()}
        self._consumer.assign(list(expected))
        for partition, offset in expected.items():
            self._consumer.seek(partition, offset)
        while True:
            runs = await self._consumer.getmany(timeout_ms=100, max_records=records_max)
            if not runs:
                yield -1, []
            for partition, records in runs.items():
                if records[0].offset > expected[partition]:
                    await self._refuse_deleted(partition, expected[partition])
                expected[partition] = records[-1].offset + 1
                yield partition.partition, records

    async def _refuse_deleted(self, partition: TopicPartition, expected: int) -> None:
        """Tell a gap that markers and roll-backs leave from one that retention has made."""
        first = (await self._consumer.beginning_offsets([partition]))[partition]
        if first > expected:
            raise PermanentError(
                f"could not read {partition.topic}/{partition.partition} on from "
                f"offset={expected}: the oldest that is left is {first}. Start there, or keep "
                "records longer (retention.ms of the topic)."
            )

    async def read(
        self, topic: str, spans: Mapping[int, Span]
    ) -> AsyncGenerator[tuple[int, list[Record]], None]:
        """Every visible record inside ``spans``, in runs of one partition, in offset order.

        Offsets may be missing: transaction markers, rolled-back transactions and compaction leave
        gaps, which is why the end is found by position and never by counting.

        Raises:
            KafkaUnavailable: nothing came for a minute although the end was not reached.
        """
        open_ends = {
            TopicPartition(topic, p): span.end for p, span in spans.items() if span.first < span.end
        }
        if not open_ends:
            return
        self._consumer.assign(list(open_ends))
        for partition in open_ends:
            self._consumer.seek(partition, spans[partition.partition].first)
        loop = asyncio.get_running_loop()
        moved_at, positions = loop.time(), dict.fromkeys(open_ends, -1)
        while open_ends:
            runs = await self._consumer.getmany(*open_ends, timeout_ms=200, max_records=RECORDS_MAX)
            for partition, records in runs.items():
                end = open_ends[partition]
                yield partition.partition, [r for r in records if r.offset < end]
            for partition, end in list(open_ends.items()):
                position = await self._consumer.position(partition)
                if position != positions[partition]:
                    moved_at, positions[partition] = loop.time(), position
                if position >= end:
                    del open_ends[partition]
                    self._consumer.pause(partition)
            if loop.time() - moved_at > 60:
                raise KafkaUnavailable(
                    f"could not read {topic} to its end: nothing arrived for 60 s; "
                    f"kafka={self._settings.kafka}"
                )


async def committed_offsets(
    settings: Settings, group: str, *, deadline_s: float = 5.0
) -> dict[tuple[str, int], int]:
    """What ``group`` has committed, by topic and partition; empty for a group that never ran.

    Raises:
        KafkaUnavailable: no broker answered within ``deadline_s``.
    """
    found = await committed(settings, group, deadline_s=deadline_s)
    return {place: offset for place, (offset, _metadata) in found.items()}


async def committed(
    settings: Settings, group: str, *, deadline_s: float = 5.0
) -> dict[tuple[str, int], tuple[int, str]]:
    """`committed_offsets`, each with the metadata that was committed beside it.

    Raises:
        KafkaUnavailable: no broker answered within ``deadline_s``.
    """
    admin = AIOKafkaAdminClient(
        **settings.kafka_client_options(), request_timeout_ms=int(deadline_s * 1000)
    )
    try:
        async with asyncio.timeout(deadline_s):
            await admin.start()
            found = await admin.list_consumer_group_offsets(group)
    except (KafkaError, TimeoutError) as cause:
        raise KafkaUnavailable(
            f"could not read the offsets of group {group}: {cause!r}; kafka={settings.kafka}"
        ) from cause
    finally:
        await admin.close()
    return {
        (tp.topic, tp.partition): (entry.offset, entry.metadata or "")
        for tp, entry in found.items()
        if entry.offset >= 0
    }
