"""The rows of a query as bytes, block by block, in memory that does not grow with the answer.

chDB hands out every block as a whole document of the asked format. Formats whose documents can be
put behind each other are streamed: directly, or with the repeated header cut off. The others (JSON,
Parquet, Pretty ...) are made by the engine in one piece.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streams.store.gateway.errors import from_engine

Cut = Callable[[bytes], int]
"""How many bytes of header a block starts with."""

_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _no_header(_block: bytes) -> int:
    return 0


def _lines(count: int, *, quoted: bool = False) -> Cut:
    """A header of ``count`` lines; a CSV name may hold line ends inside its quotes."""

    def cut(block: bytes) -> int:
        end = 0
        for _ in range(count):
            start = end
            end = block.index(b"\n", end) + 1
            while quoted and block.count(b'"', start, end) % 2:
                end = block.index(b"\n", end) + 1
        return end

    return cut


def _row_binary(texts_per_column: int) -> Cut:
    """The number of columns, then their names and perhaps types, each with its length."""

    def varint(block: bytes, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = block[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value, at

    def cut(block: bytes) -> int:
        columns, at = varint(block, 0)
        for _ in range(columns * texts_per_column):
            length, at = varint(block, at)
            at += length
        return at

    return cut


def _arrow_schema(block: bytes) -> int:
    """The schema message: a marker, the length of its metadata, the metadata, no body."""
    return 8 + int.from_bytes(block[4:8], "little")


_PLAIN = (
    "native tabseparated tsv tabseparatedraw tsvraw raw csv jsoneachrow jsonlines ndjson rowbinary "
    "jsoncompacteachrow jsonstringseachrow jsoncompactstringseachrow tskv msgpack"
)
_HEADERS: dict[str, Cut] = {
    **dict.fromkeys(_PLAIN.split(), _no_header),
    "csvwithnames": _lines(1, quoted=True),
    "csvwithnamesandtypes": _lines(2, quoted=True),
    **dict.fromkeys(("tabseparatedwithnames", "tsvwithnames", "tsvrawwithnames"), _lines(1)),
    **dict.fromkeys(("tabseparatedwithnamesandtypes", "tsvwithnamesandtypes"), _lines(2)),
    **dict.fromkeys(("jsoncompacteachrowwithnames",), _lines(1)),
    **dict.fromkeys(("jsoncompacteachrowwithnamesandtypes",), _lines(2)),
    "rowbinarywithnames": _row_binary(1),
    "rowbinarywithnamesandtypes": _row_binary(2),
    "arrowstream": _arrow_schema,
}


def streamable(name: str) -> bool:
    """Whether a format's blocks can be joined."""
    return name.lower() in _HEADERS


@dataclass(slots=True)
class Counts:
    """What an answer cost and holds, for ``X-ClickHouse-Summary``."""

    read_rows: int = 0
    read_bytes: int = 0
    result_rows: int = 0
    written_rows: int = 0
    written_bytes: int = 0


@dataclass(slots=True)
class Rows:
    """An open query in a streamable format; `fetch` until it returns None, or `cancel`.

    Used by one thread at a time.
    """

    source: Any
    format: str
    counts: Counts = field(default_factory=Counts)
    _blocks: int = 0
    _ended: bool = False

    def fetch(self) -> bytes | None:
        """The next bytes of the answer; None at its end.

        Raises:
            EngineError: the query failed; nothing more will come.
        """
        if self._ended:
            return None
        try:
            block = self.source.fetch()
        except Exception as cause:
            self._ended = True
            raise from_engine(cause) from cause
        arrow = self.format == "arrowstream"
        if block is None:
            self._ended = True
            return _ARROW_END if arrow and self._blocks else None
        self.counts.read_rows += block.storage_rows_read()
        self.counts.read_bytes += block.storage_bytes_read()
        self.counts.result_rows += block.rows_read()
        content: bytes = block.bytes()
        if arrow:
            content = content.removesuffix(_ARROW_END)
        self._blocks += 1
        return content if self._blocks == 1 else content[_HEADERS[self.format](content) :]

    @property
    def empty(self) -> bool:
        """Whether the query ended without a single row."""
        return self._ended and self._blocks == 0

    def cancel(self) -> None:
        """End the query in the engine."""
        self._ended = True
        self.source.cancel()


def open_rows(connection: Any, sql: str, name: str, parameters: dict[str, str]) -> Rows | None:
    """The rows of ``sql``; None when the engine does not stream this kind of statement.

    Raises:
        EngineError: the engine refused it.
    """
    try:
        source = connection.send_query(sql, name, params=parameters)
    except Exception as cause:
        if "Streaming query is not supported" in str(cause):
            return None
        raise from_engine(cause) from cause
    return Rows(source, name.lower())
