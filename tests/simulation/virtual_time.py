"""An event loop whose clock jumps: what would sleep an hour takes no time, and always goes the same way."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TICK_S = 1e-6
"""Every turn of the loop takes this long, as in life: else whoever waits for less than a rounding
error of the clock would wait for ever."""


class Stuck(AssertionError):
    """Everybody waits for something that nobody will do."""


class _Jump(selectors.DefaultSelector):
    """Instead of waiting for a timeout it moves the clock there."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck(f"nothing will ever happen again; virtual time {self.now:.3f} s")
            self.now += max(timeout, TICK_S)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Use it without threads and sockets: nothing but its own timers may wake it."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run_virtually(main: Coroutine[Any, Any, T], *, deadline_s: float) -> T:
    """Run ``main`` on a virtual clock; `TimeoutError` when that clock passes ``deadline_s``."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(asyncio.wait_for(main, deadline_s))
