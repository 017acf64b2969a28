"""The store's HTTP door: aiohttp's own parser, then everything that happens before a statement runs."""

import asyncio
from contextlib import suppress
from unittest.mock import Mock

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

from streams.store.gateway.authentication import read_claim
from streams.store.gateway.errors import EngineError
from streams.store.gateway.intake import Intake
from streams.store.gateway.request import check_origin, check_query_id, read_call
from streams.store.gateway.users import NOBODY
from tests.fuzz.target import Target

_HEAD = b"Host: localhost:8123\r\nConnection: keep-alive\r\n"
_FORM = (
    b'--B\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT * FROM t\r\n'
    b'--B\r\nContent-Disposition: form-data; name="t"; filename="t"\r\n\r\n1\t2\r\n--B--\r\n'
)
SEEDS = [
    b"GET /?query=SELECT%201&database=tidemill&param_x=3&max_threads=1 HTTP/1.1\r\n" + _HEAD + b"\r\n",
    b"POST /?query=INSERT+INTO+t+FORMAT+CSV&query_id=q1&session_id=s&session_timeout=30 HTTP/1.1\r\n"
    + _HEAD + b"Authorization: Basic ZGVmYXVsdDpzZWNyZXQ=\r\nContent-Length: 4\r\n\r\n1,2\n",
    b"POST /?decompress=1&compress=1 HTTP/1.1\r\n" + _HEAD
    + b"X-ClickHouse-User: u\r\nX-ClickHouse-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nSELECT 1\r\n0\r\n\r\n",
    b"POST /?t_structure=a+Int8%2C+b+Int8&wait_end_of_query=1 HTTP/1.1\r\n" + _HEAD
    + b"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: %d\r\n\r\n" % len(_FORM) + _FORM,
]  # fmt: skip


class _Protocol(BaseProtocol):
    """What aiohttp asks its connection for, without a socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._reading_paused = False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, *, resume_parser: bool = True) -> None:
        pass


_loop = asyncio.new_event_loop()
_CONNECTION = Mock(max_field_size=8190, max_headers=128, max_line_size=8190)
_intake = Intake()


def check_http(content: bytes) -> None:
    """A request is a call or a refusal, whatever its bytes, and its body is read to its end."""
    _loop.run_until_complete(_read(content))


async def _read(content: bytes) -> None:
    parser = HttpRequestParser(
        _Protocol(_loop), _loop, 2**16, max_line_size=8190, max_headers=128, max_field_size=8190
    )
    try:
        messages, _upgraded, _rest = parser.feed_data(content)
    except HttpProcessingError:
        return
    for message, payload in messages[:2]:
        if payload is not EMPTY_PAYLOAD and not payload.is_eof():
            payload.feed_eof()
        request = web.Request(message, payload, _CONNECTION, Mock(), Mock(), _loop)
        with suppress(EngineError, web.HTTPException):
            await _call(request)


async def _call(request: web.Request) -> None:
    check_origin(request, guarded=False)
    parameters = dict(request.query)
    query_id = check_query_id(parameters.get("query_id", ""))
    claim = read_claim(request.headers, parameters)
    assert claim.name.encode()
    with _intake.allowance("default") as allowed:
        call = await read_call(
            request, parameters, query_id=query_id, user=NOBODY, database="tidemill",
            intake=_intake, allowed=allowed,
        )  # fmt: skip
    assert call.sql.strip()
    assert 1.0 <= call.session_s <= 3600.0


HTTP = Target(
    "http", SEEDS, check_http,
    [b"\r\n\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Host: ", b"&query=", b"%ff",
     b"&session_timeout=nan", b"Authorization: Basic ", b"Origin: null\r\n", b"Content-Encoding: gzip\r\n",
     b"&client_protocol_version=", b"--B", b'name="', b"&role=x", b"Content-Type: multipart/form-data\r\n"],
    bytes_max=32_768,
)  # fmt: skip
