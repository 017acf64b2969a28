"""`store`: short queries beside writers, writers beside long queries, and what a bomb costs."""

import gzip
import http.client
import itertools
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from streams.bench.histogram import quantiles
from streams.bench.result import Goal, Result
from streams.local.store import EmbeddedStore

SELECT_P99_MS_MAX = 10.0
"""Goal: ``select 1`` while two writers land 20,000 rows/s each."""
INSERT_P99_MS_MAX = 1000.0
"""Goal: an insert of 10,000 rows while 12 long queries run; landers wait a second for rows."""
BOMB_BYTES_MAX = 200 << 20
BOMB_S_MAX = 2.0
WRITERS = 2
ROWS = 10_000
EVERY_S = 0.5
SELECTS_PER_S = 100
READERS = 12
COLUMNS = 12
LONG = "SELECT sum(sin(number)) FROM numbers(1000000000000)"

_MADE = (
    "CREATE TABLE bench_rows (id UInt64, {}) ENGINE = MergeTree ORDER BY id "
    "SETTINGS non_replicated_deduplication_window = 100000"
).format(", ".join(f"c{number} Float64" for number in range(1, COLUMNS)))

Latencies = npt.NDArray[np.float64]


def run(*, seconds: float) -> Result:
    """Measure on a store of its own, whose processes are the only ones that it starts."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-store-") as folder,
        EmbeddedStore(Path(folder) / "store") as store,
    ):
        _ask(store.port, _MADE)
        select_alone = _selects(store.port, seconds)
        inserts_beside: list[Latencies] = []
        with _writing(store.port, seconds + 2.0, inserts_beside):
            select_beside = _selects(store.port, seconds)
        inserts_alone: list[Latencies] = []
        with _writing(store.port, seconds, inserts_alone):
            pass
        inserts_against: list[Latencies] = []
        with _long_queries(store.port), _writing(store.port, seconds, inserts_against):
            pass
        sets = (inserts_beside, inserts_alone, inserts_against)
        asked = sum(len(one) for found in sets for one in found) * ROWS
        assert int(_ask(store.port, "SELECT count() FROM bench_rows")) == asked
        bombs = [_bomb(store, megabytes) for megabytes in (1, 10)]
    selects = [
        {"who": "select 1, alone", "queries": len(select_alone), **quantiles(select_alone)},
        {"who": "select 1, 2 writers", "queries": len(select_beside), **quantiles(select_beside)},
    ]
    inserts = [_inserts("select 1 beside", inserts_beside), _inserts("alone", inserts_alone)]
    inserts.append(_inserts(f"{READERS} long queries", inserts_against))
    p99 = float(np.quantile(select_beside, 0.99)) * 1000
    landing_ms = float(np.quantile(np.concatenate(inserts_against), 0.99)) * 1000
    cost = max(bombs, key=lambda one: float(one["seconds"]))
    return Result(
        "store",
        [*selects, *inserts, *bombs],
        goals=[
            Goal(f"select 1, 2 writers: p99 < {SELECT_P99_MS_MAX:g} ms", p99 < SELECT_P99_MS_MAX),
            Goal(
                f"insert of {ROWS} rows beside {READERS} long queries: p99 under "
                f"{INSERT_P99_MS_MAX:g} ms",
                landing_ms < INSERT_P99_MS_MAX,
            ),
            Goal(
                f"a bomb costs less than {BOMB_BYTES_MAX >> 20} MiB and {BOMB_S_MAX:g} s",
                cost["seconds"] < BOMB_S_MAX
                and max(float(one["peak_mib"]) for one in bombs) < BOMB_BYTES_MAX >> 20,
            ),
        ],
    )  # fmt: skip


def _inserts(who: str, found: list[Latencies]) -> dict[str, Any]:
    every = np.concatenate(found)
    return {"who": f"insert {ROWS:,} rows, {who}", "inserts": len(every), **quantiles(every)}


def _ask(port: int, sql: str | bytes, path: str = "/", **headers: str) -> str:
    """One request on a connection of its own."""
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        wire.request("POST", path, sql, headers)
        reply = wire.getresponse()
        text = reply.read().decode()
        assert reply.status == 200 or headers, text
        return text
    finally:
        wire.close()


def _selects(port: int, seconds: float) -> Latencies:
    """``select 1`` at a steady rate, one at a time; late ones are timed from when they were due."""
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    found, began_s = [], time.perf_counter()
    for number in itertools.count():
        due_s = began_s + number / SELECTS_PER_S
        if due_s - began_s > seconds:
            break
        time.sleep(max(0.0, due_s - time.perf_counter()))
        wire.request("POST", "/", b"SELECT 1")
        assert wire.getresponse().read() == b"1\n"
        found.append(time.perf_counter() - due_s)
    wire.close()
    return np.array(found)


@contextmanager
def _writing(port: int, seconds: float, found: list[Latencies]) -> Iterator[None]:
    """Writers in processes of their own meanwhile; afterwards ``found`` has their latencies."""
    context = multiprocessing.get_context("spawn")  # a fork would take the threads' locks along
    started = []
    for number in range(WRITERS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_write, args=(port, number, seconds, theirs), daemon=True)
        process.start()
        started.append((process, ours))
    assert all(pipe.poll(120) and pipe.recv() == "ready" for _, pipe in started)
    yield
    for process, pipe in started:
        assert pipe.poll(seconds + 120), "a writer has ended"
        found.append(pipe.recv())
        process.join()


def _write(port: int, number: int, seconds: float, pipe: Connection) -> None:
    """Insert Arrow blocks at a steady rate over plain HTTP, each with a token of its own."""
    random = np.random.default_rng(number)
    columns = [pa.array(np.arange(ROWS, dtype=np.uint64))]
    columns += [pa.array(random.random(ROWS)) for _ in range(1, COLUMNS)]
    table = pa.table(columns, names=["id", *(f"c{index}" for index in range(1, COLUMNS))])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue().to_pybytes()
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    pipe.send("ready")
    found, began_s = [], time.perf_counter()
    for turn in itertools.count():
        due_s = began_s + (turn + number / WRITERS) * EVERY_S
        if due_s - began_s > seconds:
            break
        time.sleep(max(0.0, due_s - time.perf_counter()))
        token = f"{number}-{turn}-{began_s}"
        path = (
            f"/?query=INSERT+INTO+bench_rows+FORMAT+ArrowStream&insert_deduplication_token={token}"
        )
        wire.request("POST", path, body)
        reply = wire.getresponse()
        assert reply.status == 200, reply.read()
        reply.read()
        found.append(time.perf_counter() - due_s)
    pipe.send(np.array(found))


@contextmanager
def _long_queries(port: int) -> Iterator[None]:
    """`READERS` queries without end meanwhile."""
    threads = [
        threading.Thread(target=_ask, args=(port, LONG), kwargs={"X-Ended": "1"}, daemon=True)
        for _ in range(READERS)
    ]
    for thread in threads:
        thread.start()
    tested = "KILL QUERY WHERE query LIKE '%sin(number)%' TEST"  # it has turns of its own
    while len(_ask(port, tested).splitlines()) < READERS:
        time.sleep(0.05)
    yield
    _ask(port, "KILL QUERY WHERE query LIKE '%sin(number)%' SYNC")
    for thread in threads:
        thread.join()


def _bomb(store: EmbeddedStore, megabytes: int) -> dict[str, Any]:
    """So many megabytes of gzip, each of which unpacks to one gigabyte."""
    block = gzip.compress(bytes(64 << 20), 9)
    body = block * (megabytes * (1 << 20) // len(block))
    status = Path(f"/proc/{store.pid}/status")
    Path(f"/proc/{store.pid}/clear_refs").write_text("5", encoding="ascii")
    before = psutil.Process(store.pid).memory_info().rss
    began_s = time.perf_counter()
    answer = _ask(store.port, body, **{"Content-Encoding": "gzip"})
    seconds = time.perf_counter() - began_s
    assert "TOO_MANY_BYTES" in answer, answer[:200]
    peak = next(
        int(line.split()[1]) << 10
        for line in status.read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM:")
    )
    return {
        "who": f"{megabytes} MB of gzip that are {megabytes} GB",
        "seconds": round(seconds, 2),
        "peak_mib": round((peak - before) / (1 << 20), 1),
    }
