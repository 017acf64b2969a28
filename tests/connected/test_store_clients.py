"""clickhouse-connect and curl against the gateway, everything a person uses them for."""

import gzip
import http.client
import json
import threading
from collections.abc import Callable, Iterator

import brotli
import clickhouse_connect
import lz4.frame
import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

from streams.local.store import EmbeddedStore
from streams.store.gateway.compression import choose, unpack
from tests.connected.store_http import place, send

Unique = Callable[[str], str]


@pytest.fixture
def client(store_process: EmbeddedStore) -> Iterator[Client]:
    """A person's client: with a session, compression and defaults."""
    made = clickhouse_connect.get_client(host="127.0.0.1", port=store_process.port)
    yield made
    made.close()


@pytest.fixture
def table(client: Client, unique: Unique) -> str:
    name = unique("t")
    client.command(f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    return name


def test_rows_columns_frames_and_arrow_agree(client: Client) -> None:
    sql = "SELECT number AS n, toString(number) AS s, number / 2 AS half FROM numbers(5)"
    rows = [(i, str(i), i / 2) for i in range(5)]
    assert client.query(sql).result_rows == rows
    assert client.query_arrow(sql).to_pydict() == {
        "n": [0, 1, 2, 3, 4],
        "s": list("01234"),
        "half": [0.0, 0.5, 1.0, 1.5, 2.0],
    }
    assert client.query_np("SELECT number FROM numbers(3)").ravel().tolist() == [0, 1, 2]
    assert client.command("SELECT 7") == 7
    assert client.raw_query("SELECT 1, 'a'", fmt="CSV") == b'1,"a"\n'
    assert client.query("SELECT number FROM numbers(0)").result_rows == []
    assert client.query(f"SELECT * FROM ({sql}) LIMIT 0").column_names == ("n", "s", "half")


def test_data_frames(client: Client) -> None:
    pytest.importorskip("pandas")
    frame = client.query_df("SELECT number AS n FROM numbers(4)")
    assert frame["n"].tolist() == [0, 1, 2, 3]


def test_every_kind_of_stream_is_complete(client: Client) -> None:
    sql = "SELECT number AS n, toString(number) AS s FROM numbers(300000)"
    expected = sum(range(300_000))
    with client.query_row_block_stream(sql) as blocks:
        assert sum(row[0] for block in blocks for row in block) == expected
    with client.query_column_block_stream(sql) as blocks:
        assert sum(int(np.sum(block[0])) for block in blocks) == expected
    assert client.raw_stream(sql, fmt="TSV").read().count(b"\n") == 300_000
    # Last: its reader stops at the end of the Arrow stream, a moment before that of the answer, and
    # so long the session is held.
    with client.query_arrow_stream(sql) as batches:
        assert sum(int(np.sum(b["n"].to_numpy())) for b in batches) == expected


def test_inserts_of_every_kind_arrive(client: Client, table: str) -> None:
    assert client.insert(table, [[1, "a"], [2, "b\n'"]]).written_rows == 2
    arrow = pa.table({"a": pa.array([3, 4], pa.uint64()), "b": ["c", "d"]})
    assert client.insert_arrow(table, arrow).written_rows == 2
    client.command(f"INSERT INTO {table} VALUES (5, 'e'), (5 + 1, upper('f'))")
    client.raw_insert(table, ["a", "b"], b"7,g\n", fmt="CSV")
    client.command(f"INSERT INTO {table} SELECT a + 7, b FROM {table} WHERE a = 1")
    found = client.query(f"SELECT * FROM {table} ORDER BY a").result_rows
    assert found == [
        (1, "a"),
        (2, "b\n'"),
        (3, "c"),
        (4, "d"),
        (5, "e"),
        (6, "F"),
        (7, "g"),
        (8, "a"),
    ]


def test_parameters_are_values_and_never_sql(client: Client) -> None:
    hard = "a'b\"c\\d\n\t`; DROP TABLE x --"
    assert client.query(
        "SELECT {s:String}, {n:Int64}, {l:Array(Int32)}, {d:DateTime}",
        parameters={"s": hard, "n": -5, "l": [1, 2], "d": "2013-01-02 03:04:05"},
    ).result_rows[0][:3] == (hard, -5, [1, 2])
    assert client.query("SELECT %(s)s", parameters={"s": hard}).result_rows == [(hard,)]


def test_settings_count_for_one_query(client: Client) -> None:
    sql = "SELECT value FROM system.settings WHERE name = 'max_threads'"
    assert client.query(sql, settings={"max_threads": 3}).result_rows == [("3",)]
    assert client.query(sql).result_rows != [("3",)]


def test_a_session_keeps_tables_and_settings_of_its_own(client: Client, store: str) -> None:
    client.command("CREATE TEMPORARY TABLE mine (x Int32)")
    client.insert("mine", [[1], [2]])
    client.command("SET max_threads = 5")
    sql = "SELECT value FROM system.settings WHERE name = 'max_threads'"
    assert client.query("SELECT sum(x) FROM mine").result_rows == [(3,)]
    assert client.query(sql, settings={"max_threads": 2}).result_rows == [("2",)]
    assert client.query(sql).result_rows == [("5",)]
    assert send(store, "SELECT * FROM mine").code == 60
    with pytest.raises(DatabaseError):
        client.raw_insert("mine", ["x"], b"no number\n", fmt="TSV")
    client.insert("mine", [[4]])
    assert client.query("SELECT sum(x) FROM mine").result_rows == [(7,)]
    assert send(store, sql).text.strip() != "5"


def test_a_busy_session_refuses_a_second_request(store: str, unique: Unique) -> None:
    name = unique("session")
    slow = threading.Thread(
        target=lambda: send(store, "SELECT sleepEachRow(1) FROM numbers(2)", session_id=name)
    )
    slow.start()
    running = "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(1)%'"
    while slow.is_alive() and send(store, running).text != "2\n":
        pass
    assert send(store, "SELECT 1", session_id=name).code == 373
    slow.join()
    assert send(store, "SELECT 1", session_id=name).text == "1\n"
    assert send(store, "SELECT 1", session_id=unique("none"), session_check=1).code == 372


def test_who_has_a_whole_answer_has_the_session_and_the_id_again(
    store: str, unique: Unique
) -> None:
    """Two megabytes are streamed; what the query held is free before their last bytes arrive."""
    place = {"session_id": unique("session"), "query_id": unique("query")}
    for _ in range(20):
        assert len(send(store, "SELECT number FROM numbers(300000)", **place).text) > 1 << 20
        assert send(store, "SELECT 1", **place).text == "1\n"


def test_external_tables_join_a_query(client: Client) -> None:
    data = ExternalData(
        file_name="people",
        data=b"1\tAnna\n2\tOtto\n",
        fmt="TSV",
        structure=["id UInt32", "name String"],
    )
    rows = client.query("SELECT name FROM people ORDER BY id DESC", external_data=data).result_rows
    assert rows == [("Otto",), ("Anna",)]


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip", "br"])
def test_compression_of_clients_both_ways(
    store_process: EmbeddedStore, unique: Unique, compress: str | bool
) -> None:
    made = clickhouse_connect.get_client(
        host="127.0.0.1", port=store_process.port, compress=compress
    )
    name = unique("c")
    made.command(f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    made.insert(name, [[i, "x" * 50] for i in range(5000)])
    rows = made.query(f"SELECT * FROM {name}").result_rows
    made.close()
    assert len(rows) == 5000
    assert rows[4999] == (4999, "x" * 50)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd", "br"])
def test_compression_of_curl_both_ways(store: str, encoding: str) -> None:
    chosen = choose(encoding)
    assert chosen is not None
    body = chosen[1].pack(b"SELECT number FROM numbers(500000)") + chosen[1].end()
    reply = send(
        store,
        body,
        enable_http_compression=1,
        headers={"Content-Encoding": encoding, "Accept-Encoding": encoding},
    )
    assert reply.headers["Content-Encoding"] == encoding
    assert unpack(reply.body, encoding).count(b"\n") == 500_000
    plain = send(store, "SELECT 1", headers={"Accept-Encoding": encoding})
    assert plain.body == b"1\n", "compressed only when enable_http_compression=1 asks for it"


def test_compressed_inserts_of_curl(store: str, table: str) -> None:
    for row, pack in enumerate((gzip.compress, lz4.frame.compress, brotli.compress)):
        encoding = ("gzip", "lz4", "br")[row]
        reply = send(
            store,
            pack(f"{row}\tx\n".encode()),
            query=f"INSERT INTO {table} FORMAT TSV",
            headers={"Content-Encoding": encoding},
        )
        assert reply.status == 200, reply.text
    assert send(store, f"SELECT count() FROM {table}").text == "3\n"


def test_the_forms_of_curl(store: str, table: str) -> None:
    assert send(store, method="GET").text == "Ok.\n"
    assert send(store, method="GET", path="/ping").text == "Ok.\n"
    assert send(store, method="GET", query="SELECT 1 FORMAT CSV").text == "1\n"
    assert send(store, "FORMAT CSV", query="SELECT 'a'").text == '"a"\n'
    assert send(store, f"INSERT INTO {table} VALUES (1, 'a')").status == 200
    assert send(store, "(2, 'b')", query=f"INSERT INTO {table} VALUES").status == 200
    assert send(store, "3\tc\n", query=f"INSERT INTO {table} FORMAT TSV").status == 200
    assert send(store, f'INSERT INTO {table} FORMAT JSONEachRow {{"a":4,"b":"d"}}').status == 200
    assert send(store, f"SELECT sum(a) FROM {table}").text == "10\n"
    assert send(store, "SELECT {x:Int32} + 1", param_x=41).text == "42\n"
    assert json.loads(send(store, "SELECT 1 AS a", default_format="JSONEachRow").body) == {"a": 1}
    for sql in ("SELECT 1", "SELECT number FROM numbers(3000000)"):
        head = send(store, method="HEAD", query=sql)
        assert (head.status, head.body) == (200, b"")
    old = http.client.HTTPConnection(*place(store))
    old._http_vsn, old._http_vsn_str = 10, "HTTP/1.0"
    old.request("POST", "/", b"SELECT number FROM numbers(3000000)", headers={"Host": "localhost"})
    assert old.getresponse().read().count(b"\n") == 3_000_000


def test_a_form_carries_parameters_and_the_query(store: str) -> None:
    parts = {"query": "SELECT {x:String}", "param_x": "from a form"}
    body = (
        b"".join(
            f'--B\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
            for k, v in parts.items()
        )
        + b"--B--\r\n"
    )
    reply = send(store, body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert reply.text == "from a form\n"


def test_headers_tell_what_was_done(store: str, table: str) -> None:
    reply = send(store, "SELECT number FROM numbers(10) FORMAT CSVWithNames", query_id="my-id")
    assert reply.headers["X-ClickHouse-Query-Id"] == "my-id"
    assert reply.headers["X-ClickHouse-Format"] == "CSVWithNames"
    assert reply.headers["Content-Type"].startswith("text/csv")
    assert reply.headers["X-ClickHouse-Timezone"] == "UTC"
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["result_rows"] == "10"
    done = send(store, "1\ta\n2\tb\n", query=f"INSERT INTO {table} FORMAT TSV")
    assert json.loads(done.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert "X-ClickHouse-Format" not in done.headers
    assert send(store, "SELECT 1", query_id="a\r\nX-Evil: 1").status == 400


@pytest.mark.parametrize(
    ("sql", "code", "status"),
    [
        ("SELECT nope", 47, 404 if False else 400),
        ("SELEC 1", 62, 400),
        ("SELECT * FROM nowhere", 60, 404),
        ("SELECT nofunction(1)", 46, 404),
        ("SELECT 1; SELECT 2", 62, 400),
        ("SELECT toInt32('x')", 6, 400),
        ("", 62, 400),
    ],
)
def test_errors_have_code_and_status(store: str, sql: str, code: int, status: int) -> None:
    reply = send(store, sql or " ")
    assert (reply.code, reply.status) == (code, status), reply.text
    assert reply.text.startswith(f"Code: {code}. DB::Exception: ")
    assert "(version " in reply.text


def test_writers_and_readers_side_by_side(
    store_process: EmbeddedStore, client: Client, table: str
) -> None:
    """Readers see whole inserts only, and never fewer rows than before."""
    inserts, rows, writers = 12, 5_000, 2
    troubles: list[BaseException] = []

    def write(number: int) -> None:
        try:
            mine = clickhouse_connect.get_client(
                host="127.0.0.1", port=store_process.port, autogenerate_session_id=False
            )
            for i in range(inserts):
                start = (number * inserts + i) * rows
                mine.insert_arrow(
                    table,
                    pa.table(
                        {"a": pa.array(range(start, start + rows), pa.uint64()), "b": ["x"] * rows}
                    ),
                )
            mine.close()
        except BaseException as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    last = 0
    while any(thread.is_alive() for thread in threads):
        count = client.query(f"SELECT count() FROM {table}").result_rows[0][0]
        assert count % rows == 0
        assert count >= last
        last = count
    assert troubles == []
    assert client.command(f"SELECT uniqExact(a) FROM {table}") == inserts * rows * writers
