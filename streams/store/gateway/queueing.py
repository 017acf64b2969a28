"""Whose turn it is: engine calls of many users on few threads."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from streams.store.gateway.errors import TOO_MANY_SIMULTANEOUS_QUERIES, refusal
from streams.store.gateway.limits import Shares

SPARE_THREADS = 2
"""Threads of a lane for what needs no turn, such as closing a connection."""
WAIT_S_MAX = 60.0
"""Longest wait for a turn; who waited longer is told to come again."""


@dataclass(slots=True)
class FairQueue:
    """Gives turns, at most ``turns`` at once, to the user who has the fewest.

    The turns of one user come in the order in which they were asked for. One user alone gets two
    thirds of them (`Shares`), so that the next who comes need not wait for the end of a long query.
    How many may wait is for the caller to bound. Touched by the event loop's thread only.
    """

    turns: int
    _shares: Shares = field(init=False)
    _waiting: "OrderedDict[str, deque[asyncio.Future[None]]]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._shares = Shares(self.turns)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """How many have a turn."""
        return self._shares.total - self._shares.free

    @asynccontextmanager
    async def turn(self, user: str, *, wait_s_max: float = WAIT_S_MAX) -> AsyncIterator[None]:
        """Wait for a turn, and have it.

        Raises:
            EngineError: TOO_MANY_SIMULTANEOUS_QUERIES, after ``wait_s_max``.
        """
        if user in self._waiting or not self._shares.take(user):
            await self._wait(user, wait_s_max)
        try:
            yield
        finally:
            self._shares.give_back(user)
            self._grant()

    async def _wait(self, user: str, wait_s_max: float) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(mine)
        try:
            async with asyncio.timeout(wait_s_max):
                await mine
        except BaseException as cause:
            if mine.done() and not mine.cancelled():
                self._shares.give_back(user)  # it was given just now
            else:
                self._forget(user, mine)
            self._grant()
            if isinstance(cause, TimeoutError):
                raise refusal(
                    TOO_MANY_SIMULTANEOUS_QUERIES,
                    f"Too many simultaneous queries: no turn within {wait_s_max:g} s.",
                ) from cause
            raise

    def _forget(self, user: str, mine: "asyncio.Future[None]") -> None:
        line = self._waiting.get(user)
        if line is not None and mine in line:
            line.remove(mine)
            if not line:
                del self._waiting[user]

    def _grant(self) -> None:
        """Give what is free to those who wait."""
        while self._waiting:
            # Among equals whoever has waited longest for a turn: those who got one go to the end.
            user = min(self._waiting, key=self._shares.held)
            if not self._shares.take(user):
                return  # all others have as many or more
            line = self._waiting[user]
            line.popleft().set_result(None)
            if line:
                self._waiting.move_to_end(user)
            else:
                del self._waiting[user]


@dataclass(slots=True)
class Lane:
    """Threads for one kind of work, and the turns on them."""

    name: str
    turns: int
    queue: FairQueue = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.queue = FairQueue(self.turns)
        self.threads = ThreadPoolExecutor(self.turns + SPARE_THREADS, self.name)
