"""How far a long query is, in headers that are sent while it runs.

A client that asks with ``send_progress_in_http_headers=1`` gets the status line and one
``X-ClickHouse-Progress`` line at a time until its answer begins. So the status is 200 from then on:
as with a server, a later error has its code in a header and its text in the body.

The lines become rarer with time, because clients bound the headers they take (Node 16 KiB, Python
100 lines).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aiohttp import web

from streams.store.gateway.running import Running

INTERVAL_MS: Final = 100
"""Between two lines, if the client does not say."""
INTERVAL_S_MIN: Final = 0.05
INTERVAL_S_MAX: Final = 3600.0
_LINES_EVEN: Final = 16
"""So many lines come evenly; then every `_LINES_STEP` lines take twice as long as those before."""
_LINES_STEP: Final = 4

Begun = web.RequestKey("begun", bool)


def watched(running: Running, connection: Any, give_back: Callable[[], None]) -> Callable[[], None]:
    """Let ``running`` know how far its query on ``connection`` is, until ``give_back``.

    Returns what to call in the place of ``give_back``.
    """
    if running.progress is None:
        return give_back
    connection.set_progress_callback(running.progress.update)

    def unwatched() -> None:
        with contextlib.suppress(Exception):  # the connection may be broken, and is then closed
            connection.set_progress_callback(None)
        give_back()

    return unwatched


@contextlib.asynccontextmanager
async def shown(
    request: web.Request, running: Running, interval_s: float | None
) -> AsyncIterator[None]:
    """Send progress lines every ``interval_s`` inside the block; None sends none."""
    if interval_s is None:
        yield
        return
    running.progress = {}
    task = asyncio.create_task(_show(request, running.progress, interval_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _show(request: web.Request, progress: dict[str, int], interval_s: float) -> None:
    lines = 0
    while True:
        await asyncio.sleep(interval_s)
        transport = request.transport
        if transport is None or transport.is_closing():
            return
        if not lines:
            _begin(request, progress)
            version = request.version
            transport.write(f"HTTP/{version.major}.{version.minor} 200 OK\r\n".encode())
        transport.write(f"{_line(progress)}\r\n".encode())
        lines += 1
        if lines >= _LINES_EVEN and lines % _LINES_STEP == 0:
            interval_s *= 2


def _begin(request: web.Request, progress: dict[str, int]) -> None:
    """Make the last progress line stand where aiohttp would write the status line."""
    request[Begun] = True
    writer: Any = request._payload_writer
    write_headers = writer.write_headers

    async def go_on(_status_line: str, headers: Any) -> None:
        await write_headers(_line(progress), headers)

    writer.write_headers = go_on


def _line(progress: dict[str, int]) -> str:
    """Numbers as strings, as a server sends them."""
    names = ("read_rows", "read_bytes", "total_rows_to_read", "written_rows", "elapsed_ns")
    figures = {name: str(progress.get(name, 0)) for name in names}
    return f"X-ClickHouse-Progress: {json.dumps(figures, separators=(',', ':'))}"
