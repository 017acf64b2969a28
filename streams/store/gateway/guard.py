"""Connections: how many, and how long one may take to say what it wants.

It stands between a socket and aiohttp, and sees bytes before anybody knows whose they are. The head
of a request must be complete in time, however slowly its bytes trickle in; a connection that asks
nothing is closed; and when there are too many, the one that has been silent longest goes. Bodies
have their own time budget (`intake`).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from streams.store.gateway.refusals import Refusals

CONNECTIONS_MAX: Final = 1000
HEAD_S_MAX: Final = 10.0
"""From the first byte of a request, or from the opening of a connection, to the end of the head."""
IDLE_S_MAX: Final = 300.0
"""Between two requests. Drivers keep connections for the next query."""
LINGER_S: Final = 1.0
"""How long the rest of a body that is not wanted may still come, so that its client hears why."""
HEAD_BYTES_MAX: Final = 4 << 20
"""Bytes taken before a head is known to be complete; aiohttp's own limits come first."""


log = structlog.get_logger()


class Guard(asyncio.Protocol):
    """One connection."""

    def __init__(self, inner: Any, connections: "Connections") -> None:
        self.inner = inner
        self.transport: asyncio.Transport | None = None
        self.active = 0
        self._connections = connections
        self._bytes = 0
        self._drains_until_s = 0.0
        self.waits_since_s: float | None = connections.clock()
        """Since when the head of a request is incomplete; None if there is no part of one."""
        self.idle_since_s = self.waits_since_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connections.add(self)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        if not self.active and self._connections.clock() >= self._drains_until_s:
            if self.waits_since_s is None:
                self.waits_since_s = self._connections.clock()
            self._bytes += len(data)
            if self._bytes > HEAD_BYTES_MAX:
                self._connections.end(self, "the head of a request is too large")
                return
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """The client has said all it wants to say."""
        end: bool | None = self.inner.eof_received()
        return end

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._connections.remove(self)
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.inner.resume_writing()

    def begin(self) -> None:
        """The head of a request was complete."""
        self.active += 1
        self.waits_since_s, self._bytes = None, 0

    def finish(self) -> None:
        """The answer to it was sent."""
        self.active -= 1
        self.idle_since_s = self._connections.clock()
        self._drains_until_s = self.idle_since_s + 2 * LINGER_S

    @property
    def address(self) -> str:
        """Where it comes from."""
        place = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(place[0]) if place else ""


@dataclass(slots=True)
class Connections:
    """All connections. Touched by the event loop's thread only."""

    refusals: Refusals
    clock: Callable[[], float] = time.monotonic
    most: int = CONNECTIONS_MAX
    head_s_max: float = HEAD_S_MAX
    idle_s_max: float = IDLE_S_MAX
    _open: set[Guard] = field(default_factory=set)

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

    def add(self, guard: Guard) -> None:
        """Count a new one in, and end the most useless one if there are too many."""
        self._open.add(guard)
        if len(self._open) > self.most:
            idle = [one for one in self._open if not one.active and one is not guard]
            victim = min(idle, key=lambda one: one.idle_since_s, default=guard)
            self.end(victim, f"more than {self.most} connections")

    def remove(self, guard: Guard) -> None:
        """Count one out."""
        self._open.discard(guard)

    def end(self, guard: Guard, why: str) -> None:
        """Close the connection at once."""
        self._open.discard(guard)
        self.refusals.cut_off(f"connection closed: {why}", address=guard.address)
        if guard.transport is not None:
            guard.transport.abort()

    def sweep(self) -> None:
        """End those whose time is up; called every second or so."""
        now_s = self.clock()
        for guard in list(self._open):
            if guard.active:
                continue
            if guard.waits_since_s is not None:
                if now_s - guard.waits_since_s > self.head_s_max:
                    self.end(guard, f"no complete request within {self.head_s_max:g} s")
            elif now_s - guard.idle_since_s > self.idle_s_max and guard.transport is not None:
                if guard.transport.get_write_buffer_size():
                    self.end(guard, "its client does not read the answer")
                else:
                    guard.transport.close()  # nothing wrong with it

    @web.middleware
    async def watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Know which connections have a request in progress."""
        guard = None if request.transport is None else request.transport.get_protocol()
        if not isinstance(guard, Guard):
            response: web.StreamResponse = await handler(request)
            return response
        guard.begin()
        try:
            response = await handler(request)
        finally:
            guard.finish()
        return response


class Malformed:
    """Takes the place of aiohttp's logger: it would repeat what it could not read."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def debug(self, *_arguments: object, **_more: object) -> None:
        """Leave it out."""

    def exception(self, message: str, *arguments: object, **more: object) -> None:
        """Note that a request could not be read, and from where; or what else went wrong."""
        cause = more.get("exc_info")
        if isinstance(cause, BaseException) and not isinstance(cause, HttpProcessingError):
            log.error("request failed", exc_info=cause)
            return
        address = str(arguments[0])[:80] if arguments else ""
        self._refusals.cut_off(f"malformed request: {message[:60]!r}", address=address)

    error = warning = info = exception
