"""The SQL splitter: it finds the rows of an insert, and takes time in proportion to what is sent."""

import contextlib

from streams.store.gateway.client_ids import with_client_ids
from streams.store.gateway.compression import unpack_all
from streams.store.gateway.errors import EngineError
from streams.store.gateway.forbidden import harmless_values, suspect
from streams.store.gateway.frames import frames
from streams.store.gateway.hello import is_hello
from streams.store.gateway.running import split_kill
from streams.store.gateway.statement import (
    SQL_BYTES_MAX,
    first_word,
    output_format,
    split_insert,
    tokens,
)
from tests.fuzz.target import Target

SEEDS = [
    b"INSERT INTO t (a, `b``c`) SETTINGS x = 'y' FORMAT Arrow\n\x00\x01rows",
    b"/* a */ insert into db.t format JSONEachRow {\"a\": 'it''s'}",
    b"SELECT $x$it's$x$, \"a\"\"b\", 'c\\'d' FROM t WHERE n > 1.5e3 -- end\nFORMAT TabSeparated",
    b"WITH 1 AS format SELECT (format) FORMAT CSV;",
    b"KILL QUERY WHERE query_id = 'a'",
    b"SELECT displayName(), version(), revision(), timezone()",
]
_NONE_IN_BETWEEN = b" \t\r\n\f\v"


def check_sql(content: bytes) -> None:
    """Tokens do not overlap, leave out nothing but blanks and comments, and an insert ends where its
    rows begin."""
    position = 0
    for token in tokens(content):
        assert position <= token.start < token.end
        between = content[position : token.start].strip(_NONE_IN_BETWEEN + b"\x1c\x1d\x1e\x1f\x85")
        assert not between or between[:1] in b"-#/", between[:40]
        position = token.end
    try:
        found = split_insert(content)
    except EngineError:
        found = None
    if found is not None:
        assert content.endswith(bytes(found.data))
        assert len(found.sql.encode()) <= SQL_BYTES_MAX + 100
        again = split_insert(f"{found.sql}\n".encode() + bytes(found.data))
        assert again is not None
        assert again.sql == found.sql
    output_format(content)
    first_word(content)
    suspect(content)
    harmless_values(content)
    is_hello(content)
    try:
        split_kill(content)
        with_client_ids(content.decode(errors="replace"), "id")
    except EngineError:
        pass


def check_packed(content: bytes) -> None:
    """A packed body becomes bytes of bounded length, or is refused."""
    for encoding, framed in (("", True), ("gzip", False), ("zstd", False), ("lz4", False),
                             ("br", False), ("deflate", False), (content[:8].decode("latin1"), False)):  # fmt: skip
        with contextlib.suppress(EngineError):
            unpack_all(content, encoding, framed=framed)


def _packed() -> list[bytes]:
    from streams.store.gateway import compression

    made = [
        make()
        for make in (compression._gzip, compression._lz4, compression._zstd, compression._brotli)
    ]
    return [frames(b"a" * 300), *(packer.pack(b"b" * 300) + packer.end() for packer in made)]


STATEMENT = Target(
    "sql", SEEDS, check_sql,
    [b"FORMAT ", b"insert ", b"values", b"settings", b"$a$", b"`", b"\\'", b"''", b"select", b"(", b")",
     b"--\n", b"#!", b"/* ", b"; ", b"system.query_log", b"query_id"],
    bytes_max=SQL_BYTES_MAX + 10_000,
)  # fmt: skip
PACKED = Target("packed", _packed(), check_packed, bytes_max=4096)
