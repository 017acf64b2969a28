"""Questions to the store: read-only, bounded, few at a time."""

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import msgspec

from schemas.errors import PermanentError, StoreUnavailable
from schemas.settings import Settings
from streams.store.client import Address

ANSWER_S_MAX = 10
"""Run time of one question in the store."""
ANSWER_ROWS_MAX = 10_000
ANSWER_BYTES_MAX = 16 << 20
MEMORY_BYTES_MAX = 2 << 30
AT_ONCE_MAX = 3
"""Questions of all viewers together that run at the same time."""
SQL_BYTES_MAX = 64 << 10


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the store said.

    Attributes:
        columns: Names.
        types: ClickHouse's names of their types.
        rows: Values; integers of 64 bits as text where ``exact`` was asked for.
        took_ms: From the question to the whole answer.
        read_rows: Rows that the store looked at.
        cut: Whether there are more rows than are here.
    """

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    took_ms: float
    read_rows: int = 0
    cut: bool = False


class _Meta(msgspec.Struct):
    name: str
    type: str


class _Statistics(msgspec.Struct):
    rows_read: int = 0


class _Compact(msgspec.Struct):
    """ClickHouse's format JSONCompact."""

    meta: list[_Meta]
    data: list[list[Any]]
    statistics: _Statistics = msgspec.field(default_factory=_Statistics)


@dataclass(frozen=True, slots=True)
class _Place:
    url: str
    login: dict[str, str]
    ssl: ssl.SSLContext | bool


_LIMITS = {
    "max_execution_time": str(ANSWER_S_MAX),
    "max_memory_usage": str(MEMORY_BYTES_MAX),
    "max_threads": "1",
    "cancel_http_readonly_queries_on_client_close": "1",
}
_MODES: tuple[dict[str, str], ...] = (
    {**_LIMITS, "readonly": "1"},
    _LIMITS,  # a user with readonly=2 may set limits, but not that
    {},  # a user with readonly=1 may set nothing
)


class Asker:
    """Asks the store read-only, whoever the address names.

    A user who may write asks with ``readonly=1``. A user who may only read is not allowed to set
    that; then it is looked up once that this is so. Use it as an asynchronous context manager.
    """

    def __init__(self, settings: Settings) -> None:
        """Name the store; nothing is connected yet."""
        address = Address(settings.clickhouse)
        context: ssl.SSLContext | bool = True
        if address.secure and settings.clickhouse_ca:
            context = ssl.create_default_context(cafile=settings.clickhouse_ca)
        login = {"X-ClickHouse-User": address.user, "X-ClickHouse-Key": address.password}
        self._place = _Place(address.shown, login if address.password else {}, context)
        self._database = settings.database
        self._turn = asyncio.Semaphore(AT_ONCE_MAX)
        self._session: aiohttp.ClientSession | None = None
        self._mode: dict[str, str] | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_S_MAX + 5, connect=3),
            connector=aiohttp.TCPConnector(limit=AT_ONCE_MAX, ssl=self._place.ssl),
        )
        return self

    async def __aexit__(self, *reason: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(
        self, sql: str, *, exact: bool = False, rows_max: int = ANSWER_ROWS_MAX
    ) -> Answer:
        """The answer to one SELECT, SHOW, DESCRIBE, EXISTS or EXPLAIN.

        Raises:
            StoreUnavailable: nobody answers, or not in time.
            PermanentError: the store refuses the question, and says why; or the answer is too long.
        """
        async with self._turn:
            started = time.monotonic()
            if self._mode is None:
                self._mode = await self._readonly_mode()
            # A person wants to see the first rows of a large answer, so it is cut, not refused.
            more = {"limit": str(rows_max + 1)} if self._mode else {}
            if self._mode and exact:
                more["output_format_json_quote_64bit_integers"] = "1"
            body = await self._post(sql, self._mode | more)
            took_ms = (time.monotonic() - started) * 1000
        try:
            found = msgspec.json.decode(body, type=_Compact)
        except msgspec.MsgspecError as cause:
            head = body[:200].decode(errors="replace").strip()
            raise PermanentError(
                f"could not read the answer: {head}. Leave FORMAT out of the question."
            ) from cause
        return Answer(
            columns=[column.name for column in found.meta],
            types=[column.type for column in found.meta],
            rows=found.data[:rows_max],
            took_ms=round(took_ms, 1),
            read_rows=found.statistics.rows_read,
            cut=len(found.data) > rows_max,
        )

    async def _readonly_mode(self) -> dict[str, str]:
        """Settings with which nothing can be written.

        Found by questions of our own only: a person's could provoke the same refusal.

        Raises:
            PermanentError: there are none.
        """
        for mode in _MODES:
            try:
                body = await self._post("SELECT toUInt8(getSetting('readonly'))", mode)
            except PermanentError as refused:
                if "Cannot modify" not in str(refused):
                    raise
                continue
            if msgspec.json.decode(body, type=_Compact).data[0][0] > 0:
                return mode
        raise PermanentError("could not ask the store in a way that cannot write")

    async def _post(self, sql: str, settings: dict[str, str]) -> bytes:
        assert self._session is not None
        parameters = {
            "database": self._database,
            "default_format": "JSONCompact",
            "wait_end_of_query": "1",
            **settings,
        }
        try:
            async with self._session.post(
                self._place.url, params=parameters, data=sql.encode(), headers=self._place.login
            ) as reply:
                parts, size = [], 0
                async for part in reply.content.iter_chunked(1 << 16):
                    parts.append(part)
                    size += len(part)
                    if size > ANSWER_BYTES_MAX:
                        raise PermanentError(
                            f"could not show an answer of more than {ANSWER_BYTES_MAX >> 20} MiB. "
                            "Ask for fewer rows or columns: LIMIT 1000."
                        )
                body = b"".join(parts)
                if reply.status != 200:
                    raise _refused(body, reply.status)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as cause:
            raise StoreUnavailable(
                f"could not reach the store at {self._place.url}: {cause!r}"
            ) from cause


def _refused(body: bytes, status: int) -> Exception:
    text = body.decode(errors="replace").strip()[:1500] or f"HTTP status {status}"
    if status in {429, 502, 503, 504}:
        return StoreUnavailable(f"could not ask the store: {text}")
    return PermanentError(text)
