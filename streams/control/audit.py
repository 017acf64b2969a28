"""The audit log: every control action, chained, in a topic that nothing is deleted from.

The topic is the truth: an announcement and its entry are one transaction there, and it is there
when the store is down. The table ``audit`` is a copy, for SQL and as a second witness: whoever cuts
off the end of the topic, which no chain shows, must change the table, too, and the other way round.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import structlog
from aiokafka.errors import KafkaError, UnknownError

from models.audit import Broken, Chain, Sealed
from models.signing import Keyring, load_keyring
from schemas.audit import AUDIT_SIGNATURE, AuditEntry, decode_entry, entry_digest
from schemas.errors import KafkaUnavailable, SchemaError, TidemillError
from schemas.settings import Settings
from schemas.topics import AUDIT
from streams.books.committed import CommittedReader
from streams.control.writer import FENCED, ControlWriter, records_of
from streams.store.client import Client, connect, insert_rows, mapped_errors

log = structlog.get_logger()

ATTEMPTS_MAX = 8
RETRY_S = 0.1
"""Pause before the second attempt; later ones grow by as much."""
COPY_ROWS_MAX = 10_000

ROWS = pa.schema(
    [
        pa.field("number", pa.uint64(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("who", pa.utf8(), nullable=False),
        pa.field("action", pa.utf8(), nullable=False),
        pa.field("subject", pa.utf8(), nullable=False),
        pa.field("before", pa.utf8(), nullable=False),
        pa.field("after", pa.utf8(), nullable=False),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("digest", pa.utf8(), nullable=False),
        pa.field("entry", pa.utf8(), nullable=False),
    ]
)
"""The table ``audit``: ``entry`` are the canonical bytes, ``digest`` their SHA-256."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of the whole log found.

    Attributes:
        entries: How many hold, from the first on.
        broken: The first that does not; None: all do.
        head: Digest of the last that holds. Kept elsewhere, it shows later whether all is there.
        copied: How many the table holds; None: there was no store to ask.
    """

    entries: int
    broken: Broken | None
    head: str
    copied: int | None


def append(
    settings: Settings,
    *,
    action: str,
    subject: str,
    at_ms: int,
    before: object = None,
    after: object = None,
    reason: str = "",
) -> AuditEntry:
    """Write down what was done; returns when it is durable in the topic. The table gets a copy if
    the store answers, or with a later entry.

    Values must be such as msgspec can encode, and hold no secret: they are kept for good.

    Raises:
        KafkaUnavailable: no broker answered; it is not known whether it was written.
        PreflightError: there is no audit topic; `tidemill up` makes it.
        SetupError: it is too long.
    """

    async def attempt(before_it: list[bytes]) -> AuditEntry:
        async with ControlWriter(settings) as writer:
            for record in await writer.records(AUDIT) if before_it else []:
                if record.value in before_it:  # the one whose answer did not come
                    return decode_entry(record.value or b"")
            try:
                return await writer.commit(
                    [],
                    at_ms=at_ms,
                    action=action,
                    subject=subject,
                    before=before,
                    after=after,
                    reason=reason,
                )
            finally:
                before_it.append(writer.written)

    async def attempts() -> AuditEntry:
        written: list[bytes] = []
        for number in range(1, ATTEMPTS_MAX):
            try:
                return await attempt(written)
            except KafkaError as error:
                # UnknownError: said of a transactional id that is being taken over just now.
                if not isinstance(error, FENCED) and not isinstance(error.__cause__, UnknownError):
                    raise
                await asyncio.sleep(RETRY_S * number)
        return await attempt(written)

    try:
        entry = asyncio.run(attempts())
    except (KafkaError, TimeoutError, OSError) as cause:
        raise KafkaUnavailable(f"could not write down {action} {subject}: {cause!r}") from cause
    copy_if_any(settings)
    return entry


def note(
    settings: Settings,
    *,
    action: str,
    subject: str,
    at_ms: int,
    before: object = None,
    after: object = None,
    reason: str = "",
) -> str:
    """`append` for what is done already: a failure is logged and returned, not raised.

    Without a broker nothing is written: there is no log then.
    """
    if not settings.kafka:
        return "no broker is known here"
    try:
        append(
            settings,
            action=action,
            subject=subject,
            at_ms=at_ms,
            before=before,
            after=after,
            reason=reason,
        )
    except TidemillError as error:
        log.warning("not in the audit log", action=action, subject=subject, why=str(error))
        return str(error)
    return ""


def read_sealed(settings: Settings) -> list[Sealed]:
    """The whole log as it lies in the topic, the oldest entry first.

    Raises:
        KafkaUnavailable: no broker answered in time.
        PreflightError: there is no audit topic.
    """

    async def read() -> list[Sealed]:
        async with CommittedReader(settings) as reader:
            found = await records_of(reader, AUDIT)
        return [(r.value or b"", dict(r.headers).get(AUDIT_SIGNATURE)) for r in found]

    return asyncio.run(read())


def copy_if_any(settings: Settings) -> None:
    """Copy to the table what it lacks, if there is a store and it answers."""
    if not settings.clickhouse:
        return
    try:
        client = connect(settings)
    except TidemillError:
        return
    try:
        if _has_table(client):
            copy(client, read_sealed(settings))
    except TidemillError as error:  # the next entry copies this one, too
        log.warning("audit log not copied", why=str(error))
    finally:
        client.close()


def copy(client: Client, found: Iterable[Sealed]) -> int:
    """Insert the entries whose numbers are higher than the table's highest; how many.

    Raises:
        StoreUnavailable: not known which were inserted; repeating it is safe.
    """
    with mapped_errors("read the table audit"):
        sql = "SELECT toInt64(max(number)) - (count() = 0) FROM audit"
        highest = int(client.query(sql).result_rows[0][0])
    rows = [row for content, _signature in found if (row := _row(content, highest)) is not None]
    for start in range(0, len(rows), COPY_ROWS_MAX):
        some = rows[start : start + COPY_ROWS_MAX]
        token = f"audit|{some[0]['digest']}|{some[-1]['digest']}"
        insert_rows(client, "audit", pa.Table.from_pylist(some, schema=ROWS), token=token)
    return len(rows)


def verify(settings: Settings) -> Verified:
    """Check the whole log: every digest, number and signature, and the table against the topic.

    Raises:
        KafkaUnavailable, StoreUnavailable: a server does not answer.
        PreflightError: there is no audit topic.
        SettingsError: a key cannot be used.
    """
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    found = read_sealed(settings)
    rows: dict[int, str] | None = None
    if settings.clickhouse:
        client = connect(settings)
        try:
            rows = _digests(client) if _has_table(client) else None
        finally:
            client.close()
    return compare(found, rows, keyring)


def compare(found: list[Sealed], rows: dict[int, str] | None, keyring: Keyring) -> Verified:
    """`verify`, once everything is read. ``rows``: digest of each number in the table."""
    chain = Chain(keyring)
    broken: Broken | None = None
    for number, (content, signature) in enumerate(found):
        link = chain.follow(content, signature)
        copied = None if rows is None else rows.get(number)
        if isinstance(link, Broken):
            broken = link
        elif copied is not None and copied != chain.last:
            broken = Broken(number=number, why="the table holds another entry under this number")
        if broken is not None:
            break
    longer = max(rows, default=-1) if rows else -1
    if broken is None and longer >= len(found):
        why = f"the topic ends before it, the table goes on to {longer}: its end was cut off"
        broken = Broken(number=len(found), why=why)
    return Verified(chain.length, broken, chain.last, None if rows is None else len(rows))


def _row(content: bytes, highest: int) -> dict[str, object] | None:
    try:
        entry = decode_entry(content)
    except SchemaError:
        return None
    if entry.number <= highest:
        return None
    fields = {name: getattr(entry, name) for name in ("number", "who", "action", "subject")}
    return {
        **fields,
        "at": entry.at_ms,
        "before": msgspec.json.encode(entry.before).decode(),
        "after": msgspec.json.encode(entry.after).decode(),
        "reason": entry.reason,
        "digest": entry_digest(content),
        "entry": content.decode(),
    }


def _has_table(client: Client) -> bool:
    with mapped_errors("look for the table audit"):
        return bool(client.command("EXISTS TABLE audit"))


def _digests(client: Client) -> dict[int, str]:
    with mapped_errors("read the table audit"):
        rows = client.query(
            "SELECT number, entry FROM audit ORDER BY number, landed_at DESC"
        ).result_rows
    return {int(number): entry_digest(str(entry).encode()) for number, entry in rows}
