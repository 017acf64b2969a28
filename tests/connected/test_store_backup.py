"""BACKUP and RESTORE over SQL, and the places they must not go."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.local.store import EmbeddedStore
from tests.connected.store_http import send

pytestmark = pytest.mark.embedded

Unique = Callable[[str], str]

SUMS = "SELECT count(), sum(cityHash64(*)) FROM {}"


def test_a_dropped_database_comes_back_row_by_row(store: str, unique: Unique) -> None:
    """Tables, views and what a materialized view has gathered; then what came later by increment."""
    database, first, second = unique("kept"), unique("first"), unique("second")
    for sql in (
        f"CREATE DATABASE {database}",
        f"CREATE TABLE {database}.t (n UInt64, s String) ENGINE = MergeTree ORDER BY n",
        f"CREATE MATERIALIZED VIEW {database}.m ENGINE = SummingMergeTree ORDER BY n AS SELECT n FROM {database}.t",
        f"CREATE VIEW {database}.v AS SELECT max(n) AS top FROM {database}.t",
        f"INSERT INTO {database}.t SELECT number, toString(number) FROM numbers(50000)",
    ):
        assert send(store, sql).status == 200
    tables = [f"{database}.{name}" for name in ("t", "m", "v")]
    before = [send(store, SUMS.format(table)).text for table in tables]
    made = send(store, f"BACKUP DATABASE {database} TO Disk('backups', '{first}.tar.zst')")
    assert made.text.split("\t")[1] == "BACKUP_CREATED\n"
    assert made.headers["X-ClickHouse-Format"] == "TabSeparated"
    send(store, f"INSERT INTO {database}.t VALUES (1000000, 'late')")
    later = [send(store, SUMS.format(table)).text for table in tables]
    assert later != before
    base = f"base_backup = Disk('backups', '{first}.tar.zst'), id = '{second}'"
    more = f"BACKUP DATABASE {database} TO Disk('backups', '{second}') SETTINGS {base}"
    assert "BACKUP_CREATED" in send(store, more).text
    for name, wanted in ((f"{first}.tar.zst", before), (second, later)):
        assert send(store, f"DROP DATABASE {database} SYNC").status == 200
        restored = send(store, f"RESTORE DATABASE {database} FROM Disk('backups', '{name}')")
        assert "RESTORED" in restored.text, restored.text
        assert [send(store, SUMS.format(table)).text for table in tables] == wanted
    states = f"SELECT status FROM system.backups WHERE id = '{second}'"
    assert send(store, states).text == "BACKUP_CREATED\n"


def test_a_backup_is_restored_by_another_store(
    store_process: EmbeddedStore, tmp_path: Path, unique: Unique
) -> None:
    """Copied into another folder: how data move to an older engine or another machine."""
    table, name = unique("tidemill.moved"), f"{unique('moved')}.tar"
    url, other = store_process.url, tmp_path / "other"
    send(url, f"CREATE TABLE {table} (n UInt64) ENGINE = MergeTree ORDER BY n")
    send(url, f"INSERT INTO {table} SELECT number FROM numbers(1000)")
    made = send(url, f"BACKUP TABLE {table} TO Disk('backups', '{name}')")
    assert "BACKUP_CREATED" in made.text
    (other / "backups").mkdir(parents=True)
    shutil.copy(store_process.folder / "backups" / name, other / "backups" / name)
    with EmbeddedStore(other) as store:
        sql = f"RESTORE TABLE {table} AS tidemill.u FROM Disk('backups', '{name}')"
        assert "RESTORED" in send(store.url, sql).text
        assert send(store.url, "SELECT count(), sum(n) FROM tidemill.u").text == "1000\t499500\n"


@pytest.mark.parametrize(
    "place",
    [
        "Memory('x')",
        "Null",
        "File('/tmp/x')",
        "S3('http://127.0.0.1/x')",
        "Disk('default', 'x')",
        "Disk('backups', '../x')",
        "Disk('backups', '/tmp/x')",
        "Disk('backups', 'a/b')",
        "Disk('backups', '.x')",
        "Disk('backups', '')",
        "Disk({d:String}, 'x')",
        "disk(type = local, path = '/tmp/')",
        "Disk('backups', 'x') SETTINGS base_backup = File('/tmp/x')",
        "Disk('backups', 'x') SETTINGS password = 'x'",
        "Disk('backups', 'x') SETTINGS id = 'x', base_backup = 1",
        "Disk('backups', 'x'), Memory('x')",
    ],
)
@pytest.mark.parametrize("verb", ["BACKUP TABLE tidemill.t TO", "RESTORE TABLE tidemill.t FROM"])
def test_other_places_are_refused(store: str, verb: str, place: str) -> None:
    reply = send(store, f"{verb} {place}", param_d="backups")
    assert (reply.status, reply.code in {497, 62}) == ((403 if reply.code == 497 else 400), True)


def test_backups_are_not_read_or_written_by_other_statements(store: str, unique: Unique) -> None:
    table = unique("tidemill.lain")
    columns = f"CREATE TABLE {table} (n UInt8) ENGINE = MergeTree ORDER BY n"
    for sql in (
        f"{columns} SETTINGS disk = 'backups'",
        f"{columns} SETTINGS index_granularity = 8192, `disk` = 'backups'",
        f"{columns} SETTINGS disk = disk(type = local, path = '/tmp/')",
        "SELECT * FROM disk('backups', 'x', 'RawBLOB')",
        "SELECT * FROM filesystem('backups')",
    ):
        assert send(store, sql).code == 497, sql
    assert send(store, "SELECT 1 AS disk WHERE disk = 1").text == "1\n"
    assert send(store, method="GET", query="BACKUP ALL TO Disk('backups', 'x')").code == 164


def test_every_disk_but_one_is_for_backups(store: str) -> None:
    disks = send(store, "SELECT name FROM system.disks ORDER BY name").text.split()
    assert disks == ["backups", "default"]
