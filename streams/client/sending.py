"""Sends records: idempotent, in order per partition, acknowledged by all replicas."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.errors import KafkaUnavailable, PreflightError
from streams.client.checking import Outgoing

if TYPE_CHECKING:
    from schemas.settings import Settings
    from schemas.topics import Topic

CHUNK_RECORDS_MAX = 8_192
"""Records on their way at once: what a call holds beside the caller's own list."""

BATCH_BYTES_MAX = 256 << 10
STOP_S_MAX = 5.0
METADATA_S_MAX = 5.0
"""A topic that no broker knows after this long is missing."""


class Position(NamedTuple):
    """Where an acknowledged record lies; an event's is its identity for ever.

    ``offset`` is -1 in one rare case: the broker had the record already when the client repeated a
    request, and no longer knew where.
    """

    partition: int
    offset: int


class Sender:
    """One producer, made when it is first needed. Calls wait for each other."""

    def __init__(self, settings: "Settings", *, deadline_s: float) -> None:
        self._settings = settings
        self._deadline_s = deadline_s
        self._producer: Any = None
        self._lock = asyncio.Lock()

    async def send(self, topic: "Topic", records: Sequence[Outgoing]) -> list[Position]:
        """Where each record lies, in their order, once all are acknowledged.

        Raises:
            KafkaUnavailable: not all were acknowledged in time. Those that were not may have
                arrived all the same.
            PreflightError: the topic is missing, has other partitions, or may not be written.
        """
        from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

        positions: list[Position] = []
        async with self._lock:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._ready(topic)
                for start in range(0, len(records), CHUNK_RECORDS_MAX):
                    chunk = records[start : start + CHUNK_RECORDS_MAX]
                    async with asyncio.timeout(self._deadline_s):
                        positions += await self._send_chunk(topic, chunk)
            except TopicAuthorizationFailedError as cause:
                raise PreflightError(
                    f"could not write topic {topic.name}: grant WRITE and DESCRIBE on it"
                ) from cause
            except (KafkaError, TimeoutError, OSError) as cause:
                await self._forget()  # what it still holds must not arrive behind later records
                raise KafkaUnavailable(
                    f"could not send to {topic.name}: {cause!r}; kafka={self._settings.kafka}, "
                    f"acknowledged={len(positions)} of {len(records)}, "
                    f"unknown={len(records[len(positions) :][:CHUNK_RECORDS_MAX])}. Look at the "
                    "topic before you send the unknown ones again: a second event is scored again."
                ) from cause
            except asyncio.CancelledError:
                await self._forget()
                raise
        return positions

    async def close(self) -> None:
        """Close the connections; nothing is waiting, because each call waited."""
        async with self._lock:
            await self._forget()

    async def _ready(self, topic: "Topic") -> None:
        from aiokafka import AIOKafkaProducer

        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._settings.kafka_client_options(),
                client_id="tidemill-client",
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                max_batch_size=BATCH_BYTES_MAX,
                request_timeout_ms=int(self._deadline_s * 1000),
            )
            self._producer = producer
            await producer.start()
        found = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(METADATA_S_MAX, self._deadline_s / 2)):
                found = len(await self._producer.partitions_for(topic.name))
        if found != topic.partitions:
            raise PreflightError(
                f"could not send to {topic.name}: it has {found} partitions, the pipeline declares "
                f"{topic.partitions}. `tidemill up PIPELINE` creates the topics of a pipeline."
            )

    async def _send_chunk(self, topic: "Topic", records: Sequence[Outgoing]) -> list[Position]:
        """Partitions beside each other, the batches of one in order."""
        from aiokafka.partitioner import murmur2

        of_partition: dict[int, list[int]] = {}
        for position, record in enumerate(records):
            partition = (murmur2(record.key) & 0x7FFFFFFF) % topic.partitions
            of_partition.setdefault(partition, []).append(position)
        found: list[Position] = [Position(-1, -1)] * len(records)

        async def send(partition: int, members: list[int]) -> None:
            flying = []
            for builder, batch in self._batches(records, members):
                future = await self._producer.send_batch(builder, topic.name, partition=partition)
                flying.append((future, batch))
            for future, batch in flying:
                first = (await future).offset
                for index, member in enumerate(batch):
                    found[member] = Position(partition, first + index if first >= 0 else -1)

        await asyncio.gather(*(send(*item) for item in of_partition.items()))
        return found

    def _batches(
        self, records: Sequence[Outgoing], members: list[int]
    ) -> Iterator[tuple[Any, list[int]]]:
        builder = self._producer.create_batch()
        batch: list[int] = []
        for member in members:
            key, value = records[member]
            if builder.append(timestamp=None, key=key, value=value) is None:
                yield builder, batch
                builder, batch = self._producer.create_batch(), []
                builder.append(timestamp=None, key=key, value=value)
            batch.append(member)
        yield builder, batch

    async def _forget(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):  # it failed already, or has nothing to say
                await asyncio.wait_for(producer.stop(), STOP_S_MAX)
