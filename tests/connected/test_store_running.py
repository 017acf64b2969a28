"""Queries have their client's id: it names them, ends them, and they end with their client."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlencode

import pytest

from tests.connected.store_http import Reply, place, send

Unique = Callable[[str], str]

ENDLESS = "SELECT sum(sin(number)) FROM numbers(1000000000000)"
WAIT_S = 30.0


def test_a_running_id_is_refused_and_free_again_afterwards(store: str, unique: Unique) -> None:
    name = unique("twice")
    with closing(_start(store, ENDLESS, name)):
        _until(lambda: _runs(store, name))
        reply = send(store, "SELECT 1", query_id=name)
        assert (reply.status, reply.code) == (500, 216)
        assert "already running" in reply.text
        assert _runs(store, name), "the refusal ended the query that has the id"
    _until(lambda: send(store, "SELECT 1", query_id=name).status == 200)


def test_an_id_is_free_as_soon_as_its_answer_is_complete(store: str, unique: Unique) -> None:
    name = unique("again")
    for _ in range(20):
        stream = send(store, "SELECT number FROM numbers(400000)", query_id=name)
        assert (stream.status, stream.headers.get("Transfer-Encoding")) == (200, "chunked")
        assert send(store, "SELECT 1", query_id=name).text == "1\n"


def test_a_client_that_leaves_before_the_first_row_ends_its_own_query_only(
    store: str, unique: Unique
) -> None:
    """Three clients run the same text; the one in the middle leaves."""
    names = [unique("same /* 'text' */") for _ in range(3)]
    clients = [_start(store, ENDLESS, name) for name in names]
    try:
        _until(lambda: all(_runs(store, name) for name in names))
        clients[1].close()
        _until(lambda: not _runs(store, names[1]))
        assert [_runs(store, name) for name in names] == [True, False, True]
    finally:
        for client in clients:
            client.close()
    _until(lambda: not any(_runs(store, name) for name in names))


def test_a_client_that_leaves_between_rare_rows_ends_its_query(store: str, unique: Unique) -> None:
    name = unique("rare")
    rows = "SELECT number FROM numbers(1000000000000)"
    sql = f"{rows} WHERE bitXor(number, 1) < 300000 FORMAT RowBinary"
    with closing(_start(store, sql, name)) as client:
        assert len(client.getresponse().read(1000)) == 1000
        assert _runs(store, name)
    _until(lambda: not _runs(store, name))


def test_a_client_that_leaves_ends_an_insert_from_a_select(store: str, unique: Unique) -> None:
    name, table = unique("filling"), unique("filled")
    assert send(store, f"CREATE TABLE {table} (x Float64) ENGINE = Null").status == 200
    sql = f"INSERT INTO {table} SELECT sin(number) FROM numbers(1000000000000)"
    with closing(_start(store, sql, name)):
        _until(lambda: _runs(store, name))
    _until(lambda: not _runs(store, name))


@pytest.mark.parametrize("mode", ["SYNC", "ASYNC", ""])
def test_a_query_is_killed_by_its_clients_id(store: str, unique: Unique, mode: str) -> None:
    name, other = unique("killed"), unique("spared")
    with closing(_start(store, ENDLESS, name)) as client, closing(_start(store, ENDLESS, other)):
        _until(lambda: _runs(store, name) and _runs(store, other))
        reply = send(store, f"KILL QUERY WHERE query_id = '{name}' {mode} FORMAT JSONEachRow")
        assert reply.status == 200, reply.text
        status = "finished" if mode == "SYNC" else "waiting"
        assert json.loads(reply.body) == {
            "kill_status": status,
            "query_id": name,
            "user": "default",
            "query": ENDLESS,
        }
        answer = client.getresponse()
        assert answer.status == 500
        assert answer.headers["X-ClickHouse-Exception-Code"] == "394"
        assert _runs(store, other)


def test_kill_tests_finds_nothing_and_takes_parameters(store: str, unique: Unique) -> None:
    name = unique("tested")
    with closing(_start(store, ENDLESS, name)):
        _until(lambda: _runs(store, name))
        sql = "KILL QUERY WHERE query_id = {id:String} AND user = 'default' TEST"
        assert (
            _kill(store, sql, param_id=name).text == f"unknown_status\t{name}\tdefault\t{ENDLESS}\n"
        )
        assert _runs(store, name)
        assert _kill(store, f"KILL QUERY WHERE query LIKE '{ENDLESS}' AND query_id = ''").text == ""
        assert _kill(store, f"kill query where /* all */ query_id in ('{name}') sync").text
        _until(lambda: not _runs(store, name))


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("KILL QUERY WHERE nope = 1", 47),
        ("KILL QUERY WHERE", 62),
        ("KILL QUERY WHERE file('/etc/passwd') = ''", 497),
        (
            "KILL QUERY WHERE query_id IN (SELECT c FROM url('http://127.0.0.1:1', CSV, 'c String'))",
            497,
        ),
    ],
)
def test_a_condition_of_kill_is_judged(store: str, sql: str, code: int) -> None:
    assert send(store, sql).code == code
    assert send(store, method="GET", query="KILL QUERY WHERE 1").code == 164


def test_kill_works_while_every_thread_is_busy(store: str, unique: Unique) -> None:
    """Otherwise nobody could make room."""
    names = [unique("crowd") for _ in range(16)]
    clients = [_start(store, ENDLESS, name) for name in names]
    try:
        sql = "KILL QUERY WHERE startsWith(query_id, 'crowd') ASYNC"
        killed: set[str] = set()

        def all_killed() -> bool:
            killed.update(line.split("\t")[1] for line in send(store, sql).text.splitlines())
            return killed == set(names)

        _until(all_killed)
        assert {client.getresponse().status for client in clients} == {500}
    finally:
        for client in clients:
            client.close()


def test_the_table_of_processes_shows_clients_ids(store: str, unique: Unique) -> None:
    name = unique("own")
    sql = "SELECT query_id, query_id = queryID(), user FROM system.processes WHERE query_id = queryID()"
    assert send(store, sql, query_id=name).text == f"{name}\t1\tdefault\n"
    joined = (
        "SELECT p.query_id FROM (SELECT 1 AS x) AS a JOIN `system`.processes AS p ON 1 = 1 "
        f"WHERE p.query_id = '{name}' SETTINGS max_threads = 1"
    )
    assert send(store, joined, query_id=name).text == f"{name}\n"
    named = f"SELECT processes.query_id FROM system.processes WHERE query_id = '{name}'"
    assert send(store, named, query_id=name).text == f"{name}\n"
    view = unique("view")
    made = f"CREATE VIEW {view} AS SELECT query_id FROM system.processes"
    assert send(store, made).status == 200
    assert "gateway" not in send(store, f"SHOW CREATE VIEW {view}").text
    assert send(store, "SELECT 'FROM system.processes'").text == "FROM system.processes\n"


def test_errors_name_positions_in_the_clients_own_text(store: str) -> None:
    assert "failed at position 17 (x)" in send(store, "SELECT nope FRM x y z").text
    assert "position 8 ('abc)" in send(store, "SELECT 'abc").text
    inner = send(store, "SELECT formatQuery('SELECT 1 FRM x y')").text
    assert "failed at position 14 (x)" in inner


def test_a_query_ends_at_the_limit_its_client_sets(store: str) -> None:
    reply = send(store, ENDLESS, max_execution_time=1)
    assert (reply.status, reply.code) == (408, 159)
    reply = send(store, f"{ENDLESS} SETTINGS max_execution_time = 0.5")
    assert (reply.status, reply.code) == (408, 159)


def test_no_query_is_without_a_limit(store: str, unique: Unique) -> None:
    """0 would mean that; so would a very large number."""
    sql = "SELECT getSetting('max_execution_time')"
    assert float(send(store, sql).text) == 300.0
    assert float(send(store, sql, max_execution_time=3600).text) == 3600.0
    for refused in ("0", "100000"):
        assert send(store, "SELECT 1", max_execution_time=refused).code == 452
        assert send(store, f"SELECT 1 SETTINGS max_execution_time = {refused}").code == 452
        kept = unique("limits")
        assert send(store, f"SET max_execution_time = {refused}", session_id=kept).code == 452
    assert float(send(store, sql, session_id=kept, max_execution_time=7).text) == 7.0
    assert float(send(store, sql, session_id=kept).text) == 300.0


def _start(url: str, sql: str, query_id: str) -> http.client.HTTPConnection:
    """A client that has sent its query and waits."""
    connection = http.client.HTTPConnection(*place(url), timeout=120)
    connection.request("POST", f"/?{urlencode({'query_id': query_id})}", body=sql.encode())
    return connection


def _kill(url: str, sql: str, **parameters: object) -> Reply:
    reply = send(url, sql, **parameters)
    assert reply.status == 200, reply.text
    return reply


def _runs(url: str, query_id: str) -> bool:
    reply = send(
        url,
        "SELECT count() FROM system.processes WHERE query_id = {id:String}",
        param_id=query_id,
    )
    assert reply.status == 200, reply.text
    return reply.text == "1\n"


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {WAIT_S:.0f} s"
        threading.Event().wait(0.1)
