"""Bodies: read in time, within a share of memory, and unpacked beside the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from streams.store.gateway.errors import (
    SOCKET_TIMEOUT,
    TOO_LARGE,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    refusal,
)
from streams.store.gateway.limits import Shares

BODY_BYTES_MAX: Final = 256 << 20
"""Largest body. The lander's inserts have at most 128 MB."""
BODIES_BYTES_MAX: Final = 3 << 30
"""All bodies together, unpacked ones too: one user alone gets 2 GiB."""
STALL_S_MAX: Final = 20.0
"""Longest wait for the next bytes of a body."""
GRACE_S: Final = 20.0
BYTES_PER_S_MIN: Final = 64 << 10
"""A body must arrive at this pace, after a grace."""
UNPACK_THREADS: Final = 2
INLINE_BYTES_MAX: Final = 16 << 10
"""Packed bodies up to here are unpacked at once if they become no larger than a piece."""

T = TypeVar("T")


@dataclass(slots=True)
class Allowance:
    """What one request may hold in memory; given back when the request is over."""

    user: str
    _stock: Shares
    _taken: int = 0

    def take(self, size: int) -> None:
        """Count ``size`` bytes in.

        Raises:
            EngineError: this request is too large, or all requests are together.
        """
        if not self._stock.take(self.user, size):
            raise refusal(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                "Too many simultaneous queries: their bodies fill the memory. Send it again.",
            )
        self._taken += size

    def close(self) -> None:
        """Give everything back."""
        self._stock.give_back(self.user, self._taken)
        self._taken = 0


@dataclass(slots=True)
class Intake:
    """What requests bring in. Touched by the event loop's thread only."""

    clock: Callable[[], float] = time.monotonic
    _stock: Shares = field(default_factory=lambda: Shares(BODIES_BYTES_MAX))
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(UNPACK_THREADS, "unpack")
    )

    @contextmanager
    def allowance(self, user: str) -> Iterator[Allowance]:
        """Room for the request of ``user``."""
        allowed = Allowance(user, self._stock)
        try:
            yield allowed
        finally:
            allowed.close()

    @asynccontextmanager
    async def pace(self, allowed: Allowance) -> AsyncIterator["Pace"]:
        """Watch over the reading of one body.

        Raises:
            EngineError: SOCKET_TIMEOUT, when it came too slowly.
        """
        try:
            async with asyncio.timeout(STALL_S_MAX) as deadline:
                yield Pace(deadline, allowed, began_s=asyncio.get_running_loop().time())
        except TimeoutError as cause:
            raise refusal(SOCKET_TIMEOUT, "Timeout exceeded: the body came too slowly.") from cause

    async def unpack(self, call: Callable[[], T]) -> T:
        """Run ``call`` on a thread: unpacking a large body takes seconds."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


@dataclass(slots=True)
class Pace:
    """Size and speed of one body while it is read."""

    deadline: asyncio.Timeout
    allowed: Allowance
    began_s: float
    size: int = 0

    def add(self, size: int) -> None:
        """Count ``size`` bytes more in, which moves the deadline.

        Raises:
            EngineError: there are too many.
        """
        self.size += size
        if self.size > BODY_BYTES_MAX:
            raise refusal(TOO_LARGE, f"The body is larger than {BODY_BYTES_MAX} bytes.")
        self.allowed.take(size)
        now_s = asyncio.get_running_loop().time()
        pace_s = self.began_s + GRACE_S + self.size / BYTES_PER_S_MIN
        self.deadline.reschedule(min(now_s + STALL_S_MAX, pace_s))
