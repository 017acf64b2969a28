"""The one writer of control records at a time, and the audit entry that each of its writes has.

What is announced and that it was announced are one Kafka transaction: neither is there without the
other. All such writers share a transactional id, so the newest fences the others, whatever pipeline
they work for; control actions are rare, and whoever was fenced tries again.
"""

import asyncio
import getpass
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, InvalidTxnState, ProducerFenced

from models.audit import seal_entry
from models.signing import Keyring, load_keyring
from schemas.audit import AUDIT_SIGNATURE, FIRST, AuditEntry, decode_entry, entry_digest
from schemas.errors import SchemaError, SetupError
from schemas.settings import Settings
from schemas.topics import AUDIT
from streams.books.committed import CommittedReader, Record, Span
from streams.control.rights import CONTROL_ID

TIMEOUT_S = 30.0
"""For each of: connecting, reading a topic, sending."""
TAIL_OFFSETS = 20
"""How far back the newest entry is looked for first; a transaction takes two offsets."""
ENTRY_BYTES_MAX = 100_000
FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidTxnState)
"""What the broker says to a writer after which another one has started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A record that is written together with its audit entry."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class ControlWriter:
    """The writer; use it as an asynchronous context manager.

    From its entry on every other one is fenced, and what they had committed can be read.

    Raises:
        KafkaError, TimeoutError: no broker answered, or another writer came between.
        PreflightError: the topic of the audit log does not exist.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.keyring: Keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
        self._reader = CommittedReader(settings, deadline_s=TIMEOUT_S)
        self._producer: Any = None
        self.written = b""
        """The entry of the last `commit`, which may or may not have come to be."""

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(
            **self._settings.kafka_client_options(),
            transactional_id=CONTROL_ID,
            transaction_timeout_ms=int(TIMEOUT_S * 1000),
        )
        try:
            await asyncio.wait_for(self._producer.start(), TIMEOUT_S)
            await self._reader.__aenter__()
        except BaseException:
            await self._producer.stop()
            raise
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        if isinstance(error, FENCED):
            asyncio.get_running_loop().set_exception_handler(_without_fenced)
        await self._reader.__aexit__()
        await self._producer.stop()

    async def records(self, topic: str) -> list[Record]:
        """Every record that is on ``topic`` now."""
        return await records_of(self._reader, topic)

    async def commit(
        self,
        outgoing: Sequence[Outgoing],
        *,
        at_ms: int,
        action: str,
        subject: str,
        before: object,
        after: object,
        reason: str,
    ) -> AuditEntry:
        """Make ``outgoing`` and an audit entry about them visible together; the entry."""
        number, previous = await self._end()
        entry = AuditEntry(
            number=number,
            previous=previous,
            at_ms=at_ms,
            who=who(self._settings),
            action=action,
            subject=subject,
            before=before,
            after=after,
            reason=reason,
        )
        self.written, signature = seal_entry(self.keyring, entry)
        if len(self.written) > ENTRY_BYTES_MAX:
            raise SetupError(
                f"could not {action} {subject}: its audit entry has "
                f"bytes={len(self.written)}, more than {ENTRY_BYTES_MAX}. Give a shorter reason."
            )
        key, headers = str(number).encode(), ((AUDIT_SIGNATURE, signature),)
        written = Outgoing(topic=AUDIT, key=key, value=self.written, headers=headers)
        async with self._producer.transaction():
            for one in (*outgoing, written):
                sent = self._producer.send_and_wait(
                    one.topic, key=one.key, value=one.value, headers=list(one.headers)
                )
                await asyncio.wait_for(sent, TIMEOUT_S)
        return entry

    async def _end(self) -> tuple[int, str]:
        """Number and link of the next entry. The one before is believed as it is: the chain is
        checked by `tidemill audit verify`, and a broken one must not stop a roll-back.
        """
        span = (await self._reader.spans(AUDIT))[0]
        back = TAIL_OFFSETS
        while True:
            tail = Span(max(span.first, span.end - back), span.end)
            found = [
                record
                async for _partition, records in self._reader.read(AUDIT, {0: tail})
                for record in records
            ]
            entries = [number for record in found if (number := _number(record)) is not None]
            if entries:
                return entries[-1] + 1, entry_digest(found[-1].value or b"")
            if tail.first == span.first:
                return 0, FIRST
            back *= 10


def _without_fenced(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass on all others. The library leaves two futures of a fenced transaction that only it could
    read; each would be a trace back beside the error that was raised.
    """
    if not isinstance(context.get("exception"), FENCED):
        loop.default_exception_handler(context)


def _number(record: Record) -> int | None:
    try:
        return decode_entry(record.value or b"").number
    except SchemaError:  # not one of ours; `tidemill audit verify` says so
        return None


async def records_of(reader: CommittedReader, topic: str) -> list[Record]:
    """Every record that is on ``topic`` now."""
    spans = await reader.spans(topic)
    return [record async for _partition, records in reader.read(topic, spans) for record in records]


def who(settings: Settings) -> str:
    """The user and machine of this process, and its Kafka user. A claim: the signature says which
    key made it, and the broker's own log who was logged in.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    machine = f"{user}@{platform.node()}"
    return f"{machine}/{settings.kafka_username}" if settings.kafka_username else machine
