"""Who asked what, at which cost: in SQL, in metrics and in the log."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.local.store import EmbeddedStore
from tests.connected.store_http import place, send

Unique = Callable[[str], str]
WAIT_S = 30.0


def test_the_query_log_has_clients_ids_and_costs(store: str, unique: Unique) -> None:
    table, name = unique("tidemill.logged"), unique("it's an id")
    send(store, f"CREATE TABLE {table} (n UInt64) ENGINE = MergeTree ORDER BY n")
    rows = b"".join(b"%d\n" % n for n in range(1000))
    assert send(store, rows, query=f"INSERT INTO {table} FORMAT TSV", query_id=name + "i").code == 0
    assert send(store, f"SELECT sum(n) FROM {table}", query_id=name).text == "499500\n"
    assert send(store, "SELECT nope", query_id=name + "e").code == 47
    send(store, "SYSTEM FLUSH LOGS")
    found = send(
        store,
        "SELECT query_id, user, query, type, exception_code, read_rows, written_rows, "
        "memory_usage >= 0, query_duration_ms < 60000 FROM system.query_log "
        "WHERE startsWith(query_id, {name:String}) ORDER BY event_time_microseconds",
        param_name=name,
        default_format="JSONCompactEachRow",
    )
    rows = [json.loads(line) for line in found.text.splitlines()]
    inserted = rows[0].pop(2)  # it names the file in memory that the rows were in
    assert re.fullmatch(rf"INSERT INTO {table}\nFROM INFILE '[^']+'\nFORMAT TSV", inserted)
    assert rows == [
        [name + "i", "default", "QueryFinish", 0, 1000, 1000, 1, 1],
        [name, "default", f"SELECT sum(n) FROM {table}", "QueryFinish", 0, 1000, 0, 1, 1],
        [name + "e", "default", "SELECT nope", "ExceptionBeforeStart", 47, 0, 0, 1, 1],
    ]  # fmt: skip


def test_the_query_log_shows_clients_queries_only(store: str, unique: Unique) -> None:
    """What the gateway asks to judge a statement and to set a connection up is nobody's query."""
    name = unique("judged")
    assert send(store, "SELECT 'a file'", query_id=name, max_threads=1).code == 0
    send(store, "SYSTEM FLUSH LOGS")
    rows = "SELECT query FROM system.query_log WHERE query_id = {name:String}"
    assert send(store, rows, param_name=name).text == ("SELECT \\'a file\\'\n")
    own = "SELECT count() FROM system.query_log WHERE query_id = ''"
    assert send(store, own).text == "0\n"
    kept = send(store, "SELECT create_table_query FROM system.tables WHERE name = 'query_log'").text
    assert "TTL event_date + toIntervalDay(3)" in kept


@pytest.mark.parametrize("word", ["queryID()", "query_id( )", "initialQueryID()"])
def test_a_query_knows_its_clients_id(store: str, unique: Unique, word: str) -> None:
    name = unique("mine's")
    answer = send(store, f"SELECT {word}, {word} AS x WHERE {word} != ''", query_id=name)
    assert answer.text == f"{name}\t{name}\n".replace("'", "\\'")
    titled = send(store, f"SELECT {word} FORMAT TSVWithNames", query_id=name)
    assert titled.text.splitlines()[0] == word
    text = send(store, f"SELECT '{word}', queryID FROM (SELECT 1 AS queryID)", query_id=name)
    assert text.text == f"{word}\t1\n"


def test_the_process_list_is_that_of_the_clients(store: str, unique: Unique) -> None:
    name = unique("listed")
    reply = send(store, "SHOW PROCESSLIST FORMAT JSONEachRow", query_id=name)
    assert reply.headers["X-ClickHouse-Format"] == "JSONEachRow"
    mine = [row for row in map(json.loads, reply.text.splitlines()) if row["query_id"] == name]
    assert len(mine) == 1
    assert float(mine[0]["elapsed"]) < 60


SLOW = "SELECT sum(sleepEachRow(0.01)) FROM numbers(100) SETTINGS max_block_size = 10"


def test_a_long_query_says_how_far_it_is(store: str) -> None:
    """In headers that come while it runs; its answer is as without them."""
    lines, reply = _with_progress(store, SLOW)
    assert len(lines) >= 3
    rows = [int(line["read_rows"]) for line in lines]
    assert rows == sorted(rows)
    assert rows[-1] > 0
    assert lines[-1]["total_rows_to_read"] == "100"
    assert reply == b"0\n"


def test_an_error_behind_progress_has_its_code_in_a_header(store: str) -> None:
    """The status line has been sent by then."""
    sql = SLOW.replace("sum(sleepEachRow(0.01))", "throwIf(sum(sleepEachRow(0.01)) = 0, 'now')")
    _lines, reply = _with_progress(store, sql, code=395)
    assert b"Code: 395. DB::Exception: now" in reply
    again = send(store, sql, send_progress_in_http_headers=1, http_headers_progress_interval_ms=50)
    assert (again.status, again.code) == (200, 395)
    assert (
        send(store, "SELECT 1", send_progress_in_http_headers=1).headers.get(
            "X-ClickHouse-Progress"
        )
        is None
    )
    assert (
        send(
            store,
            "SELECT 1",
            send_progress_in_http_headers=1,
            http_headers_progress_interval_ms="x",
        ).code
        == 36
    )


def test_progress_lines_become_rarer() -> None:
    """Python's own client takes a hundred headers, Node's 16 KiB."""
    waits, interval_s = [], 0.1
    while sum(waits) < 3600:
        waits.append(interval_s)
        if len(waits) >= 16 and len(waits) % 4 == 0:
            interval_s *= 2
    assert len(waits) < 80


def _with_progress(store: str, sql: str, *, code: int = 0) -> tuple[list[dict[str, str]], bytes]:
    """The progress lines and the rest of the answer."""
    with socket.create_connection(place(store), timeout=60) as connection:
        query = "send_progress_in_http_headers=1&http_headers_progress_interval_ms=50"
        head = f"POST /?{query} HTTP/1.0\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Content-Length: {len(sql)}\r\n\r\n{sql}".encode())
        first = connection.recv(100)
        answer = first + b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert b"X-ClickHouse-Summary" not in first, "nothing was sent before the end"
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == "HTTP/1.0 200 OK"
    headers = [line.split(": ", 1) for line in lines]
    assert dict(headers).get("X-ClickHouse-Exception-Code", "0") == str(code)
    return [json.loads(text) for name, text in headers if name == "X-ClickHouse-Progress"], body


def test_a_running_query_is_replaced_by_the_next_with_its_id(store: str, unique: Unique) -> None:
    name = unique("replaced")
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(
            send, store, "SELECT sum(sin(number)) FROM numbers(1000000000000)", query_id=name
        )
        wait_for(lambda: name in send(store, "SELECT query_id FROM system.processes").text)
        assert send(store, "SELECT 1", query_id=name).code == 216
        assert send(store, "SELECT 1", query_id=name, replace_running_query=1).text == "1\n"
        assert first.result(timeout=30).code == 394


def test_metrics_count_queries_rows_and_errors(store: str, unique: Unique) -> None:
    table = unique("tidemill.counted")
    before = figures(store)
    send(store, f"CREATE TABLE {table} (n UInt64) ENGINE = MergeTree ORDER BY n")
    send(store, b"1\n2\n3\n", query=f"INSERT INTO {table} FORMAT TSV")
    send(store, f"WITH 1 AS a SELECT n FROM {table}")
    send(store, "SELECT nope")
    after = figures(store)

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    queries = "tidemill_store_queries_total"
    assert grown(f'{queries}{{code="0",verb="insert"}}') == 1
    assert grown(f'{queries}{{code="0",verb="create"}}') == 1
    assert grown(f'{queries}{{code="0",verb="select"}}') == 1
    assert grown(f'{queries}{{code="47",verb="select"}}') == 1
    assert grown('tidemill_store_query_seconds_count{verb="select"}') == 2
    assert grown('tidemill_store_rows_total{direction="written"}') == 3
    assert grown('tidemill_store_rows_total{direction="sent"}') == 6
    assert after["tidemill_store_queries_running"] == 0
    assert after['tidemill_store_engine{metric="PartsActive"}'] > 0
    assert after['tidemill_store_engine{metric="DiskFreeBytes"}'] > 0
    assert after["process_resident_memory_bytes"] > 1e8


def figures(store: str) -> dict[str, float]:
    reply = send(store, method="GET", path="/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    return {
        sample.name + (_labels(sample.labels) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}"


def test_a_slow_query_is_noted_without_its_text(tmp_path: Path) -> None:
    log = tmp_path / "store.log"
    with EmbeddedStore(tmp_path / "store", log=log) as own:
        send(own.url, "SELECT 'a secret', sleepEachRow(1.1)", query_id="slow one")
        send(own.url, "SELECT 'a secret'", query_id="quick one")
    text = log.read_text()
    lines = [line for line in text.splitlines() if "slow query" in line]
    assert len(lines) == 1
    assert "slow one" in lines[0]
    assert "verb=select" in lines[0]
    assert "secret" not in text


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {WAIT_S:.0f} s"
        threading.Event().wait(0.1)
