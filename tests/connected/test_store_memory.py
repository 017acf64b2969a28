"""What the engine's threads keep."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from schemas.settings import Settings
from streams.local.store import EmbeddedStore
from streams.store.client import connect

CLIENTS, ROUNDS, ROWS = 16, 12, 200_000
MORE_MIB_MAX = 40.0
"""22 with our allocator's settings, 60 with the engine's own, for some 42 threads more."""
STATEMENTS = (
    "SELECT k % 100, count(), avg(x), uniq(s) FROM t GROUP BY 1 ORDER BY 1",
    "SELECT max(s), sum(f[1]) FROM t WHERE k % 7 = 1",
    "SELECT s, x FROM t ORDER BY x DESC LIMIT 100",
)


@pytest.mark.embedded
def test_threads_of_a_busy_moment_keep_little_memory(tmp_path: Path) -> None:
    """
    Goal: a store that was asked much at once is little larger afterwards than one that was not.

    Method: the same questions by one client and then by many; the engine keeps all threads.
    """
    with EmbeddedStore(tmp_path / "clickhouse") as store:
        settings = Settings(clickhouse=store.url)
        client = connect(settings)
        client.command(
            "CREATE TABLE t (k UInt64, s String, f Array(Float32), x Float64)"
            " ENGINE = MergeTree ORDER BY k"
        )
        client.command(
            "INSERT INTO t SELECT number, toString(number), [1, 2, 3, 4], rand()"
            f" FROM numbers({ROWS})"
        )
        client.close()
        _ask(settings)
        time.sleep(6.0)
        before = _own_mib(store.pid)
        with ThreadPoolExecutor(CLIENTS) as many:
            list(many.map(_ask, [settings] * CLIENTS))
        time.sleep(6.0)
        assert _own_mib(store.pid) < before + MORE_MIB_MAX


def _ask(settings: Settings) -> None:
    client = connect(settings)
    for _ in range(ROUNDS):
        for statement in STATEMENTS:
            client.query(statement)
    client.close()


def _own_mib(pid: int) -> float:
    memory = psutil.Process(pid).memory_info()
    return (memory.rss - memory.shared) / 2**20
