"""A copy of what Kafka cannot give again, and the way back from it.

A backup holds the store (a consistent copy of each table), the model registry and the snapshots of
the label ledgers, each file with its SHA-256. It is made while everything runs. Kafka is not in it:
it is the source that a restored store is filled up from. Every row says which record of which
partition it was landed from, so after a restore the landers start behind the last row of each
partition, and what was landed since the backup is landed again, each row once.

Not promised: rows that come from no topic (decisions, trainings) and were written after the
backup; records that Kafka no longer holds; a label ledger that is older than its group's committed
offsets, which is of no use: its partition then stands still. So keep `TIDEMILL_LEDGER` on
storage that survives, or make the backup when nothing runs any more.
"""

import asyncio
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from schemas.errors import KafkaUnavailable, SetupError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.undecodable import UNDECODABLE
from streams.books.reconcile import land_group
from streams.store.client import Client, connect, mapped_errors

MANIFEST, STORE, REGISTRY, LEDGER, KEY = (
    "backup.json", "store.tar.zst", "registry", "ledger", "signing.pem",
)  # fmt: skip
DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
COPY_BYTES = 1 << 20
KAFKA_S_MAX = 30.0
STORE_S_MAX = 3600.0
Progress = Callable[[str], None]


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in the folder of a backup.

    Attributes:
        version: Of this form, 1.
        made_at_ms: When it was begun.
        database: The database that was copied.
        pipelines: References of the pipelines whose landers go on after a restore.
        digests: SHA-256 of each file, by its path in the folder.
    """

    version: int = 1
    made_at_ms: int
    database: str
    pipelines: list[str]
    digests: dict[str, str]


def make_backup(
    settings: Settings,
    folder: Path,
    *,
    pipelines: Sequence[str],
    with_key: bool,
    now_ms: int,
    progress: Progress = lambda _: None,
) -> Backup:
    """Copy everything into ``folder``, which comes to be as a whole or not at all.

    ``with_key`` adds the private key that signs, for a machine that has lost it; guard the folder
    then. Without it a restored registry is believed only where its public key is trusted.

    Raises:
        SetupError: the folder is there already, or the store cannot copy itself to this machine.
        StoreUnavailable: the store does not answer.
    """
    if folder.exists():
        raise SetupError(f"could not make a backup: {folder} exists. Name a new folder.")
    kept = settings.home.absolute() / "store" / "backups"
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    progress("label ledgers")
    _fetch(settings.ledger_root, draft / LEDGER)
    progress("store")
    name = f"backup-{now_ms}.tar.zst"
    client = connect(settings)
    try:
        _carry_out(
            client, f"BACKUP DATABASE {settings.database} TO Disk('backups', '{name}')", name
        )
    finally:
        client.close()
    if not (kept / name).exists():
        raise SetupError(
            f"could not find the copy that the store made: it is not {kept / name}. Backups are of "
            "the embedded store on this machine; of another server make them with its own BACKUP."
        )
    shutil.move(kept / name, draft / STORE)
    progress("models")  # last: whatever a row names is then there
    _fetch(settings.registry_root, draft / REGISTRY)
    if with_key:
        shutil.copy(settings.signing_key_file, draft / KEY)
        (draft / KEY).chmod(0o600)
    found = Backup(
        made_at_ms=now_ms,
        database=settings.database,
        pipelines=list(pipelines),
        digests={
            str(path.relative_to(draft)): _sha256(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        },
    )
    (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    draft.rename(folder)
    return found


def read_backup(folder: Path) -> Backup:
    """What the backup in ``folder`` holds, once every file is what it was.

    Raises:
        SetupError: there is none, or a file is missing or different, or it names what no backup
            of ours does: the name of the database becomes part of a statement.
    """
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Backup)
    except (OSError, *UNDECODABLE) as cause:
        raise SetupError(f"could not read a backup in {folder}: {cause}") from cause
    if found.version != 1 or not DATABASE.fullmatch(found.database):
        raise SetupError(
            f"could not use the backup in {folder}: version={found.version}, "
            f"database={found.database[:80]!r}"
        )
    for name, digest in found.digests.items():
        if not _holds(folder, name, digest):
            raise SetupError(
                f"could not use the backup in {folder}: {name[:200]} is missing or not what it "
                "was. Take another copy of it."
            )
    return found


def restore_files(settings: Settings, folder: Path, found: Backup) -> dict[str, int]:
    """Put back models and ledger snapshots that are missing; what is there stays as it is.

    Returns how many files came back, by what they are.
    """
    counts = {}
    for part, root in ((REGISTRY, settings.registry_root), (LEDGER, settings.ledger_root)):
        names = [n for n in found.digests if n.startswith(f"{part}/")]
        counts[part] = _put_missing(folder, part, names, root)
    if KEY in found.digests and not settings.signing_key_file.exists():
        settings.signing_key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(folder / KEY, settings.signing_key_file)
        settings.signing_key_file.chmod(0o600)
        counts["key"] = 1
    return counts


def restore_store(settings: Settings, folder: Path, found: Backup, *, replace: bool) -> None:
    """Load the tables from the backup. The store runs, and nobody writes to it.

    Raises:
        SetupError: the database holds tables and ``replace`` is not given.
        StoreUnavailable: the store does not answer.
    """
    name = f"restore-{found.made_at_ms}.tar.zst"
    kept = settings.home.absolute() / "store" / "backups"
    kept.mkdir(parents=True, exist_ok=True)
    client = connect(settings, database="default")
    database = settings.database
    try:
        [(tables,)] = client.query(
            "SELECT count() FROM system.tables WHERE database = {name:String}",
            parameters={"name": database},
        ).result_rows
        if tables and not replace:
            raise SetupError(
                f"could not restore into database {database}: it has {tables} tables. Say "
                "--replace to drop them first."
            )
        shutil.copy(folder / STORE, kept / name)
        with mapped_errors("drop what the store holds"):
            client.command(f"DROP DATABASE IF EXISTS {database} SYNC")
        source = f"FROM Disk('backups', '{name}')"
        _carry_out(client, f"RESTORE DATABASE {found.database} AS {database} {source}", name)
    finally:
        client.close()
        (kept / name).unlink(missing_ok=True)


TABLES = ("scored", "labels", "examples", "dead_letters", "evaluations", "alarms")
"""Tables whose rows come from topics."""


async def rewind_landers(settings: Settings, pipeline: Pipeline) -> dict[str, int]:
    """Let the landers of ``pipeline`` go on behind the last row of each partition.

    Returns how many records of each topic will be read again or for the first time. A message whose
    rows are there is whole: its rows were one insert.

    Raises:
        KafkaUnavailable: no broker answered, or a lander still runs.
    """
    client = connect(settings)
    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(),
        group_id=land_group(pipeline.name),
        enable_auto_commit=False,
    )
    try:
        async with asyncio.timeout(KAFKA_S_MAX):
            await consumer.start()
            return await _rewind(consumer, client, pipeline)
    except (KafkaError, TimeoutError) as cause:
        raise KafkaUnavailable(
            f"could not set where the landers of {pipeline.name} go on: {cause!r}. Stop every "
            f"worker of group {land_group(pipeline.name)} and try again."
        ) from cause
    finally:
        await consumer.stop()
        client.close()


async def _rewind(consumer: AIOKafkaConsumer, client: Client, pipeline: Pipeline) -> dict[str, int]:
    topics = pipeline.topics
    offsets, again = {}, {}
    for table in TABLES:
        topic = getattr(topics, table)
        landed = client.query(
            f"SELECT topic_partition, max(topic_offset) + 1 FROM {table} "
            "WHERE pipeline = {name:String} GROUP BY topic_partition",
            parameters={"name": pipeline.name},
        ).result_rows
        behind = {int(partition): int(offset) for partition, offset in landed}
        places = [TopicPartition(topic.name, p) for p in range(topic.partitions)]
        first, end = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        again[topic.name] = 0
        for place in places:
            start = min(max(behind.get(place.partition, 0), first[place]), end[place])
            offsets[place] = OffsetAndMetadata(start, "")
            again[topic.name] += end[place] - start
    consumer.assign(list(offsets))
    await consumer.commit(offsets)
    return again


def _carry_out(client: Client, statement: str, name: str) -> None:
    """Let the store work on its own and ask how far it is: it may take longer than an answer."""
    with mapped_errors("copy the store"):
        client.command(f"{statement} SETTINGS async = 1, id = '{name}'")
        deadline = time.monotonic() + STORE_S_MAX
        while True:
            [(status, error)] = client.query(
                "SELECT status, error FROM system.backups WHERE id = {id:String}",
                parameters={"id": name},
            ).result_rows
            if status in {"BACKUP_CREATED", "RESTORED"}:
                return
            if "FAILED" in status or "CANCELLED" in status or time.monotonic() > deadline:
                raise SetupError(f"could not finish {name}: {status} {error[:500]}")
            time.sleep(0.1)


def _fetch(root: str, into: Path) -> None:
    """Copy what lies below an fsspec address; what is swept meanwhile was not needed any more."""
    files, base = fsspec.core.url_to_fs(root)
    into.mkdir()
    for name in files.find(base) if files.exists(base) else []:
        path = into / name.removeprefix(base).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            files.get_file(name, str(path))
        except FileNotFoundError:
            path.unlink(missing_ok=True)


def _put_missing(folder: Path, part: str, names: Sequence[str], root: str) -> int:
    files, base = fsspec.core.url_to_fs(root)
    count = 0
    for name in names:
        place = f"{base}/{name.removeprefix(f'{part}/')}"
        if not files.exists(place):
            files.makedirs(place.rpartition("/")[0], exist_ok=True)
            files.put_file(str(folder / name), place)
            count += 1
    return count


def _holds(folder: Path, name: str, digest: str) -> bool:
    """Whether the file is there, inside ``folder``, with these bytes."""
    path = folder / name
    try:
        inside = ".." not in Path(name).parts and path.resolve().is_relative_to(folder.resolve())
        return inside and path.is_file() and _sha256(path) == digest
    except (OSError, ValueError):  # no file can have such a name
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
