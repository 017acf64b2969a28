"""Announces a version on the compacted topic: from then on workers load it and serve it."""

import asyncio
from collections.abc import Iterable

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.errors import KafkaUnavailable
from schemas.manifest import Announcement
from schemas.settings import Settings
from schemas.topics import MODELS
from streams.committed import CommittedReader

TIMEOUT_S = 30.0
"""For each of: connecting, reading the topic, sending."""


def announce(
    settings: Settings, *, pipeline: str, version: str, digest: str, now_ms: int
) -> Announcement:
    """Make ``version`` the champion of ``pipeline``; return what all replicas then have.

    Not promised: an order between two announcements for one pipeline at the same moment. They may
    get the same epoch; then the one that a worker reads first stays.

    Raises:
        PreflightError: the topic does not exist.
        KafkaUnavailable: no broker answered in time. Announcing again later is safe.
    """
    try:
        return asyncio.run(_announce(settings, pipeline, version, digest, now_ms))
    except (KafkaError, KafkaUnavailable, TimeoutError, OSError) as cause:
        raise KafkaUnavailable(
            f"could not announce version={version}: kafka={settings.kafka}: {cause!r}"
        ) from cause


async def champion(settings: Settings, pipeline: str) -> Announcement | None:
    """The version that was last announced for ``pipeline``; None before the first.

    Raises:
        KafkaUnavailable: no broker answered in time.
        PreflightError: the topic does not exist.
    """
    return newest(await _values(settings), pipeline)


def newest(values: Iterable[bytes | None], pipeline: str) -> Announcement | None:
    """The announcement of ``pipeline`` with the highest epoch, the first of several.

    Records that cannot be read are passed over: a newer release may have written them.
    """
    highest: Announcement | None = None
    for value in values:
        try:
            found = msgspec.json.decode(value or b"", type=Announcement)
        except msgspec.MsgspecError:
            continue
        if found.pipeline == pipeline and (highest is None or found.epoch > highest.epoch):
            highest = found
    return highest


async def _announce(
    settings: Settings, pipeline: str, version: str, digest: str, now_ms: int
) -> Announcement:
    before = newest(await _values(settings), pipeline)
    announcement = Announcement(
        pipeline=pipeline,
        version=version,
        digest=digest,
        epoch=1 if before is None else before.epoch + 1,
        announced_at_ms=now_ms,
    )
    producer = AIOKafkaProducer(
        **settings.kafka_client_options(), acks="all", enable_idempotence=True
    )
    try:
        await asyncio.wait_for(producer.start(), TIMEOUT_S)
        await asyncio.wait_for(
            producer.send_and_wait(
                MODELS, key=pipeline.encode(), value=msgspec.json.encode(announcement)
            ),
            TIMEOUT_S,
        )
    finally:
        await producer.stop()
    return announcement


async def _values(settings: Settings) -> list[bytes | None]:
    """Every record that is on the topic now."""
    found: list[bytes | None] = []
    async with CommittedReader(settings, deadline_s=TIMEOUT_S) as reader:
        async for _partition, records in reader.read(MODELS, await reader.spans(MODELS)):
            found += [record.value for record in records]
    return found
