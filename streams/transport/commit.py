"""Group commit: outputs and source offsets of many partitions in one fenced Kafka transaction.

The protocol, in prose. A worker has one transactional producer. Whatever drains have been scored go
into one transaction together with the source offsets of all their partitions; the broker makes
outputs and offsets visible together or not at all. The offset commit carries the member and the
generation of the assignment under which the drains were fetched. So a worker that was expelled
while it slept is refused, its transaction is aborted, and the new owner, who started from *stable*
offsets, has neither lost nor repeated a record.

Nothing is retried or skipped here: any failure is raised, and the process is expected to end. After
a crash, the next owner's stable fetch waits until the broker has aborted the open transaction: at
once when a worker starts again with the same ``transactional_id``, otherwise after
``transaction_timeout_ms``.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer import sender
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from schemas.settings import Settings
from streams.transport import private_names as _checked  # noqa: F401  # fails on a bad upgrade
from streams.transport.wire import METADATA_CHARACTERS_MAX, FencedOffsetCommit, Membership

BATCH_BYTES_MAX = 512 << 10
"""Bytes of one produce batch; the topics' ``max.message.bytes`` of 1 MiB bounds it."""
REQUEST_BYTES_MAX = 32 << 20
RETRY_BACKOFF_MS = 1
"""Right after a commit the broker still writes markers and answers "concurrent transactions"; the
client sleeps this long before it asks again. 100 ms (the default) made p99 135 ms, 1 ms makes it
11."""

sender.BACKOFF_OVERRIDE = RETRY_BACKOFF_MS / 1000


@dataclass(slots=True)
class Outgoing:
    """Messages for one partition of one topic.

    ``keys`` and ``headers`` have one element per value, or are None for none.
    """

    topic: str
    partition: int
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Sequence[tuple[str, bytes]]] | None = None


class GroupCommit:
    """One worker's transactional producer. Not for concurrent use: one transaction at a time."""

    def __init__(self, settings: Settings, *, transactional_id: str) -> None:
        self._producer = AIOKafkaProducer(
            **settings.kafka_client_options(),
            transactional_id=transactional_id,
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=REQUEST_BYTES_MAX,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            transaction_timeout_ms=settings.transaction_timeout_ms,
        )
        self._membership: Membership | None = None
        self.sent_bytes = 0
        """Of produce batches, before compression, since it was made."""
        self.produced_ns = 0
        """When the records of the last transaction had been handed over: Unix time."""
        # On this instance only: other producers of the process keep aiokafka's own commit.
        self._producer._sender._do_txn_offset_commit = self._commit_fenced

    async def start(self) -> None:
        """Register the transactional id: the broker aborts what its previous holder left open."""
        await self._producer.start()

    async def stop(self) -> None:
        """Abort what is open and disconnect."""
        await self._producer.stop()

    async def send(
        self,
        outgoing: Iterable[Outgoing],
        offsets: Mapping[TP, int],
        *,
        membership: Membership,
        timestamp_ms: int,
        metadata: Mapping[TP, str] | None = None,
    ) -> None:
        """Make ``outgoing`` and the source ``offsets`` visible together.

        ``metadata`` is kept beside the offsets, at most `METADATA_CHARACTERS_MAX` each; an offset
        without any gets the empty text. Returns when the broker has committed. Messages to one
        partition keep their order.

        Raises:
            KafkaError: nothing became visible, or (connection lost during the commit) it is not
                known whether it did. Either way the process must end: the next owner finds out.
        """
        self._membership = membership
        await self._producer.begin_transaction()
        sent: list[Any] = []
        try:
            commits = {
                TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(
                    offset, (metadata or {}).get(tp, "")
                )
                for tp, offset in offsets.items()
            }
            assert all(len(c.metadata) <= METADATA_CHARACTERS_MAX for c in commits.values())
            await self._send(outgoing, commits, membership, timestamp_ms, sent)
        finally:
            for future in sent:  # one failure is raised; the others must not be reported on top
                if future.done() and not future.cancelled():
                    future.exception()

    async def _send(
        self,
        outgoing: Iterable[Outgoing],
        commits: Mapping[TopicPartition, OffsetAndMetadata],
        membership: Membership,
        timestamp_ms: int,
        sent: list[Any],
    ) -> None:
        producer = self._producer
        for part in outgoing:
            self.sent_bytes += await send_batches(producer, part, timestamp_ms, sent)
        self.produced_ns = time.time_ns()
        await producer.send_offsets_to_transaction(commits, membership.group)
        await producer.commit_transaction()
        for future in sent:
            future.result()

    async def _commit_fenced(self, offsets: dict[Any, Any], group: str) -> None:
        """Stand in for ``Sender._do_txn_offset_commit``, with the member's generation."""
        if not offsets:
            return
        assert self._membership is not None
        assert self._membership.group == group
        owner = self._producer._sender
        node = await owner._find_coordinator(sender.CoordinationType.GROUP, group)
        await FencedOffsetCommit(owner, offsets, self._membership).do(node)


async def send_batches(
    producer: AIOKafkaProducer, part: Outgoing, timestamp_ms: int, sent: list[Any]
) -> int:
    """Fill batches with the messages of one partition, send them, and add their futures to
    ``sent``; the bytes of the batches.
    """
    position, rows, num_bytes = 0, len(part.values), 0
    while position < rows:
        batch = producer.create_batch()
        position = fill(batch, part, position, timestamp_ms)
        num_bytes += batch.size()
        sent.append(await producer.send_batch(batch, part.topic, partition=part.partition))
    return num_bytes


def fill(batch: Any, part: Outgoing, start: int, timestamp_ms: int) -> int:
    """Append messages from ``start`` on until the batch is full; where the next one begins.

    Goes past `BatchBuilder.append` to the compiled builder behind it: a third of the time.
    """
    append = batch._builder.append
    stop = len(part.values)
    values = islice(part.values, start, stop)
    keys = repeat(None) if part.keys is None else islice(part.keys, start, stop)
    if part.headers is None:
        none: list[tuple[str, bytes]] = []
        for offset, (key, value) in enumerate(zip(keys, values)):  # noqa: B905  # repeat is endless
            if append(offset, timestamp_ms, key, value, none) is None:
                stop = start + offset
                break
    else:
        every = zip(keys, values, islice(part.headers, start, stop))  # noqa: B905  # as above
        for offset, (key, value, headers) in enumerate(every):
            if append(offset, timestamp_ms, key, value, list(headers)) is None:
                stop = start + offset
                break
    assert stop > start, "a batch takes its first message, however large"
    batch._relative_offset = stop - start
    return stop
