"""What a request asks for, found without reading its data as text.

The engine's own parser decides what a statement does (`Engine.classify`, `Engine.canonical`).
Here is only what must be known before: where the SQL of an ``INSERT ... FORMAT x <data>`` ends, and
which format a ``SELECT`` asks for. Binary data behind the format word is never looked at.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from streams.store.gateway.errors import SYNTAX_ERROR, refusal

SQL_BYTES_MAX = 256 << 10
"""Longest SQL of an insert without its rows, and longest query that is searched for its format: the
engine's own ``max_query_size``."""

HEREDOCS_OPEN_MAX = 32
"""Tags of heredocs that are opened and never closed: each costs a look at all that follows."""

# Every alternative goes forward only (`*+`, `++`), and what is opened and never closed is one token
# up to the end: so the time grows with the length, whatever somebody sends.
_TOKEN = re.compile(
    rb"""
      (?P<space> \s++ | --[^\n]*+ | \#[!\ ][^\n]*+ | /\*.*?\*/ )
    | (?P<text> '(?:[^'\\]++|\\.|'')*+' )
    | (?P<quoted> "(?:[^"\\]++|\\.|"")*+" | `(?:[^`\\]++|\\.|``)*+` )
    | (?P<word> [A-Za-z_]\w*+ )
    | (?P<heredoc> \$\w*+\$ )
    | (?P<other> [0-9][0-9A-Za-z_.]*+ | ['"`].*+ | /\*.*+ | . )
    """,
    re.DOTALL | re.VERBOSE,
)


_TAIL_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)
_BEFORE_DATA = re.compile(rb"[ \t\r]*;?[ \t\r]*\n?")


class Token(NamedTuple):
    """A piece of SQL; ``kind`` is ``word`` (then ``text`` is in lower case), ``quoted`` (a name in
    quotes), ``text`` (a literal) or ``other`` (one sign, or a number).
    """

    kind: str
    text: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Insert:
    """An ``INSERT`` whose rows follow as data.

    Attributes:
        into: The SQL up to, and without, ``SETTINGS`` or ``FORMAT x``.
        settings: The ``SETTINGS`` clause; empty if there is none.
        format: The name of the format.
        data: The rows that came with the SQL; more may follow in the body.
    """

    into: str
    settings: str
    format: str
    data: memoryview

    @property
    def sql(self) -> str:
        """The whole statement without its rows, as the engine's parser can judge it."""
        return self._sql()

    def from_file(self, path: str, settings: dict[str, str]) -> str:
        """The statement with the rows in a file, and more settings for this one time."""
        return self._sql(f"FROM INFILE {quote(path)}", settings)

    def _sql(self, source: str = "", more: dict[str, str] | None = None) -> str:
        clause = ", ".join(f"{name} = {quote(value)}" for name, value in (more or {}).items())
        if clause:
            clause = f"{', ' if self.settings else 'SETTINGS '}{clause}"
        # Each on a line of its own: what is before may end in a comment, which would swallow it.
        parts = (self.into, source, self.settings, clause, f"FORMAT {self.format}")
        return "\n".join(filter(None, parts))


def tokens(sql: bytes | memoryview, *, bytes_max: int = sys.maxsize) -> Iterator[Token]:
    """The tokens of ``sql`` without comments and white space, lazily.

    Nothing behind ``bytes_max`` is looked at; a token that it cuts ends there.
    """
    position, unclosed = 0, set[bytes]()
    while match := _TOKEN.match(sql, position, bytes_max):
        start, position = match.span()
        kind = match.lastgroup or "other"
        if kind == "space":
            continue
        if kind == "heredoc":
            end = _heredoc_end(sql, match.group(), position, bytes_max, unclosed)
            kind, position = ("other", start + 1) if end is None else ("text", end)
        text = bytes(sql[start:position])
        yield Token(kind, text.lower() if kind == "word" else text, start, position)


def _heredoc_end(
    sql: bytes | memoryview, tag: bytes, position: int, bytes_max: int, unclosed: set[bytes]
) -> int | None:
    """Where the literal that ``tag`` opened before ``position`` ends; None: it does not.

    A tag that was not found once is not found further on either. Of very many such tags the rest is
    not looked for: no statement has them.
    """
    tag = bytes(tag)
    if tag in unclosed or len(unclosed) >= HEREDOCS_OPEN_MAX:
        return None
    if found := re.compile(re.escape(tag)).search(sql, position, bytes_max):
        return found.end()
    unclosed.add(tag)
    return None


def split_insert(request: bytes | memoryview) -> Insert | None:
    """The parts of ``INSERT ... FORMAT x <data>``; None for every other statement.

    Reads no further than the word behind ``FORMAT``. As in ClickHouse the data begins behind the
    blanks, one semicolon and one line end that may follow the format's name.

    Raises:
        EngineError: the SQL before the data is not UTF-8 or longer than ``SQL_BYTES_MAX``.
    """
    found = tokens(request, bytes_max=SQL_BYTES_MAX + 1)
    first = next(found, None)
    if first is None or first.text != b"insert" or first.kind != "word":
        return None
    depth, before, settings_at = 0, b"", -1
    for token in found:
        if token.end > SQL_BYTES_MAX:
            raise refusal(SYNTAX_ERROR, f"The SQL is longer than {SQL_BYTES_MAX} bytes.")
        if token.kind == "other":
            depth += (token.text == b"(") - (token.text == b")")
        elif token.kind == "word" and depth == 0 and before not in {b"into", b"table", b"."}:
            if token.text in {b"select", b"with", b"values", b"watch", b"from"}:
                return None
            if token.text == b"settings" and settings_at < 0:
                settings_at = token.start
            if token.text == b"format":
                name = next(found, None)
                if name is None or name.kind != "word" or name.text == b"values":
                    return None
                end = token.start if settings_at < 0 else settings_at
                return Insert(
                    # As bytes: text would lose signs like \x1e, blanks to Python alone.
                    into=decode_sql(bytes(request[:end]).strip()),
                    settings=decode_sql(bytes(request[end : token.start]).strip()),
                    format=bytes(request[name.start : name.end]).decode(),
                    data=memoryview(request)[_data_start(request, name.end) :],
                )
        before = token.text
    if len(request) > SQL_BYTES_MAX:
        raise refusal(SYNTAX_ERROR, f"The SQL is longer than {SQL_BYTES_MAX} bytes.")
    return None


def _data_start(request: bytes | memoryview, position: int) -> int:
    match = _BEFORE_DATA.match(request, position)
    return position if match is None else match.end()


def decode_sql(sql: bytes | memoryview) -> str:
    """``sql`` as text.

    Raises:
        EngineError: it is not UTF-8.
    """
    try:
        return bytes(sql).decode()
    except UnicodeDecodeError as cause:
        raise refusal(SYNTAX_ERROR, f"The SQL is not valid UTF-8: {cause.reason}.") from cause


def output_format(sql: bytes) -> str | None:
    """The format that a query's ``FORMAT x`` clause asks for; a guess beyond ``SQL_BYTES_MAX``."""
    if b"format" not in sql.lower():
        return None
    if len(sql) > SQL_BYTES_MAX:
        tail = _TAIL_FORMAT.search(sql, len(sql) - 200)
        return None if tail is None else tail.group(1).decode()
    depth, found, armed = 0, None, False
    for token in tokens(sql):
        if token.kind == "other":
            depth += (token.text == b"(") - (token.text == b")")
            armed = False
        elif armed and token.kind == "word":
            found, armed = sql[token.start : token.end].decode(), False
        else:
            armed = token.kind == "word" and token.text == b"format" and depth == 0
    return found


def first_word(sql: bytes) -> bytes:
    """The statement's first word in lower case; ``(`` for a query in parentheses."""
    token = next(tokens(sql), None)
    return b"" if token is None else token.text


def quote(value: str) -> str:
    """``value`` as an SQL string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name: str) -> str:
    """``name`` as an SQL identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
