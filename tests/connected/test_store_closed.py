"""What nobody can do over HTTP: read files, call out, run programs, post from a web page."""

import http.client
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.connected.store_http import send

pytestmark = pytest.mark.embedded

OUT = "/tmp/tidemill_store_must_not_exist"

FILES = [
    "SELECT file('/etc/passwd')",
    "SELECT File('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "SELECT \"file\"('/etc/passwd')",
    "SELECT `fi\\x6ce`('/etc/passwd')",
    "SELECT/**/file/**/('/etc/passwd')",
    "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
    "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
    "SELECT arrayMap(file, ['/etc/passwd'])",
    "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
    "WITH file('/etc/passwd') AS x SELECT x",
    "SELECT * FROM view(SELECT file('/etc/passwd'))",
    "SELECT * FROM eval('SELECT fi' || 'le(''/etc/passwd'')')",
    "EXPLAIN SELECT file('/etc/passwd')",
    "CREATE VIEW closed_v AS SELECT file('/etc/passwd')",
    "CREATE TABLE closed_d (a String, b String DEFAULT file('/etc/passwd')) ENGINE = Memory",
    "INSERT INTO closed VALUES (file('/etc/passwd'))",
    "INSERT INTO closed FORMAT Values (file('/etc/passwd'))",
    "INSERT INTO closed SELECT * FROM format(Values, 'a String', '(file(''/etc/passwd''))')",
    "SELECT * FROM format(Values, 'a String', '(fi' || 'le(''/etc/passwd''))')",
    "SELECT * FROM format(Values, 'a String', unhex('2866696C6528272F6574632F7061737377642729 29'))",
    "INSERT INTO closed VALUES ((SELECT a FROM format(Values, 'a String', '(fi' || 'le(''/etc/passwd''))')))",
    "INSERT INTO closed SETTINGS input_format_values_interpret_expressions = 1 VALUES (upper('x'))",
    "SET input_format_values_interpret_expressions = 1",
    "SELECT 1 AS a FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
    "SELECT * FROM format(Template, 'a String', 'x') SETTINGS format_template_row = '/etc/passwd'",
    "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '/etc/passwd:x'",
    (
        "SELECT * FROM format(CSV, 'a Int8', 'x') SETTINGS input_format_allow_errors_num = 9, "
        f"input_format_record_errors_file_path = '{OUT}'"
    ),
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "DESCRIBE TABLE file('/etc/passwd')",
    "SELECT * FROM loop(file('/etc/passwd'))",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM default.`/etc/passwd`",
    "SELECT * FROM {t:Identifier}",
    "SELECT * FROM sqlite('/tmp/a.db', 't')",
    "SELECT * FROM icebergLocal('/etc')",
    "SELECT * FROM deltaLakeLocal('/etc')",
    f"SELECT 1 INTO OUTFILE '{OUT}'",
    f"SELECT 1 INTO /* x */ OUTFILE '{OUT}'",
    f"SELECT $h$ ' $h$ INTO OUTFILE '{OUT}'",
    "INSERT INTO closed FROM INFILE '/etc/passwd' FORMAT LineAsString",
    f"INSERT INTO FUNCTION file('{OUT}', 'CSV', 'a Int') VALUES (1)",
    "CREATE TABLE closed_f (a String) ENGINE = File(CSV)",
    "CREATE TABLE closed_l (a String) ENGINE = FileLog('/etc', 'CSV')",
    f"CREATE TABLE closed_r (a String, b Int) ENGINE = EmbeddedRocksDB(0, '{OUT}') PRIMARY KEY a",
    (
        "CREATE TABLE closed_m (a Int) ENGINE = MergeTree ORDER BY a "
        f"SETTINGS disk = disk(type = local, path = '{OUT}/')"
    ),
    "CREATE DATABASE closed_x ENGINE = Filesystem('/etc')",
    "CREATE DATABASE closed_x ENGINE = SQLite('/tmp/a.db')",
    "CREATE DATABASE closed_x ENGINE = Backup('x', File('/etc'))",
    f"BACKUP DATABASE tidemill TO File('{OUT}')",
    "ATTACH TABLE closed_a FROM '/etc' (a String) ENGINE = File(CSV)",
    (
        "CREATE DICTIONARY closed_di (id UInt64, v String) PRIMARY KEY id "
        "SOURCE(FILE(path '/etc/passwd' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)"
    ),
]
NETWORK = [
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM urlCluster('d', 'http://127.0.0.1:1/')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1:1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM s3('http://bucket.localhost/y', 'CSV', 'a String')",
    "SELECT * FROM gcs('http://bucket.localhost/y', 'CSV', 'a String')",
    "SELECT * FROM hdfs('hdfs://x/y', 'CSV', 'a Int')",
    "SELECT * FROM azureBlobStorage('a', 'b', 'c')",
    "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'd', 't', 'u', 'p', 'a Int')",
    "SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')",
    "SELECT * FROM odbc('DSN=x', 'a', 'b')",
    "SELECT * FROM jdbc('a', 'b', 'c')",
    "SELECT * FROM ytsaurus('a', 'b', 'c', 'a Int')",
    "SELECT * FROM bigquery('a', 'b', 'c')",
    "SELECT * FROM iceberg('http://bucket.localhost/y')",
    "SELECT * FROM deltaLake('http://bucket.localhost/y')",
    "SELECT * FROM hudi('http://bucket.localhost/y')",
    "SELECT * FROM paimon('http://bucket.localhost/y')",
    "CREATE TABLE closed_u (a String) ENGINE = URL('http://127.0.0.1:1/', 'CSV')",
    "CREATE TABLE closed_k (a String) ENGINE = Kafka('a:1', 't', 'g', 'CSV')",
    "CREATE TABLE closed_q (a String) ENGINE = Distributed('default', 'system', 'one')",
    "CREATE DATABASE closed_x ENGINE = MySQL('127.0.0.1:1', 'd', 'u', 'p')",
    (
        "CREATE DICTIONARY closed_dh (id UInt64, v String) PRIMARY KEY id "
        "SOURCE(HTTP(url 'http://127.0.0.1:1/' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)"
    ),
]
CODE = [
    "SELECT * FROM Python(x)",
    "SELECT * FROM `Python`(x)",
    "SELECT * FROM executable('id', 'CSV', 'a String')",
    "CREATE TABLE closed_e (a String) ENGINE = Executable('id', 'CSV')",
    "CREATE TABLE closed_e (a String) ENGINE = `Exec\\x75table`('id', 'CSV')",
    (
        "CREATE DICTIONARY closed_de (id UInt64, v String) PRIMARY KEY id "
        "SOURCE(EXECUTABLE(command 'id' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)"
    ),
    "CREATE FUNCTION closed_fn AS (x) -> x",
    "SELECT catboostEvaluate('/etc/passwd', 1)",
    "SYSTEM SHUTDOWN",
    "SYSTEM KILL",
    "SYSTEM START LISTEN HTTP",
    "CREATE USER closed_user",
    "GRANT FILE ON *.* TO default",
    "CREATE NAMED COLLECTION closed_n AS a = 1",
    "SET dialect = 'kusto'",
    "SELECT 1 SETTINGS dialect = 'prql'",
    "SELECT 1; SELECT 2",
    "SET allow_introspection_functions = 1",
]


@pytest.fixture(scope="module", autouse=True)
def target(store: str) -> None:
    send(store, "CREATE TABLE IF NOT EXISTS closed (a String) ENGINE = Memory")


@pytest.mark.parametrize("sql", FILES + NETWORK + CODE)
def test_refused(store: str, sql: str) -> None:
    """Each of these read, wrote, called or ran something in an engine without our measures."""
    reply = send(store, sql, param_t="default.`/etc/passwd`")
    assert reply.status >= 400, reply.text
    assert "root:" not in reply.text
    assert send(store, "SELECT count() FROM closed").text == "0\n", "and nothing was stored"
    assert not Path(OUT).exists()


@pytest.mark.parametrize(
    "name", ["dialect", "format_schema", "input_format_values_interpret_expressions", "a-b"]
)
def test_settings_that_open_doors_are_refused_in_the_url_too(store: str, name: str) -> None:
    assert send(store, "SELECT 1", **{name: "1"}).status >= 400


@pytest.mark.parametrize(
    "structure",
    [
        "a String DEFAULT file('/etc/passwd')",
        "a String) AS SELECT file('/etc/passwd') --",
        "a String) ENGINE = File(CSV) --",
        "a String); DROP TABLE closed --",
        "a String) AS SELECT 1 --",
    ],
)
def test_the_structure_of_an_external_table_is_judged_too(store: str, structure: str) -> None:
    body = '--B\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n1\r\n--B--\r\n'
    reply = send(
        store,
        body,
        query="SELECT * FROM x",
        x_structure=structure,
        headers={"Content-Type": "multipart/form-data; boundary=B"},
    )
    assert reply.status >= 400
    assert "root:" not in reply.text
    assert send(store, "SELECT count() FROM closed").text == "0\n"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE closed_w (a Int32) ENGINE = Memory",
        "INSERT INTO closed VALUES ('x')",
        "INSERT INTO closed FORMAT TSV x",
        "TRUNCATE TABLE closed",
        "SET max_threads = 1",
    ],
)
def test_get_only_reads(store: str, sql: str) -> None:
    """A link or an image on a web page is a GET."""
    reply = send(store, method="GET", query=sql)
    assert (reply.code, reply.status) == (164, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_web_pages_are_refused(store: str, headers: dict[str, str]) -> None:
    """A page may post to 127.0.0.1; by DNS rebinding it may even read the answer."""
    assert send(store, "SELECT 1", headers=headers).status == 403
    assert send(store, method="GET", path="/ping", headers=headers).status == 403


def test_this_machine_has_several_names(store: str) -> None:
    port = urlsplit(store).port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert send(store, "SELECT 1", headers={"Host": host}).text == "1\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-ClickHouse-User": "admin"},
        {"X-ClickHouse-Key": "guess"},
        {"Authorization": "Basic bm90OnJpZ2h0"},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Bearer x"},
    ],
)
def test_other_users_and_passwords_are_refused(store: str, headers: dict[str, str]) -> None:
    reply = send(store, "SELECT 1", headers=headers)
    assert (reply.code, reply.status) == (516, 401)
    assert "guess" not in reply.text


def test_an_announced_giant_is_refused_at_once(store: str) -> None:
    parts = urlsplit(store)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as wire:
        wire.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        assert answer.status == 413


def test_ordinary_words_are_no_offence(store: str) -> None:
    """People store file names and write about Python."""
    made = "CREATE TABLE IF NOT EXISTS closed_ok (`file` String, python Int32) ENGINE = Memory"
    assert send(store, made).status == 200
    added = "INSERT INTO closed_ok VALUES ('a file(1) \\n', 1), (upper('engine'), 1 + 1)"
    assert send(store, "x\t3\n", query="INSERT INTO closed_ok FORMAT TSV").status == 200
    assert send(store, added).status in {200, 500, 501}
    found = send(store, "SELECT t.file FROM closed_ok AS t WHERE t.python = 3")
    assert found.text == "x\n"


def test_statements_judged_at_once_are_not_mixed_up(store: str) -> None:
    """A harmless statement must not lend its verdict to a harmful one beside it."""
    verdicts: set[tuple[str, int]] = set()

    def ask(sql: str) -> None:
        for _ in range(60):
            verdicts.add((sql, send(store, sql).status))

    harmless, harmful = "SELECT 'profile', 'engine'", "SELECT file('/etc/passwd')"
    threads = [threading.Thread(target=ask, args=(sql,)) for sql in [harmless, harmful] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {(harmless, 200), (harmful, 403)}
