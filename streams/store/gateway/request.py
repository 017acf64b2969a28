"""A request over HTTP taken apart: what to run, where, with which settings."""

import ipaddress
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from streams.store.gateway.compression import unpack_all
from streams.store.gateway.errors import (
    ACCESS_DENIED,
    BAD_ARGUMENTS,
    ROLE_NOT_GRANTED,
    SYNTAX_ERROR,
    TOO_LARGE,
    refusal,
)
from streams.store.gateway.forbidden import REFUSED_SETTINGS
from streams.store.gateway.intake import BODY_BYTES_MAX, Allowance, Intake, Pace
from streams.store.gateway.progress import INTERVAL_MS, INTERVAL_S_MAX, INTERVAL_S_MIN
from streams.store.gateway.statement import Insert, split_insert
from streams.store.gateway.users import User

SESSION_S_MAX = 3600.0
PIECE_BYTES_MIN = 16 << 10
"""Smaller pieces of a body are gathered to this size."""

# Parameters that are for the server and not settings of the engine.
_TRANSPORT = frozenset(
    {
        *("query", "database", "default_format", "query_id", "quota_key", "role"),
        *("session_id", "session_timeout", "session_check", "user", "password"),
        *("compress", "decompress", "enable_http_compression", "http_zlib_compression_level"),
        *("wait_end_of_query", "buffer_size", "http_response_buffer_size"),
        *("replace_running_query", "send_progress_in_http_headers"),
        *("http_headers_progress_interval_ms", "replace_running_query_max_wait_ms"),
        *("cancel_http_readonly_queries_on_client_close", "add_http_cors_header", "stacktrace"),
        *("client_protocol_version", "http_write_exception_in_output_format"),
    }
)
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class External:
    """A table that a client sends with its query: a temporary table of the same name."""

    name: str
    structure: str
    format: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request.

    Attributes:
        user: Whose it is.
        sql: The statement; for an insert of data everything before its rows.
        insert: Set when rows follow as data.
        content: Pieces of the rows, in order.
        session: Its session, or empty.
        readonly: Whether it may only read (GET).
        whole: Whether the answer is only wanted when it is complete.
        accepted: The content encodings that the client can read.
        framed: Whether the answer is wanted in ClickHouse's own compressed frames.
        replaces: Whether a running query of the same id is to be ended first.
        progress_s: Seconds between headers that say how far it is; None for none.
        protocol: The version of the native protocol that the client speaks; 0 if it does not say.
    """

    query_id: str
    user: User
    sql: bytes
    insert: Insert | None
    content: tuple[bytes | memoryview, ...]
    database: str
    settings: dict[str, str]
    parameters: dict[str, str]
    default_format: str
    session: str
    session_s: float
    session_must_exist: bool
    readonly: bool
    whole: bool
    accepted: str
    framed: bool = False
    protocol: int = 0
    replaces: bool = False
    progress_s: float | None = None
    external: tuple[External, ...] = field(default=())


def check_origin(request: web.Request, *, guarded: bool) -> None:
    """Refuse what a web page in somebody's browser may send to this machine.

    A page can post to any address, and by giving its own name this machine's address (DNS
    rebinding) even read the answer. Clients that are no browser send neither header. With
    passwords (``guarded``) a page's own name leads to nothing, and this machine has others.

    Raises:
        EngineError: the request names another host, or comes from a page.
    """
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError as cause:
        raise refusal(ACCESS_DENIED, "The Host header cannot be understood.") from cause
    if not guarded and not loopback(host):
        raise refusal(ACCESS_DENIED, f"Host {host[:80]!r} is not this machine's loopback address.")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.headers.get('Host', '')}":
        raise refusal(ACCESS_DENIED, "Requests from web pages are refused.")
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise refusal(ACCESS_DENIED, "Requests from web pages are refused.")


def loopback(host: str) -> bool:
    """Whether ``host`` can only be this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def read_call(
    request: web.Request,
    parameters: dict[str, str],
    *,
    query_id: str,
    user: User,
    database: str,
    intake: Intake,
    allowed: Allowance,
) -> Call:
    """Read the whole request of ``user``; ``database`` is for those that name none.

    Raises:
        EngineError: it is too large, damaged, empty, or asks for what is not supported.
    """
    for role in request.query.getall("role", []):  # as on a server: of the granted ones
        if role != user.role:
            raise refusal(ROLE_NOT_GRANTED, f"Role {role[:80]!r} is not granted to this user.")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise refusal(TOO_LARGE, f"The body is larger than {BODY_BYTES_MAX} bytes.")
    external: tuple[External, ...] = ()
    body: tuple[bytes, ...] = ()
    if request.content_type == "multipart/form-data":
        async with intake.pace(allowed) as pace:
            external = await _read_form(request, parameters, pace)
    elif request.can_read_body:
        async with intake.pace(allowed) as pace:
            body = await _read_body(request, pace)
        encoding = request.headers.get("Content-Encoding", "").strip()
        framed = asked(parameters, "decompress")
        if body and (encoding or framed):
            packed = b"".join(body)
            body = (await intake.unpack(lambda: unpack_all(packed, encoding, framed=framed)),)
            allowed.take(len(body[0]))
    sql, insert, content = _statement(parameters.get("query", "").encode(), body)
    hidden = {name + end for name in (e.name for e in external) for end in _EXTERNAL_ENDS}
    header = request.headers
    return Call(
        query_id=query_id,
        user=user,
        sql=sql,
        insert=insert,
        content=content,
        database=parameters.get("database")
        or header.get("X-ClickHouse-Database")
        or (database if database in (user.databases or (database,)) else user.databases[0]),
        settings=_settings(parameters, hidden),
        parameters={k[6:]: v for k, v in parameters.items() if k.startswith("param_")},
        default_format=_format(
            parameters.get("default_format") or header.get("X-ClickHouse-Format") or "TabSeparated"
        ),
        session=parameters.get("session_id", ""),
        session_s=_seconds(parameters.get("session_timeout", "60")),
        session_must_exist=parameters.get("session_check") == "1",
        readonly=request.method in {"GET", "HEAD"},
        whole=parameters.get("wait_end_of_query") == "1",
        accepted=header.get("Accept-Encoding", "")
        if parameters.get("enable_http_compression") == "1"
        else "",
        framed=asked(parameters, "compress"),
        protocol=_natural(
            "client_protocol_version", parameters.get("client_protocol_version", "0")
        ),
        replaces=asked(parameters, "replace_running_query"),
        progress_s=_progress_s(parameters),
        external=external,
    )


def _statement(
    query: bytes, pieces: tuple[bytes, ...]
) -> tuple[bytes, Insert | None, tuple[bytes | memoryview, ...]]:
    """The SQL, the insert that it is if rows follow as data, and those rows in pieces."""
    # Rows in the body never become part of the text that is searched for the end of the SQL.
    content: tuple[bytes | memoryview, ...] = ()
    if query and (insert := split_insert(query)):
        content = (insert.data, *pieces)  # not joined: a copy of an insert costs as much as HTTP
        sql = insert.sql.encode()
    elif not query and (insert := split_insert(b"".join(pieces))):
        content = (insert.data,)
        sql = insert.sql.encode()
    else:
        sql = b"\n".join(filter(None, (query, b"".join(pieces))))
    if not sql.strip():
        raise refusal(SYNTAX_ERROR, "Syntax error: Empty query.")
    return sql, insert, tuple(piece for piece in content if len(piece))


_EXTERNAL_ENDS = ("_structure", "_types", "_format")


def check_query_id(query_id: str) -> str:
    """``query_id``, or a new one for an empty one.

    Raises:
        EngineError: it cannot stand in a header.
    """
    if len(query_id) > 200 or not query_id.isprintable() or not query_id.isascii():
        raise refusal(BAD_ARGUMENTS, "query_id must be at most 200 printable ASCII characters.")
    return query_id or str(uuid.uuid4())


def asked(parameters: Mapping[str, str], name: str) -> bool:
    """Whether the parameter ``name`` is there and true."""
    return parameters.get(name, "0") not in {"0", "false", ""}


def _progress_s(parameters: Mapping[str, str]) -> float | None:
    if not asked(parameters, "send_progress_in_http_headers"):
        return None
    text = parameters.get("http_headers_progress_interval_ms", str(INTERVAL_MS))
    return min(
        max(_natural("http_headers_progress_interval_ms", text) / 1e3, INTERVAL_S_MIN),
        INTERVAL_S_MAX,
    )


def _natural(name: str, text: str) -> int:
    if len(text) > 9 or not text.isdecimal() or not text.isascii():
        raise refusal(BAD_ARGUMENTS, f"{name} must be a number.")
    return int(text)


def _settings(parameters: Mapping[str, str], hidden: set[str]) -> dict[str, str]:
    settings = {}
    for name, value in parameters.items():
        if name in _TRANSPORT or name in hidden or name.startswith("param_"):
            continue
        if not _SETTING.match(name):
            raise refusal(BAD_ARGUMENTS, f"Setting {name[:80]!r} has no usable name.")
        if name in REFUSED_SETTINGS:
            raise refusal(ACCESS_DENIED, f"Not enough privileges to change the setting {name}.")
        settings[name] = value
    return settings


def _format(name: str) -> str:
    if not _SETTING.match(name):
        raise refusal(BAD_ARGUMENTS, f"Format {name[:80]!r} has no usable name.")
    return name


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):  # it would be neither earlier nor later than anything: kept for ever
        raise refusal(BAD_ARGUMENTS, "session_timeout must be a number of seconds.")
    return min(max(seconds, 1.0), SESSION_S_MAX)


async def _read_body(request: web.Request, pace: Pace) -> tuple[bytes, ...]:
    """The body as it came; what comes in crumbs is gathered: each piece has a cost of its own."""
    pieces: list[bytes] = []
    crumbs = bytearray()
    async for piece, _ in request.content.iter_chunks():
        pace.add(len(piece))
        if len(piece) < PIECE_BYTES_MIN:
            crumbs += piece
        if crumbs and (len(piece) >= PIECE_BYTES_MIN or len(crumbs) >= PIECE_BYTES_MIN):
            pieces.append(bytes(crumbs))
            crumbs.clear()
        if len(piece) >= PIECE_BYTES_MIN:
            pieces.append(piece)
    return (*pieces, bytes(crumbs)) if crumbs else tuple(pieces)


async def _read_form(
    request: web.Request, parameters: dict[str, str], pace: Pace
) -> tuple[External, ...]:
    """Form fields become parameters, files become external tables."""
    files: dict[str, bytes] = {}
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or not part.name:
                raise refusal(BAD_ARGUMENTS, "The form has a part without a name.")
            content = bytearray()
            while piece := await part.read_chunk(1 << 20):
                content += piece
                pace.add(len(piece))
            if part.filename is not None and part.name != "query":
                files[part.name] = bytes(content)
            else:
                parameters[part.name] = content.decode("utf-8", "replace")
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as cause:
        raise refusal(BAD_ARGUMENTS, f"The form cannot be read: {str(cause)[:80]!r}.") from cause
    return tuple(_external(name, content, parameters) for name, content in files.items())


def _external(name: str, content: bytes, parameters: Mapping[str, str]) -> External:
    structure = parameters.get(f"{name}_structure", "")
    if not structure:
        types = parameters.get(f"{name}_types", "String")
        structure = ", ".join(f"_{i} {kind}" for i, kind in enumerate(types.split(","), start=1))
    form = _format(parameters.get(f"{name}_format", "TabSeparated"))
    return External(name, structure, form, content)
