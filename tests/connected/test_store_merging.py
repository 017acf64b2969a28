"""Few rows at a time: the store neither merges many rows again and again, nor grows by their parts."""

import time
from collections.abc import Callable

import psutil
import pytest

from schemas.settings import Settings
from streams.local.store import EmbeddedStore
from streams.store.client import connect

LARGE_ROWS, SMALL_ROWS, INSERTS = 20_000, 20, 120
PARTS = 300
MERGED_SHARE_MAX = 20.0
"""Rows merged for each row of the large part; 43 with the engine's own settings, 8 with ours."""


def test_small_inserts_do_not_rewrite_a_large_part(
    store: str, unique: Callable[[str], str]
) -> None:
    """Landers insert five times a second at least; half of the store's time went into merges."""
    table = unique("merged")
    client = connect(Settings(clickhouse=store))
    client.command(
        f"CREATE TABLE {table} (place UInt64, score Float32) ENGINE = MergeTree ORDER BY place"
    )
    client.command(f"INSERT INTO {table} SELECT number, number % 20 FROM numbers({LARGE_ROWS})")
    before = _merged_rows(client)
    for number in range(INSERTS):
        first = LARGE_ROWS + number * SMALL_ROWS
        client.command(f"INSERT INTO {table} SELECT number, 0 FROM numbers({first}, {SMALL_ROWS})")
        time.sleep(0.03)
    merged = _merged_rows(client) - before
    rows = client.query(f"SELECT count() FROM {table}").result_rows[0][0]
    parts = client.query(
        f"SELECT count() FROM system.parts WHERE active AND table = '{table}'"
    ).result_rows[0][0]
    client.command(f"DROP TABLE {table}")
    client.close()
    assert rows == LARGE_ROWS + INSERTS * SMALL_ROWS
    assert parts < 30
    assert merged < MERGED_SHARE_MAX * LARGE_ROWS, (merged, parts)


@pytest.mark.embedded
def test_removing_many_old_parts_takes_no_hundred_threads(
    store_process: EmbeddedStore, unique: Callable[[str], str]
) -> None:
    """Each stays for as long as the store runs, with its memory and three open files."""
    table = unique("removed")
    client = connect(Settings(clickhouse=store_process.url))
    client.command(
        f"CREATE TABLE {table} (place UInt64) ENGINE = MergeTree ORDER BY place PARTITION BY place"
    )
    many = {"max_partitions_per_insert_block": PARTS}
    client.command(f"INSERT INTO {table} SELECT number FROM numbers({PARTS})", settings=many)
    process = psutil.Process(store_process.pid)
    before = process.num_threads()
    client.command(f"DROP TABLE {table} SYNC")
    client.close()
    assert process.num_threads() < before + 40  # 127 more with the engine's own settings


def _merged_rows(client) -> int:
    answer = client.query("SELECT value FROM system.events WHERE event = 'MergedRows'")
    return int(answer.result_rows[0][0]) if answer.result_rows else 0
