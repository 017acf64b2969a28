"""A worker that copies one topic to another exactly once: the transport without any model."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.settings import Settings
from schemas.topics import Topic
from streams.telemetry import Reporter
from streams.transport.administration import create_topics
from streams.transport.app import build_app
from streams.transport.commit import GroupCommit, Outgoing
from streams.transport.driver import batch_topic
from streams.transport.stage import TransactionalStage

PARTITIONS = 4


def make_topics(settings: Settings, *names: str, partitions: int = PARTITIONS) -> None:
    create_topics(
        settings, [Topic(name=n, record="", key="", partitions=partitions) for n in names]
    )


def numbers(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


async def produce(
    kafka: str, topic: str, values, *, partitions: int = PARTITIONS, **options
) -> None:
    """Value i goes to partition i modulo ``partitions``; acknowledged by all replicas."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", linger_ms=5, **options)
    await producer.start()
    try:
        futures = [
            await producer.send(topic, value, key=b"k", partition=i % partitions)
            for i, value in enumerate(values)
        ]
        await asyncio.gather(*futures)
    finally:
        await producer.stop()


async def read_all(kafka: str, topic: str, *, partitions: int = PARTITIONS, committed: bool = True):
    """Every record of a topic as values, by partition, in order."""
    found = await read_records(kafka, topic, partitions=partitions, committed=committed)
    return {p: [value for _offset, value in records] for p, records in found.items()}


async def read_records(
    kafka: str, topic: str, *, partitions: int, committed: bool = True
) -> dict[int, list[tuple[int, bytes]]]:
    """`read_all`, with the offset of each."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        isolation_level="read_committed" if committed else "read_uncommitted",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: dict[int, list[tuple[int, bytes]]] = {p: [] for p in range(partitions)}
        deadline = time.monotonic() + 30
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            assert time.monotonic() < deadline, "a transaction was left open"
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                found[tp.partition] += [(record.offset, record.value) for record in records]
        return found
    finally:
        await consumer.stop()


class CopyWorker:
    """One group member that copies ``source`` to ``target``."""

    def __init__(
        self,
        settings: Settings,
        *,
        group: str,
        source: str,
        target: str,
        name: str,
        **stage_options,
    ) -> None:
        self.reporter = Reporter(Path(settings.home) / "run", name, "copy")
        self.commit = GroupCommit(settings, transactional_id=f"tidemill-{name}")
        self.compute_delay_s = 0.0
        self.failures: list[tuple[str, BaseException]] = []
        self.largest_rows = 0
        self.stage = TransactionalStage(
            self.commit,
            lambda runs: [part for run in runs for part in self._compute(run)],
            self.reporter,
            on_failure=lambda what, error: self.failures.append((what, error)),
            **stage_options,
        )
        self.target = target
        self.app = build_app(settings, group=group, owner=self.stage)
        topic = batch_topic(self.app, source)

        @self.app.agent(topic)
        async def copy(drains) -> None:
            async for drain in drains.noack():
                self.largest_rows = max(self.largest_rows, self.app.consumer._rows_in_flight)
                await self.stage.take(drain, self.app.consumer)

        @self.app.task
        async def committer() -> None:
            await self.stage.commit_forever()

    def _compute(self, run):
        if self.compute_delay_s:
            time.sleep(self.compute_delay_s)
        return [Outgoing(self.target, run.tp.partition, run.values, run.keys)]

    @property
    def copied(self) -> int:
        return int(self.reporter.counters["records"])

    async def __aenter__(self) -> Self:
        await self.commit.start()
        await self.app.start()
        return self

    async def __aexit__(self, *_exc) -> None:
        await self.app.stop()
        await self.commit.stop()


async def until(condition, *, deadline_s: float = 40.0, what: str = "condition") -> None:
    """Wait for a condition; fail with its name at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not reached in {deadline_s} s: {what}"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(*workers: CopyWorker) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        yield
