"""Answers that come in pieces: complete, flat in memory, honest in mid-stream, ended when nobody reads."""

import json
import threading
from collections.abc import Callable, Iterator

import clickhouse_connect
import psutil
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from streams.local.store import EmbeddedStore
from tests.connected.store_http import send

Unique = Callable[[str], str]


@pytest.fixture
def client(store_process: EmbeddedStore) -> Iterator[Client]:
    """A person's client: with a session, compression and defaults."""
    made = clickhouse_connect.get_client(host="127.0.0.1", port=store_process.port)
    yield made
    made.close()


def test_an_error_in_mid_stream_reaches_the_client(client: Client, store: str) -> None:
    """Rows have been sent by then; half an answer must not look like a whole one."""
    sql = "SELECT throwIf(number = 2900000) FROM numbers(3000000)"
    with pytest.raises(DatabaseError, match="395"), client.query_row_block_stream(sql) as blocks:
        assert sum(len(block) for block in blocks) < 3_000_000
    reply = send(store, sql)
    assert reply.status == 200
    tag = reply.headers["X-ClickHouse-Exception-Tag"].encode()
    assert b"__exception__\r\n" + tag + b"\r\nCode: 395" in reply.body
    with pytest.raises(DatabaseError, match="47"):
        client.query("SELECT nope")


@pytest.mark.parametrize(
    "form",
    [
        "CSVWithNames",
        "TSVWithNamesAndTypes",
        "CSV",
        "JSONEachRow",
        "RowBinaryWithNamesAndTypes",
        "JSONCompactEachRowWithNames",
        "ArrowStream",
        "Native",
        "JSON",
        "Parquet",
        "Values",
    ],
)
def test_a_streamed_answer_equals_the_whole_one(store: str, form: str) -> None:
    """Blocks come with a header each; joined they must read as one document."""
    rows = 'SELECT number AS `a\n"b`, toString(number) AS s FROM numbers({})'
    sql = f"{rows.format(200_000)} FORMAT {form}"
    reply = send(store, sql)
    assert reply.status == 200, reply.text
    if form == "ArrowStream":
        table = pa.ipc.open_stream(reply.body).read_all()
        assert table.column(0).to_pylist() == list(range(200_000))
    elif form == "JSON":
        assert json.loads(reply.body)["rows"] == 200_000
    elif form not in {"Native", "Parquet", "Values"}:
        small = send(store, f"{rows.format(1)} FORMAT {form}").body
        header = send(store, f"{rows.format(0)} FORMAT {form}").body
        assert reply.body.startswith(small)
        if header:
            assert small.startswith(header)
            assert reply.body.count(header) == 1
        if form in {"CSV", "JSONEachRow"}:
            assert reply.body.count(b"\n") == 200_000


def test_totals_and_extremes_are_not_lost(store: str) -> None:
    sql = "SELECT number % 2 AS p, count() FROM numbers(5) GROUP BY p WITH TOTALS ORDER BY p"
    assert send(store, sql).text == "0\t3\n1\t2\n\n0\t5\n"
    assert send(store, "SELECT number FROM numbers(3)", extremes=1).text.endswith("\n0\n2\n")


def test_a_long_answer_needs_little_memory(store_process: EmbeddedStore, store: str) -> None:
    """10 M rows of 230 MB; the sketch before this grew by 1,170 MB."""
    gateway = max(
        (p for p in psutil.process_iter() if _serves(p, str(store_process.folder))),
        key=lambda p: p.memory_info().rss,
    )
    send(store, "SELECT number FROM numbers(2000000)")
    before = gateway.memory_info().rss
    sql = "SELECT number, toString(number), number * 2 FROM numbers(10000000) FORMAT RowBinary"
    stream = _open(store, sql)
    size = peak = 0
    while piece := stream.read(1 << 20):
        size += len(piece)
        peak = max(peak, gateway.memory_info().rss)
    stream.close()
    assert size > 200_000_000
    assert peak - before < 100 << 20


def test_a_reader_that_leaves_ends_its_query(store: str) -> None:
    stream = _open(store, "SELECT number, 'left early' FROM numbers(100000000000)")
    stream.read(1 << 20)
    stream.close()
    alive = "SELECT count() FROM system.processes WHERE query LIKE '%left early%' AND query_id != queryID()"
    for _ in range(100):
        if send(store, alive).text == "0\n":
            return
        threading.Event().wait(0.05)
    pytest.fail("the query still runs 5 s after its reader left")


def _open(url: str, sql: str):
    import urllib.request

    return urllib.request.urlopen(urllib.request.Request(url, data=sql.encode()), timeout=60)


def _serves(process: psutil.Process, folder: str) -> bool:
    try:
        return folder in process.cmdline()
    except psutil.Error:
        return False
