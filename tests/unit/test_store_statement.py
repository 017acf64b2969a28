"""Where the SQL of an insert ends, what is refused, which format is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.store.gateway.errors import EngineError
from streams.store.gateway.forbidden import check_canonical, harmless_values, suspect
from streams.store.gateway.limits import Limits
from streams.store.gateway.statement import (
    SQL_BYTES_MAX,
    first_word,
    output_format,
    quote,
    split_insert,
)

HEADS = [
    "INSERT INTO t",
    "insert into db.t (a, b)",
    'INSERT INTO `format` (`select`, "values")',
    "INSERT INTO t SETTINGS async_insert = 0, x = 'FORMAT CSV'",
    "/* FORMAT CSV */ INSERT -- FORMAT TSV\n INTO TABLE t",
    "INSERT INTO FUNCTION remote('h', db, 't')",
    "INSERT INTO t (* EXCEPT(b))",
    "INSERT INTO format",
]


@given(
    head=st.sampled_from(HEADS),
    name=st.sampled_from(["CSV", "ArrowStream", "Native"]),
    data=st.binary(max_size=300),
)
def test_data_behind_the_format_is_never_changed(head: str, name: str, data: bytes) -> None:
    """Whatever the bytes are (quotes, comments, keywords), they arrive as they were sent."""
    found = split_insert(f"{head} FORMAT {name}\n".encode() + data)
    assert found is not None
    assert " ".join(filter(None, (found.into, found.settings))) == head
    assert found.format == name
    assert bytes(found.data) == data


@given(data=st.binary(min_size=1, max_size=64))
def test_a_million_bytes_of_data_are_not_read(data: bytes) -> None:
    """Tokens are searched up to the format's name only: an unclosed quote behind it is harmless."""
    found = split_insert(b"INSERT INTO t FORMAT RowBinary\n'" + data * 10_000)
    assert found is not None
    assert len(found.data) == 1 + 10_000 * len(data)


@pytest.mark.parametrize(
    ("request_", "data"),
    [
        (b"INSERT INTO t FORMAT TSV\n1\n", b"1\n"),
        (b"INSERT INTO t FORMAT TSV 1\n", b"1\n"),
        (b"INSERT INTO t FORMAT TSV;\n1\n", b"1\n"),
        (b"INSERT INTO t FORMAT TSV \r\n1\n", b"1\n"),
        (b"INSERT INTO t FORMAT TSV\n\n1\n", b"\n1\n"),
        (b"INSERT INTO t FORMAT TSV", b""),
    ],
)
def test_data_begins_behind_one_line_end(request_: bytes, data: bytes) -> None:
    found = split_insert(request_)
    assert found is not None
    assert bytes(found.data) == data


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT 1 FORMAT CSV",
        b"INSERT INTO t VALUES (1), ('FORMAT CSV')",
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t (a) WITH x AS (SELECT 1) SELECT * FROM x",
        b"INSERT INTO t FORMAT Values (1)",
        b"INSERT INTO t FROM INFILE 'f' FORMAT CSV",
        b"",
        b"-- INSERT INTO t FORMAT CSV",
    ],
)
def test_other_statements_are_left_whole(sql: bytes) -> None:
    assert split_insert(sql) is None


def test_settings_of_one_insert_join_its_own() -> None:
    plain = split_insert(b"INSERT INTO t (a) FORMAT CSV\n")
    own = split_insert(b"INSERT INTO t SETTINGS x = 1 FORMAT CSV\n")
    assert plain is not None
    assert own is not None
    into = "INSERT INTO t (a)\nFROM INFILE '/f'"
    assert plain.from_file("/f", {}) == f"{into}\nFORMAT CSV"
    assert plain.from_file("/f", {"y": "a'b"}) == f"{into}\nSETTINGS y = 'a\\'b'\nFORMAT CSV"
    both = "INSERT INTO t\nFROM INFILE '/f'\nSETTINGS x = 1\n, y = '2'\nFORMAT CSV"
    assert own.from_file("/f", {"y": "2"}) == both
    assert own.sql == "INSERT INTO t\nSETTINGS x = 1\nFORMAT CSV"


def test_endless_sql_is_refused() -> None:
    with pytest.raises(EngineError, match="longer than"):
        split_insert(b"INSERT INTO t (" + b"a," * SQL_BYTES_MAX)


@given(st.binary(max_size=400))
def test_any_bytes_are_taken_or_refused(request_: bytes) -> None:
    """No input makes the splitter fail in a way that is not an answer."""
    for start in (b"", b"INSERT INTO t "):
        try:
            split_insert(start + request_)
        except EngineError as error:
            assert error.status == 400  # noqa: PT017  # most inputs are taken


@given(st.text(max_size=50))
def test_a_quoted_value_stays_one_token(value: str) -> None:
    sql = f"INSERT INTO t SETTINGS x = {quote(value)} FORMAT CSV\n1".encode()
    found = split_insert(sql)
    assert found is not None
    assert bytes(found.data) == b"1"


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT JSONEachRow", "JSONEachRow"),
        (b"SELECT 'FORMAT CSV' -- FORMAT TSV", None),
        (b"SELECT $$ FORMAT CSV $$", None),
        (b"SELECT format('a') FROM t", None),
        (b"SELECT * FROM (SELECT 1 FORMAT CSV)", None),
        (b"select 1\n format Native\nsettings max_threads = 1;", "Native"),
    ],
)
def test_the_format_of_a_query_is_found(sql: bytes, name: str | None) -> None:
    assert output_format(sql) == name


def test_first_word_skips_comments() -> None:
    assert first_word(b"/* a */ -- b\n SELECT 1") == b"select"
    assert first_word(b" (SELECT 1)") == b"("
    assert first_word(b"") == b""


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT file('/etc/passwd')",
        b"SELECT * APPLY file FROM t",
        b"SELECT arrayMap(file, ['/etc/passwd'])",
        b"SELECT * FROM eval('SELECT 1')",
        b"SET input_format_values_interpret_expressions = 1",
        b"SELECT * FROM Python(x)",
        b"SELECT 1 INTO OUTFILE 'f'",
        b"INSERT INTO t FROM INFILE 'f' FORMAT CSV",
        b"CREATE TABLE t (`a` Int) ENGINE = Executable('x', 'CSV')",
        b"CREATE TABLE t (`a` Int) ENGINE = EmbeddedRocksDB(0, '/x') PRIMARY KEY a",
        b"SET dialect = 'kusto'",
        b"CREATE TABLE t (`a` Int) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local)",
    ],
)
def test_what_reaches_outside_is_refused(sql: bytes) -> None:
    assert suspect(sql)
    with pytest.raises(EngineError, match="ACCESS_DENIED"):
        check_canonical(sql, Limits())


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT 'file(1) INTO OUTFILE'",
        b"CREATE TABLE t (`file` Int, `python` String) ENGINE = MergeTree ORDER BY `python`",
        b"SELECT t.file FROM t",
        b"SELECT engine = 'x' FROM system.tables",
        b"SELECT * FROM outfile AS into",
    ],
)
def test_words_alone_are_harmless(sql: bytes) -> None:
    check_canonical(sql, Limits())


def test_expressions_in_values_are_allowed_only_when_harmless() -> None:
    assert harmless_values(b"INSERT INTO t VALUES (now(), 'it\\'s')")
    assert harmless_values(b"-- one\ninsert into t (a) values (1 + 1)")
    assert not harmless_values(b"SELECT 1")
    assert not harmless_values(b"INSERT INTO t VALUES (file('/etc/passwd'))")
    assert not harmless_values(b"INSERT INTO t VALUES (`f\\x69le`('/etc/passwd'))")
    assert not harmless_values(b"INSERT INTO t SELECT * FROM format(Values, 'a String', 'x')")
