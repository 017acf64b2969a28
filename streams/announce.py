"""Announces on the compacted topic which versions answer: workers follow within seconds.

Writers are fenced: all share a transactional id, so of two at once the one that started first is
refused by the broker, and each has read everything that was committed before it. Epochs therefore
grow by one and none is used twice.
"""

import asyncio
from collections.abc import Callable, Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from models import rollout
from models.signing import Keyring, load_keyring
from schemas.errors import KafkaUnavailable, ModelError
from schemas.manifest import ANNOUNCEMENT_SIGNATURE, Announcement, NamedVersion
from schemas.settings import Settings
from schemas.topics import MODELS
from streams.committed import CommittedReader, Record
from streams.rights import CONTROL_ID

TIMEOUT_S = 30.0
"""For each of: connecting, reading the topic, sending."""

Change = Callable[[Announcement | None], Announcement]
"""From what is announced (None: nothing yet) to what shall be."""


def announce(
    settings: Settings, *, pipeline: str, version: str, digest: str, now_ms: int
) -> Announcement:
    """Make ``version`` the champion of ``pipeline``; return what all replicas then have.

    Raises:
        PreflightError: the topic does not exist.
        KafkaUnavailable: no broker answered in time, or another writer came between. Announcing
            again later is safe.
    """
    named = NamedVersion(version=version, digest=digest)
    return change(
        settings, pipeline, lambda before: rollout.promote(before, pipeline, named, at_ms=now_ms)
    )


def change(settings: Settings, pipeline: str, how: Change) -> Announcement:
    """Announce what ``how`` makes of the present announcement.

    Raises:
        PreflightError: the topic does not exist.
        KafkaUnavailable: no broker answered in time, or another writer came between: nothing was
            announced then, and trying again is safe.
        ModelError: ``how`` refuses.
    """
    try:
        return asyncio.run(_change(settings, pipeline, how))
    except (KafkaError, KafkaUnavailable, TimeoutError, OSError) as cause:
        raise KafkaUnavailable(
            f"could not announce a version of {pipeline}: kafka={settings.kafka}: {cause!r}"
        ) from cause


async def champion(settings: Settings, pipeline: str) -> Announcement | None:
    """What was last announced for ``pipeline``; None before the first.

    Raises:
        KafkaUnavailable: no broker answered in time.
        PreflightError: the topic does not exist.
    """
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    return newest(await _records(settings), pipeline, keyring)


def newest(records: Iterable[Record], pipeline: str, keyring: Keyring) -> Announcement | None:
    """The announcement of ``pipeline`` with the highest epoch, the first of several.

    Records that cannot be read or trusted are passed over.
    """
    highest: Announcement | None = None
    for record in records:
        try:
            found = opened(record, keyring)
        except ModelError:
            continue
        if found.pipeline == pipeline and (highest is None or found.epoch > highest.epoch):
            highest = found
    return highest


def opened(record: Record, keyring: Keyring) -> Announcement:
    """The announcement in a record of the topic.

    Raises:
        SignatureRefused: nobody who is trusted signed it.
        ModelError: it is none, or belongs to another key than it has.
    """
    signature = dict(record.headers).get(ANNOUNCEMENT_SIGNATURE)
    found = rollout.unseal(keyring, record.value or b"", signature)
    if record.key != found.pipeline.encode():
        raise ModelError(
            f"could not use an announcement: it is for {found.pipeline}, its key is {record.key!r}"
        )
    return found


async def _change(settings: Settings, pipeline: str, how: Change) -> Announcement:
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    producer = AIOKafkaProducer(
        **settings.kafka_client_options(),
        transactional_id=CONTROL_ID,
        transaction_timeout_ms=int(TIMEOUT_S * 1000),
    )
    try:
        await asyncio.wait_for(producer.start(), TIMEOUT_S)  # from here on others are fenced
        announcement = how(newest(await _records(settings), pipeline, keyring))
        value, signature = rollout.seal(keyring, announcement)
        async with producer.transaction():
            await asyncio.wait_for(
                producer.send_and_wait(
                    MODELS,
                    key=pipeline.encode(),
                    value=value,
                    headers=[(ANNOUNCEMENT_SIGNATURE, signature)],
                ),
                TIMEOUT_S,
            )
    finally:
        await producer.stop()
    return announcement


async def _records(settings: Settings) -> list[Record]:
    """Every record that is on the topic now."""
    found: list[Record] = []
    async with CommittedReader(settings, deadline_s=TIMEOUT_S) as reader:
        async for _partition, records in reader.read(MODELS, await reader.spans(MODELS)):
            found += records
    return found
