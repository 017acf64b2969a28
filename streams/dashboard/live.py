"""Asks once what many viewers see, and nothing that nobody looks at.

A `Channel` is one page about one pipeline. While it has viewers, one task per figure asks at its
own pace and hands the answers to all of them; with the last viewer the tasks end. A figure whose
answer took long is asked less often, so that it keeps the store busy for at most `SHARE_MAX` of
the time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas.errors import StoreUnavailable, TransientError
from streams.dashboard.figures import Figure, Page
from streams.dashboard.vitals import unavailable

SHARE_MAX = 0.05
"""Part of the time that one figure may keep the store busy."""
RETRY_S = 2.0
VIEWERS_MAX = 64
"""Pages open at once, in all browsers."""

Result = dict[str, Any]
Ask = Callable[[Figure], Awaitable[Result]]


class TooManyViewers(Exception):
    """`VIEWERS_MAX` pages are open already."""


@dataclass(slots=True, eq=False)
class Viewer:
    """What one open page has not been sent yet: at most one answer per figure."""

    pending: dict[str, Result] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self, wait_s: float) -> dict[str, Result]:
        """What is new; empty if nothing came within ``wait_s``."""
        try:
            async with asyncio.timeout(wait_s):
                await self.news.wait()
        except TimeoutError:
            return {}
        self.news.clear()
        news, self.pending = self.pending, {}
        return news

    def put(self, name: str, result: Result) -> None:
        """An answer; it replaces an older one that was not fetched."""
        self.pending[name] = result
        self.news.set()


class Channel:
    """The figures of one page about one pipeline, for all that look at it."""

    def __init__(self, page: Page, ask: Ask) -> None:
        """Nothing is asked before the first viewer."""
        self._page = page
        self._ask = ask
        self._viewers: set[Viewer] = set()
        self._last: dict[str, Result] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def open(self) -> Viewer:
        """A new viewer; it gets at once what is known."""
        viewer = Viewer()
        for name, result in self._last.items():
            viewer.put(name, result)
        self._viewers.add(viewer)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._follow(one)) for one in self._page.figures]
        return viewer

    def close(self, viewer: Viewer) -> None:
        """``viewer`` is gone; with the last one the questions end, answers are forgotten."""
        self._viewers.discard(viewer)
        if not self._viewers:
            for task in self._tasks:
                task.cancel()
            self._tasks.clear()
            self._last.clear()

    async def _follow(self, figure: Figure) -> None:
        while True:
            await asyncio.sleep(await self._refresh(figure))

    async def _refresh(self, figure: Figure) -> float:
        """Ask once and tell everybody; the seconds until it may be asked again."""
        try:
            result = {"state": "ok", **await self._ask(figure)}
            took_s = float(result.get("took_ms", 0.0)) / 1000
            wait_s = max(figure.every_s, took_s / SHARE_MAX)
        except Exception as error:
            down = isinstance(error, TransientError)
            what = "store" if isinstance(error, StoreUnavailable) else "kafka"
            result = {"state": "down" if down else "error", "message": unavailable(error)}
            if down:
                result["what"] = what
            wait_s = RETRY_S if down else 5 * figure.every_s
        result["at_ms"] = int(time.time() * 1000)
        self._last[figure.name] = result
        for viewer in self._viewers:
            viewer.put(figure.name, result)
        return wait_s


class Live:
    """All channels. Used by the event loop's thread only."""

    def __init__(self, pages: Callable[[str, str], Page | None], ask: Callable[[str], Ask]) -> None:
        """Where pages come from, by name and pipeline; how a pipeline's figures are asked."""
        self._pages = pages
        self._ask = ask
        self._channels: dict[tuple[str, str], Channel] = {}

    @property
    def viewers(self) -> int:
        """Open pages."""
        return sum(channel.viewers for channel in self._channels.values())

    def open(self, page: str, pipeline: str) -> tuple[Channel, Viewer] | None:
        """A viewer of a page; None if there is no such page.

        Raises:
            TooManyViewers: close one first.
        """
        found = self._pages(page, pipeline)
        if found is None:
            return None
        if self.viewers >= VIEWERS_MAX:
            raise TooManyViewers
        channel = self._channels.setdefault((page, pipeline), Channel(found, self._ask(pipeline)))
        return channel, channel.open()


def as_event(news: dict[str, Result]) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(news) + b"\n\n"
