"""Rows that the engine could not store are never called stored: broken rules, broken views, full disks."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.errors import StoreUnavailable
from schemas.settings import Settings
from streams.store.client import connect, insert_rows
from streams.store.gateway.configuration import FREE_BYTES_MIN
from tests.connected.store_http import send
from tests.connected.test_store_process import Process, gateway, unused_port

pytestmark = pytest.mark.embedded

__all__ = ["gateway"]
Unique = Callable[[str], str]
DISK_BYTES = FREE_BYTES_MIN + (128 << 20)
PIECE_BYTES = 6 << 20
ROWS_A_PART = 50


def test_rows_that_break_a_rule_are_an_error(store: str, unique: Unique) -> None:
    """chDB's own insert by pieces says that all is well, and keeps nothing."""
    table = unique("tidemill.ruled")
    made = (
        f"CREATE TABLE {table} (a UInt8, CONSTRAINT low CHECK a < 9) ENGINE = MergeTree ORDER BY a"
    )
    assert send(store, made).status == 200
    refused = send(store, '{"a": 9}\n', query=f"INSERT INTO {table} FORMAT JSONEachRow")
    assert (refused.status, refused.code) == (500, 469)
    assert "is violated" in refused.text
    assert send(store, '{"a": 8}\n', query=f"INSERT INTO {table} FORMAT JSONEachRow").status == 200
    assert send(store, f"SELECT groupArray(a) FROM {table}").text == "[8]\n"


def test_rows_that_a_view_fails_on_are_an_error(store: str, unique: Unique) -> None:
    seen, derived = unique("tidemill.seen"), unique("tidemill.derived")
    select = f"SELECT toUInt8(throwIf(a = 7) + a) AS a FROM {seen}"
    for statement in (
        f"CREATE TABLE {seen} (a UInt8) ENGINE = MergeTree ORDER BY a",
        f"CREATE TABLE {derived} (a UInt8) ENGINE = MergeTree ORDER BY a",
        f"CREATE MATERIALIZED VIEW {unique('tidemill.view')} TO {derived} AS {select}",
    ):
        assert send(store, statement).status == 200, statement
    refused = send(store, "7\n", query=f"INSERT INTO {seen} FORMAT TSV")
    assert (refused.status, refused.code) == (500, 395)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("a disk of a test's own needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={DISK_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_loses_and_damages_nothing(small_disk: Path) -> None:
    """
    Goal: an insert into a full store fails and may be repeated; what was stored before is whole.

    Method: parts come in all the time, so that merges run, while somebody else fills the disk in
    pieces, three times. The engine keeps a distance to the end of the disk, because a merge that meets
    it leaves a damaged part in the place of good ones.
    """
    process = Process(small_disk / "store", unused_port())
    settings = Settings(home=small_disk, clickhouse=process.url, database="default")
    try:
        send(process.url, "CREATE DATABASE full")
        send(process.url, "CREATE TABLE full.t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        client = connect(settings, database="full")
        stored = failed = 0
        for _ in range(3):
            ballast = small_disk / "ballast"
            with ballast.open("wb") as file:
                for step in range(60):
                    try:
                        insert_rows(client, "t", _rows(stored), token=f"from {stored}")
                        stored += ROWS_A_PART
                    except StoreUnavailable:
                        failed += 1
                    with contextlib.suppress(OSError):  # the last pieces do not fit
                        os.posix_fallocate(file.fileno(), step * PIECE_BYTES, PIECE_BYTES)
                    time.sleep(0.02)
            ballast.unlink()
        found = send(process.url, "SELECT count(), uniqExact(a), max(length(b)) FROM full.t").text
        checked = send(
            process.url, "CHECK TABLE full.t SETTINGS check_query_single_value_result = 0"
        ).text
        client.close()
    finally:
        process.end(9)
    assert found == f"{stored}\t{stored}\t100\n"
    assert failed > 9
    assert stored > 9 * ROWS_A_PART
    assert all(line.split("\t")[1] == "1" for line in checked.splitlines()), checked


def _rows(first: int) -> pa.Table:
    numbers = range(first, first + ROWS_A_PART)
    return pa.table({"a": pa.array(numbers, pa.uint64()), "b": ["x" * 100 for _ in numbers]})
