"""The forms in which curl and Grafana's plug-in ask: the same SQL and HTTP, without their programs
where they are not installed.
"""

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.connected.store_http import send

Unique = Callable[[str], str]


def curl(*arguments: str, body: bytes = b"") -> str:
    ran = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", *arguments],
        input=body, capture_output=True, check=True, timeout=70,
    )  # fmt: skip
    return ran.stdout.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_in_all_its_forms(store: str, unique: Unique, tmp_path: Path) -> None:
    """Body, query, both, form fields, files, gzip, HEAD, users."""
    table, rows = unique("tidemill.curled"), tmp_path / "rows.csv"
    assert curl(f"{store}/", "-d", "SELECT 1") == "1\n"
    assert curl(f"{store}/?query=SELECT%202") == "2\n"
    assert curl("-G", store, "--data-urlencode", "query=SELECT 'a b' AS x FORMAT JSONEachRow") == (
        '{"x":"a b"}\n'
    )
    assert curl(store, "-d", f"CREATE TABLE {table} (n UInt8, s String) ENGINE = Log") == ""
    rows.write_bytes(b"1,one\n2,two\n")
    insert = f"{store}/?query=INSERT%20INTO%20{table}%20FORMAT%20CSV"
    curl(insert, "--data-binary", f"@{rows}")
    packed = gzip.compress(b"3,three\n")
    curl(insert, "-H", "Content-Encoding: gzip", "--data-binary", "@-", body=packed)
    curl(store, "-d", f"INSERT INTO {table} VALUES (4, 'four')")
    assert curl(store, "-d", f"SELECT sum(n), count() FROM {table}") == "10\t4\n"
    asked = "query=SELECT {n:UInt8} + count() FROM given"
    form = (
        "-F",
        asked,
        "-F",
        "param_n=40",
        "-F",
        "given_structure=n UInt8",
        "-F",
        "given_format=CSV",
    )
    assert curl(store, *form, "-F", "given=@-;filename=given.csv", body=b"1\n2\n") == "42\n"
    assert curl("-u", "default:", store, "-d", "SELECT 5") == "5\n"
    assert curl(store, "-H", "X-ClickHouse-User: default", "-d", "SELECT 6") == "6\n"
    head = curl("--head", f"{store}/?query=SELECT%207")
    assert "200 OK" in head
    assert "X-ClickHouse-Summary" in head


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("JSON", "application/json; charset=UTF-8"),
        ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
        ("CSV", "text/csv; charset=UTF-8; header=absent"),
        ("CSVWithNames", "text/csv; charset=UTF-8; header=present"),
        ("TabSeparated", "text/tab-separated-values; charset=UTF-8"),
        ("Native", "application/octet-stream"),
        ("Parquet", "application/octet-stream"),
    ],
)
def test_formats_are_labelled(store: str, form: str, kind: str) -> None:
    reply = send(store, f"SELECT 1 AS x FORMAT {form}")
    assert reply.headers["Content-Type"] == kind
    assert reply.headers["X-ClickHouse-Format"] == form


def test_what_grafana_asks(store: str, unique: Unique) -> None:
    """Its hello, its schema browser, and a time series with its macros filled in."""
    table = unique("series")
    database = "tidemill"
    made = f"CREATE TABLE {database}.{table} (t DateTime('UTC'), v Float64) ENGINE = MergeTree ORDER BY t"
    assert send(store, made).status == 200
    filled = "SELECT toDateTime(1600000000 + number * 10, 'UTC'), number FROM numbers(60)"
    assert send(store, f"INSERT INTO {database}.{table} {filled}").status == 200

    def ask(sql: str) -> list[list[object]]:
        reply = send(store, sql, default_format="JSONCompact", max_execution_time=60)
        assert reply.status == 200, reply.text
        return json.loads(reply.body)["data"]

    assert len(ask("SELECT version()")[0][0].split(".")) >= 3
    assert ["tidemill"] in ask("SHOW DATABASES")
    tables = f"SELECT name FROM system.tables WHERE database = '{database}'"
    assert [table] in ask(tables)
    columns = (
        f"SELECT name, type FROM system.columns WHERE database = '{database}' AND table = '{table}'"
    )
    assert ask(columns) == [["t", "DateTime('UTC')"], ["v", "Float64"]]
    series = (
        f"SELECT toStartOfInterval(toDateTime(t), INTERVAL 60 second) AS time, avg(v) AS value "
        f"FROM {database}.{table} WHERE t >= toDateTime(1600000000) AND t <= toDateTime(1600000299) "
        "GROUP BY time ORDER BY time ASC"
    )
    found = ask(series)
    assert found[0] == ["2020-09-13 12:26:00", 0.5]
    assert [value for _, value in found] == [0.5, 4.5, 10.5, 16.5, 22.5, 27.5]
