"""Before a worker starts: is Kafka there, are the topics right, may we do what we are about to do?

Faust hides authorisation errors: a worker without READ on its topic, or without its group, hangs
for ever without a line in the log. Asking directly fails within a second, with the exact reason.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from schemas.errors import PreflightError
from schemas.settings import Settings
from schemas.topics import Topic
from streams.telemetry import Reporter

REFUSALS = (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
RETRY_S = 1.0
ANSWER_S_MAX = 20.0
METADATA_S_MAX = 3.0
"""A topic that no broker knows after this long is missing; a created one is known in 0.1 s."""


def reachable(addresses: str, *, timeout_s: float = 1.0) -> bool:
    """Whether any of ``host:port,host:port`` accepts a connection."""
    for address in addresses.split(","):
        host, _, port = address.strip().rpartition(":")
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s),
        ):
            return True
    return False


async def wait_for_kafka(settings: Settings, reporter: Reporter) -> None:
    """Return when a broker accepts connections; says in the report what it waits for."""
    while not await asyncio.to_thread(reachable, settings.kafka):
        reporter.change("waiting", f"Kafka does not answer at {settings.kafka}")
        await asyncio.sleep(RETRY_S)


async def check(
    settings: Settings,
    *,
    group: str,
    read: Sequence[Topic],
    write: Sequence[Topic],
    transactional_id: str = "",
) -> None:
    """Check topics, partition counts and rights of one worker.

    Raises:
        PreflightError: a topic is missing or has another number of partitions, or the broker
            refuses something; the message says which and what to grant.
        KafkaError: the broker went away meanwhile; wait and check again.
    """
    await _check_reading(settings, group, read)
    await _check_writing(settings, write, transactional_id)


async def _check_reading(settings: Settings, group: str, topics: Sequence[Topic]) -> None:
    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(), group_id=group, enable_auto_commit=False
    )
    step = "log in"
    try:
        await asyncio.wait_for(consumer.start(), ANSWER_S_MAX)
        for topic in topics:
            step = f"read topic {topic.name}: grant READ and DESCRIBE on it"
            found = await _partition_count(consumer._client, topic.name)
            _compare(topic, found)
        step = f"use group {group}: grant READ on it"
        consumer.assign([TopicPartition(topics[0].name, 0)])
        await asyncio.wait_for(consumer.committed(TopicPartition(topics[0].name, 0)), ANSWER_S_MAX)
    except REFUSALS as cause:
        raise PreflightError(f"could not {step}: {cause!r}") from cause
    except KafkaConnectionError as cause:
        raise _connection_error(settings, cause) from cause
    finally:
        with contextlib.suppress(KafkaError):
            await consumer.stop()


async def _check_writing(
    settings: Settings, topics: Sequence[Topic], transactional_id: str
) -> None:
    if not topics:
        return
    options = {"transactional_id": f"{transactional_id}-preflight"} if transactional_id else {}
    producer = AIOKafkaProducer(**settings.kafka_client_options(), **options)
    step = f"write in transactions: grant WRITE on transactional id prefix {transactional_id}"
    try:
        await asyncio.wait_for(producer.start(), ANSWER_S_MAX)
        for topic in topics:
            step = f"write topic {topic.name}: grant WRITE and DESCRIBE on it"
            found = await _partition_count(producer.client, topic.name)
            _compare(topic, found)
    except REFUSALS as cause:
        raise PreflightError(f"could not {step}: {cause!r}") from cause
    finally:
        with contextlib.suppress(KafkaError):
            await producer.stop()


async def _partition_count(client: object, topic: str) -> int:
    """Partitions of ``topic``; 0 if there is none. Never creates it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(METADATA_S_MAX):
            await client._wait_on_metadata(topic)  # type: ignore[attr-defined]
    return len(client.cluster.partitions_for_topic(topic) or ())  # type: ignore[attr-defined]


def _compare(topic: Topic, found: int) -> None:
    if found == 0:
        raise PreflightError(
            f"could not find topic {topic.name}. `tidemill up` creates it; on a cluster of your "
            f"own create it with {topic.partitions} partitions."
        )
    if found != topic.partitions:
        raise PreflightError(
            f"could not use topic {topic.name}: it has {found} partitions, the pipeline declares "
            f"{topic.partitions}. Set partitions={found} in the declaration."
        )


def _connection_error(settings: Settings, cause: Exception) -> Exception:
    """A broker that accepts TCP but not us is a matter of settings, not of waiting."""
    if reachable(settings.kafka):
        return PreflightError(
            f"could not log in to Kafka at {settings.kafka}: {cause}. Check "
            "TIDEMILL_KAFKA_SECURITY, TIDEMILL_KAFKA_USERNAME, TIDEMILL_KAFKA_PASSWORD and "
            f"TIDEMILL_KAFKA_CA; security is {settings.kafka_security}."
        )
    return cause
