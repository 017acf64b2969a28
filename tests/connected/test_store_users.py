"""Users of the store: who is let in, and that nobody gets at what is another's."""

import base64
import concurrent.futures
import threading
import time

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.connected.conftest import PASSWORD, USERS, Guarded
from tests.connected.store_http import send

pytestmark = pytest.mark.embedded

WAIT_S_MAX = 60.0


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _until(condition: object, *, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline_s:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {WAIT_S_MAX} s: {what}")


def test_every_form_of_login(guarded: Guarded) -> None:
    """Basic is what most clients send, headers JDBC and Go, parameters curl."""
    key = PASSWORD.encode().decode("latin-1")
    headers = {"X-ClickHouse-User": "rita", "X-ClickHouse-Key": key}
    basic = {"Authorization": _basic("rita", PASSWORD)}
    assert send(guarded.url, "SELECT 1", headers=headers).text == "1\n"
    assert send(guarded.url, "SELECT 2", headers=basic).text == "2\n"
    assert send(guarded.url, "SELECT 3", user="rita", password=PASSWORD).text == "3\n"
    assert send(guarded.url, "SELECT 4", headers=headers | basic).text == "4\n"
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=guarded.process.port, username="rita", password=PASSWORD
    )
    assert client.query("SELECT 5").result_rows == [(5,)]
    client.close()


@pytest.mark.parametrize(
    ("number", "headers"),
    list(
        enumerate(
            [
                {},
                {"X-ClickHouse-User": "rita"},
                {"X-ClickHouse-User": "nobody", "X-ClickHouse-Key": "open-sesame"},
                {"X-ClickHouse-User": "rita", "X-ClickHouse-Key": "open-sesame"},
                {"X-ClickHouse-User": "", "X-ClickHouse-Key": ""},
                {"X-ClickHouse-User": "rita%00", "X-ClickHouse-Key": "open-sesame"},
                {"Authorization": _basic("rita", "open-sesame")},
                {"Authorization": _basic("rita", PASSWORD + " ")},
                {"Authorization": "Basic %%%"},
                {"Authorization": "Bearer x"},
                {"Authorization": _basic("rita", PASSWORD), "X-ClickHouse-User": "ada"},
                {"Authorization": _basic("rita", PASSWORD), "X-ClickHouse-Key": "open-sesame"},
            ]
        )
    ),
)
def test_wrong_logins_are_refused_as_a_server_does(
    guarded: Guarded, number: int, headers: dict[str, str]
) -> None:
    reply = send(guarded.url, "SELECT 1", headers=headers, source=f"127.0.1.{number + 1}")
    assert (reply.code, reply.status) == (516, 401)
    assert reply.headers["WWW-Authenticate"].startswith("Basic ")
    assert "open-sesame" not in reply.text
    assert "open-sesame" not in guarded.log


def test_ping_needs_no_password(guarded: Guarded) -> None:
    """What watches over a server has none."""
    assert send(guarded.url, method="GET", path="/ping").text == "Ok.\n"


def test_wrong_passwords_are_refused_for_a_while_and_nobody_else_is(guarded: Guarded) -> None:
    """Guessing is slow, also with many connections, and does not shut out who is in."""
    assert guarded.ask("rita", "SELECT 1").status == 200

    def guess(number: int) -> int:
        password = f"guess-{number}"
        return send(guarded.url, "SELECT 1", user="ada", password=password, source="127.0.2.1").code

    codes = [guess(0)]
    while codes[-1] == 516 and len(codes) < 60:  # on a very slow machine some are forgiven
        codes.append(guess(len(codes)))
    assert codes[:6] == [516] * 6
    assert codes[-1] == 202
    assert (
        send(guarded.url, "SELECT 1", user="rita", password=PASSWORD, source="127.0.2.1").text
        == "1\n"
    )
    assert send(guarded.url, "SELECT 1", user="ada", password="x", source="127.0.2.2").code == 516


def test_other_databases_are_not_even_seen(guarded: Guarded) -> None:
    for sql in (
        "SHOW DATABASES",
        "SELECT name FROM system.databases",
        "SELECT database FROM system.tables",
        "SELECT database FROM system.columns",
        "SELECT database FROM system.parts",
        "SELECT table_schema FROM information_schema.tables",
    ):
        assert "tidemill" not in guarded.ask("rolf", sql).text, sql
    assert guarded.ask("rolf", "SELECT currentDatabase()").text == "closed_own\n"
    assert guarded.ask("rolf", "SELECT 1", database="tidemill").status >= 400


def test_a_session_is_its_users_own(guarded: Guarded) -> None:
    def ask(user: str, sql: str) -> str:
        return guarded.ask(user, sql, session_id="ours").text

    assert ask("will", "CREATE TEMPORARY TABLE secret (a Int32)") == ""
    assert ask("will", "INSERT INTO secret VALUES (42)") == ""
    assert "42" not in ask("ada", "SELECT a FROM secret")
    assert "UNKNOWN_TABLE" in ask("rita", "SELECT a FROM secret")
    assert ask("will", "SELECT a FROM secret") == "42\n"
    missing = guarded.ask("rita", "SELECT 1", session_id="not-mine", session_check=1)
    assert missing.code == 372
    guarded.ask("will", "SELECT 1", session_id="not-mine")
    missing = guarded.ask("rita", "SELECT 1", session_id="not-mine", session_check=1)
    assert missing.code == 372, "the other one's session says nothing about this"


def test_a_reader_may_use_temporary_tables(guarded: Guarded) -> None:
    """As on a server with readonly = 2: dashboards and notebooks do."""
    for sql in ("CREATE TEMPORARY TABLE mine (a Int32)", "INSERT INTO mine VALUES (1)"):
        assert guarded.ask("rita", sql, session_id="temporary").status == 200
    assert guarded.ask("rita", "SELECT a FROM mine", session_id="temporary").text == "1\n"
    assert guarded.ask("rita", "SET readonly = 0", session_id="temporary").status >= 400
    assert guarded.ask("rita", "CREATE TABLE mine2 (a Int32) ENGINE = Memory").status == 403
    body = '--B\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n5\r\n--B--\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=B"}
    sent = guarded.ask(
        "rita", body, headers=multipart, query="SELECT a FROM x", x_structure="a Int32"
    )
    assert sent.text == "5\n"


LONG = "SELECT sum(sin(number)) FROM numbers(1000000000000)"
"""It has no end of its own."""


def test_others_queries_are_neither_seen_nor_ended(guarded: Guarded) -> None:
    replies: dict[str, int] = {}

    def long() -> None:
        replies["will"] = guarded.ask("will", f"{LONG} -- s3cret", query_id="long").code

    thread = threading.Thread(target=long)
    thread.start()
    seen = (
        "SELECT count() FROM system.processes WHERE query LIKE '%s3cr%' AND query NOT LIKE '%LIKE%'"
    )
    _until(lambda: guarded.ask("ada", seen).text == "1\n", what="the query runs")
    for sql in (
        seen,
        "SELECT count() FROM merge('system', 'processes') WHERE query LIKE '%s3cr%' AND query NOT LIKE '%LIKE%'",
        "SELECT count() FROM {t:Identifier} WHERE query LIKE '%s3cr%' AND query NOT LIKE '%LIKE%'",
    ):
        reply = guarded.ask("rita", sql, param_t="system.processes")
        assert reply.status >= 400 or reply.text == "0\n", (sql, reply.text)
    use = guarded.ask("rita", seen.replace("system.", ""), database="system")
    assert use.status >= 400 or use.text == "0\n", use.text
    assert "s3cret" not in guarded.ask("rita", "SHOW PROCESSLIST").text
    for user in ("rita", "wanda"):
        guarded.ask(user, "KILL QUERY WHERE query_id = 'long' SYNC")
        guarded.ask(user, "KILL QUERY WHERE 1 SYNC")
    assert guarded.ask("rita", "SELECT 1", query_id="long").text == "1\n", (
        "ids are their users' own"
    )
    assert guarded.ask("ada", seen).text == "1\n", "it still runs"
    assert (
        guarded.ask("ada", "KILL QUERY WHERE query_id = 'long' AND user = 'will' SYNC").status
        == 200
    )
    thread.join()
    assert replies == {"will": 394}


def test_everybody_ends_their_own(guarded: Guarded) -> None:
    replies: list[int] = []
    thread = threading.Thread(
        target=lambda: replies.append(guarded.ask("rita", LONG, query_id="own").code)
    )
    thread.start()
    seen = "SELECT count() FROM system.processes WHERE query_id = 'own'"
    _until(lambda: guarded.ask("rita", seen).text == "1\n", what="the query runs")
    assert (
        "finished\town\trita" in guarded.ask("rita", "KILL QUERY WHERE query_id = 'own' SYNC").text
    )
    thread.join()
    assert replies == [394]


@pytest.mark.parametrize(
    ("sql", "codes"),
    [
        ("SELECT * FROM numbers(100_001) FORMAT Null", {158}),
        ("SELECT number FROM numbers(2000)", {396}),
        ("SELECT repeat(toString(number), 1000) FROM numbers(900)", {396}),
        ("SELECT length(groupArray(repeat(toString(number), 9000))) FROM numbers(30_000)", {241}),
        ("SELECT sleepEachRow(1) FROM numbers(20) SETTINGS max_block_size = 1", {159}),
    ],
)
def test_limits_of_a_user(guarded: Guarded, sql: str, codes: set[int]) -> None:
    """lena has all of them, see the users file of these tests."""
    reply = guarded.ask("lena", sql, wait_end_of_query=1)
    assert reply.code in codes, reply.text[:300]


@pytest.mark.parametrize(
    "name", ["max_memory_usage", "max_execution_time", "max_rows_to_read", "max_result_rows"]
)
def test_limits_cannot_be_lifted(guarded: Guarded, name: str) -> None:
    for value in ("0", "1000000000000", "'1000000000000'", "DEFAULT"):
        reply = guarded.ask("lena", f"SET {name} = {value}", session_id="lift")
        assert reply.code in {452, 497}, (value, reply.text)
    for value in ("0", "1000000000000"):
        assert guarded.ask("lena", f"SELECT 1 SETTINGS {name} = {value}").code == 452
        assert guarded.ask("lena", "SELECT 1", **{name: value}).code == 452
        assert guarded.ask("lena", "SELECT 1", session_id="lift", **{name: value}).code == 452
        assert (
            guarded.ask("lena", f"SELECT * FROM (SELECT 1 SETTINGS {name} = {value})").code == 452
        )
    assert guarded.ask("lena", f"SELECT 1 SETTINGS {name} = 5").status == 200
    assert guarded.ask("lena", "SELECT 1", **{name: "5"}).status == 200


def test_the_file_is_read_again(guarded: Guarded) -> None:
    """A new entry counts within seconds; a broken file changes nothing and says why."""
    before = guarded.file.read_text(encoding="utf-8")
    entry = before.split("\n\n")[2]
    assert 'users."rita"' in entry
    try:
        guarded.file.write_text(before + "\n" + entry.replace("rita", "nina"), encoding="utf-8")
        _until(lambda: guarded.ask("nina", "SELECT 1").status == 200, what="nina is let in")
        guarded.file.write_text(before + "\n[users.nina]\nrole = 'king'\n", encoding="utf-8")
        _until(lambda: "users.nina.role must be one of" in _looked(guarded), what="it is logged")
        assert guarded.ask("nina", "SELECT 1").status == 200
        guarded.file.chmod(0o644)
        _until(lambda: "others than its owner" in _looked(guarded), what="the mode is logged")
        guarded.file.chmod(0o600)
        guarded.file.write_text(before, encoding="utf-8")
        _until(lambda: guarded.ask("nina", "SELECT 1").status == 401, what="nina is gone")
    finally:
        guarded.file.chmod(0o600)
        guarded.file.write_text(before, encoding="utf-8")
    assert "scrypt$" not in guarded.log


def _looked(guarded: Guarded) -> str:
    guarded.ask("rita", "SELECT 1")  # it is looked at when somebody asks
    return guarded.log


def test_refusals_are_logged_with_who_and_why(guarded: Guarded) -> None:
    guarded.ask("rita", "SELECT file('/etc/passwd'), 'hush-hush'", query_id="refused-1")
    line = next(line for line in guarded.log.splitlines() if "refused-1" in line)
    assert all(part in line for part in ("rita", "127.0.0.1", "497", "the function file")), line
    guarded.ask("rita", "DROP TABLE tidemill.t -- hush-hush", query_id="refused-2")
    assert "refused-2" in guarded.log
    login = {"user": "eve", "password": "hush-hush"}
    send(guarded.url, "SELECT 1", query_id="refused-3", source="127.0.3.1", **login)
    line = next(line for line in guarded.log.splitlines() if "refused-3" in line)
    assert all(part in line for part in ("not let in", "127.0.3.1", "516")), line
    assert "hush-hush" not in guarded.log
    assert PASSWORD not in guarded.log


def test_errors_of_a_driver_show_no_password(guarded: Guarded) -> None:
    with pytest.raises(DatabaseError) as caught:
        clickhouse_connect.get_client(
            host="127.0.0.1", port=guarded.process.port, username="rita", password="open-sesame"
        )
    assert "open-sesame" not in str(caught.value)


def test_as_many_users_as_named(guarded: Guarded) -> None:
    """All at once, each with the own name and rights."""

    def who(user: str) -> tuple[str, str]:
        return user, guarded.ask(user, "SELECT getSetting('query_cache_tag')").text.strip()

    names = [user.name for user in USERS] * 6
    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        assert all(name == found for name, found in threads.map(who, names))
