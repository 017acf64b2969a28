"""Announces on the compacted topic which versions answer: workers follow within seconds.

Writers are fenced: all share a transactional id, so of two at once the one that started first is
refused by the broker, and each has read everything that was committed before it. Epochs therefore
grow by one and none is used twice. Each announcement is one transaction with its audit entry.
"""

import asyncio
from collections.abc import Callable, Iterable

from aiokafka.errors import KafkaError

from models import rollout
from models.signing import Keyring, load_keyring
from schemas.errors import KafkaUnavailable, ModelError
from schemas.manifest import ANNOUNCEMENT_SIGNATURE, Announcement, NamedVersion
from schemas.settings import Settings
from schemas.topics import MODELS
from streams.books.committed import CommittedReader, Record
from streams.control.writer import FENCED, TIMEOUT_S, ControlWriter, Outgoing, records_of

ATTEMPTS_MAX = 5
RETRY_S = 0.1
"""Pause before the second attempt; later ones grow by as much."""

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
    for attempt in range(1, ATTEMPTS_MAX + 1):
        seen: list[Announcement | None] = []
        try:
            return await _change_once(settings, pipeline, how, seen)
        except FENCED:
            # By a writer for another pipeline: then nothing has changed here, and it is our turn.
            unchanged = seen and await champion(settings, pipeline) == seen[0]
            if attempt == ATTEMPTS_MAX or not unchanged:
                raise
            await asyncio.sleep(RETRY_S * attempt)
    raise AssertionError("the last attempt returns or raises")


async def _change_once(
    settings: Settings, pipeline: str, how: Change, seen: list[Announcement | None]
) -> Announcement:
    async with ControlWriter(settings) as writer:  # from here on others are fenced
        before = newest(await writer.records(MODELS), pipeline, writer.keyring)
        seen.append(before)
        announcement = how(before)
        value, signature = rollout.seal(writer.keyring, announcement)
        record = Outgoing(
            topic=MODELS,
            key=pipeline.encode(),
            value=value,
            headers=((ANNOUNCEMENT_SIGNATURE, signature),),
        )
        await writer.commit(
            [record],
            at_ms=announcement.announced_at_ms,
            action=announcement.action,
            subject=pipeline,
            before=before,
            after=announcement,
            reason=announcement.reason,
        )
    return announcement


async def _records(settings: Settings) -> list[Record]:
    """Every record that is on the topic now."""
    async with CommittedReader(settings, deadline_s=TIMEOUT_S) as reader:
        return await records_of(reader, MODELS)
