"""What leaves before its transaction: a producer that writes when it is told to.

aiokafka's sender is a task that waits, together with all of its requests, for something to happen:
three turns of the loop lie between a message and its request, and as many behind the answer. Of a
turn with few events that was a seventh of the processor time and 0.4 ms of each answer. Here the
request is written where the messages were handed over. The rest is aiokafka's own: batches,
sequence numbers, one request per broker at a time, retries.

What keeps a batch from waiting for ever: behind a `push`, each that is left waits for a request in
flight, whose end pushes again, or for a leader, which the sender's task asks for and pushes.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError
from aiokafka.producer.sender import Sender, SendProduceReqHandler
from aiokafka.util import create_task

from schemas.settings import Settings
from streams.transport import private_names as _checked  # noqa: F401  # fails on a bad upgrade
from streams.transport.commit import BATCH_BYTES_MAX, REQUEST_BYTES_MAX, Outgoing, send_batches

RETRY_BACKOFF_MS = 20


class AtOnce:
    """A worker's second producer, for what leaves before its transaction: at least once.

    Idempotent, so that a retry inside of it doubles and reorders nothing; a crash before the source
    offsets are committed makes the next owner send the same again.
    """

    def __init__(self, settings: Settings) -> None:
        self._producer = PromptProducer(
            **settings.kafka_client_options(),
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=REQUEST_BYTES_MAX,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        self.sent_bytes = 0
        """Of produce batches, before compression, since it was made."""

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what waits, and disconnect."""
        self._producer.push()
        await self._producer.stop()

    async def send(self, outgoing: Iterable[Outgoing], *, timestamp_ms: int) -> list[Any]:
        """Hand over messages; each future ends when the broker has them, or with its error."""
        sent: list[Any] = []
        for part in outgoing:
            self.sent_bytes += await send_batches(self._producer, part, timestamp_ms, sent)
        self._producer.push()
        return sent


class PromptProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's producer, without transactions, whose batches leave with `push`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sender: PromptSender = PromptSender.instead_of(self._sender)
        self.push = self._sender.push

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        """As aiokafka's; a batch before it, of the same partition, does not wait for `push`."""
        if (topic, partition) in self._message_accumulator._batches:
            self.push()
        return await super().send_batch(batch, topic, partition=partition)


class PromptSender(Sender):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's sender; but requests begin in `push`, not in a task."""

    @classmethod
    def instead_of(cls, plain: Sender) -> "PromptSender":
        """The same sender, before its start."""
        assert plain._txn_manager.transactional_id is None
        own = cls.__new__(cls)
        own.__dict__.update(plain.__dict__)
        own._requests = set()
        own._leaderless = asyncio.Event()
        return own

    def push(self) -> None:
        """Write all that waits for brokers with no request in flight."""
        batches, unknown = self._message_accumulator.drain_by_nodes(
            ignore_nodes=self._in_flight, muted_partitions=self._muted_partitions
        )
        if unknown:
            self._leaderless.set()
        for node, of_node in batches.items():
            self._in_flight.add(node)
            self._muted_partitions.update(of_node)
            handler = SendProduceReqHandler(self, of_node)
            handler._client = _Written(self.client, node, handler.create_request())
            task = create_task(self._finish(handler, node, of_node))
            self._requests.add(task)
            task.add_done_callback(self._ended)

    async def _finish(self, handler: SendProduceReqHandler, node: int, batches: Any) -> None:
        await handler.do(node)
        self._in_flight.remove(node)
        self._muted_partitions.difference_update(batches)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._requests.discard(task)
        self._fail_all(task)  # if it raised: errors of the broker are the batches', no task's
        if self._message_accumulator._batches:
            self.push()

    async def _sender_routine(self) -> None:
        try:
            while True:
                await self._leaderless.wait()
                self._leaderless.clear()
                await asyncio.wait([self.client.force_metadata_update()])
                self.push()
        except asyncio.CancelledError:
            await asyncio.gather(*self._requests)


class _Written:
    """The client of one request, which has been written already if the connection was open."""

    def __init__(self, client: Any, node: int, request: Any) -> None:
        self._client = client
        self._answer = None
        connection = client._conns.get((node, ConnectionGroup.DEFAULT))
        if connection is not None and connection.connected():
            with suppress(KafkaConnectionError):  # it closed itself; `send` opens another
                self._answer = connection.send(request)
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node: int, request: Any) -> Any:
        """As `AIOKafkaClient.send`."""
        if self._answer is None:
            return await self._client.send(node, request)
        try:
            return await self._answer
        except TimeoutError as error:
            self._connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError from error
