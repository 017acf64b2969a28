"""The tables, made and changed by numbered SQL files that are only ever added to.

Each ``schemas/tables/NNNN_name.sql`` is one template for a single server and for a cluster:

* ``{database}``            the database, quoted
* ``{engine:MergeTree}``    ``MergeTree``, on a cluster ``ReplicatedMergeTree``
* ``{dedup}``               the settings that make a repeated insert a no-op
* ``{on_cluster}``          nothing, on a cluster ``ON CLUSTER 'name'``

A file that was applied anywhere never changes. Every statement can run twice (``IF NOT EXISTS``):
ClickHouse has neither transactions over DDL nor locks, so two processes that start at once may both
run a file; the second run finds everything there, and its record is dropped by its token.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import schemas
from schemas.errors import SetupError
from schemas.settings import Settings
from streams.store.client import Client, connect, mapped_errors

FOLDER = Path(schemas.__file__).with_name("tables")
DEDUPLICATION_WINDOW = 100_000
"""Inserts whose token a table remembers: 24 partitions at one insert a second over an outage of
15 minutes, twice, with room. It is 0 by default, and then tokens do nothing."""
REPLICATED_DEDUPLICATION_WINDOW = 50_000
"""On a cluster each is a node in Keeper, so fewer."""

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_PLACE = re.compile(r"\{(database|dedup|on_cluster|engine:([A-Za-z]+(?:\([^)}]*\))?))\}")

_RECORDS = """CREATE TABLE IF NOT EXISTS {database}.schema_migrations {on_cluster}
(
    version    UInt32,
    name       String,
    sha256     String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree}
ORDER BY (version, sha256)
SETTINGS {dedup}"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    template: str

    @property
    def sha256(self) -> str:
        """Of the template as it is in the file."""
        return hashlib.sha256(self.template.encode()).hexdigest()


def read_migrations(folder: Path = FOLDER) -> list[Migration]:
    """The files in order.

    Raises:
        SetupError: a name that is not ``NNNN_name.sql``, or numbers that are not 1, 2, 3 ...
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise SetupError(f"could not read migration {path.name}: it must be NNNN_name.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise SetupError(
            f"could not read migrations in {folder.name}: numbers must run from 0001 without gaps "
            f"or repeats, found {[m.version for m in found]}"
        )
    return found


def render(template: str, *, database: str, cluster: str = "") -> list[str]:
    """The statements of ``template`` for one server, or for ``cluster``."""

    def place(match: re.Match[str]) -> str:
        if match[2]:
            return f"Replicated{match[2]}" if cluster else match[2]
        if match[1] == "database":
            return _quoted(database)
        if match[1] == "on_cluster":
            return f"ON CLUSTER {_quoted(cluster)}" if cluster else ""
        if cluster:
            return (
                f"replicated_deduplication_window = {REPLICATED_DEDUPLICATION_WINDOW}, "
                "replicated_deduplication_window_seconds = 604800"
            )
        return f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"

    sql = _PLACE.sub(place, re.sub(r"^\s*--.*$", "", template, flags=re.MULTILINE))
    return [one.strip() for one in sql.split(";\n") if one.strip(" \n;")]


def migrate(
    settings: Settings, *, dry_run: bool = False, migrations: Sequence[Migration] | None = None
) -> list[Migration]:
    """Bring the database of ``settings`` to the newest version; returns what was (to be) applied.

    Safe to call from several processes at once and at any time. With ``dry_run`` nothing changes.

    Raises:
        SetupError: an applied file was changed or is gone, or a statement fails.
        StoreUnavailable: the store does not answer.
    """
    wanted = read_migrations() if migrations is None else list(migrations)
    cluster = settings.clickhouse_cluster
    # The database may not exist yet, so the client must not select it.
    client = connect(settings, database="default")
    try:
        if not dry_run:
            on_cluster = f"ON CLUSTER {_quoted(cluster)}" if cluster else ""
            database = _quoted(settings.database)
            _run(client, f"CREATE DATABASE IF NOT EXISTS {database} {on_cluster}", "the database")
            for sql in render(_RECORDS, database=settings.database, cluster=cluster):
                _run(client, sql, "schema_migrations")
        applied = _applied(client, settings.database)
        pending = _pending(wanted, applied)
        if dry_run:
            return pending
        for migration in pending:
            for sql in render(migration.template, database=settings.database, cluster=cluster):
                _run(client, sql, f"{migration.version:04}_{migration.name}")
            _record(client, settings.database, migration)
        return pending
    finally:
        client.close()


def _pending(wanted: Sequence[Migration], applied: dict[int, str]) -> list[Migration]:
    known = {migration.version: migration for migration in wanted}
    for version, sha256 in applied.items():
        migration = known.get(version)
        if migration is None:
            raise SetupError(
                f"could not use the store: it is at migration {version:04}, newer than this "
                f"program's newest {max(known, default=0):04}. Update the program."
            )
        if migration.sha256 != sha256:
            raise SetupError(
                f"could not use the store: migration {version:04}_{migration.name} was applied as "
                f"sha256={sha256[:12]} and is now {migration.sha256[:12]}. A file that was applied "
                "never changes: restore it, and put the change into a new file."
            )
    return [migration for migration in wanted if migration.version not in applied]


def _applied(client: Client, database: str) -> dict[int, str]:
    with mapped_errors("read schema_migrations"):
        there = client.query(
            "SELECT count() FROM system.tables "
            "WHERE database = {database:String} AND name = 'schema_migrations'",
            parameters={"database": database},
        ).result_rows[0][0]
        if not there:
            return {}
        rows = client.query(
            f"SELECT version, sha256 FROM {_quoted(database)}.schema_migrations ORDER BY applied_at"
        ).result_rows
    return {int(version): str(sha256) for version, sha256 in rows}


def _record(client: Client, database: str, migration: Migration) -> None:
    with mapped_errors(f"record migration {migration.version:04}"):
        client.command(
            f"INSERT INTO {_quoted(database)}.schema_migrations (version, name, sha256) "
            "SELECT {version:UInt32}, {name:String}, {sha256:String}",
            parameters={
                "version": migration.version,
                "name": migration.name,
                "sha256": migration.sha256,
            },
            settings={
                "insert_deduplication_token": f"{migration.version}|{migration.sha256}",
                "async_insert": 0,
            },
        )


def _run(client: Client, sql: str, name: str) -> None:
    with mapped_errors(f"apply {name}"):
        client.command(sql)


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
