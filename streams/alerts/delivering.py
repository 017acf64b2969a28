"""Delivers what is owed, channel by channel: none waits for another, none is tried for ever.

An attempt that fails makes its channel wait, twice as long each time. A notice is given up after
`ATTEMPTS_MAX` attempts, or at once if it will never be taken; what still fires is told again after
its `repeat`. Which notice went out is kept in the states, so a restart repeats none, but for one
whose delivery was not written down yet: that one comes again under the same id.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from schemas.errors import PermanentError, TidemillError, TransientError
from schemas.notices import Notice
from streams.alerts.channels import Channel
from streams.alerts.core import AlertState, Key, delivered, owed
from streams.alerts.questions import RUNBOOK
from streams.alerts.readings import short

ATTEMPTS_MAX: Final = 10
"""With the pauses between them about a quarter of an hour."""
PAUSE_S_MIN: Final = 1.0
PAUSE_S_MAX: Final = 300.0
AGE_MS_MAX: Final = 3_600_000
"""What is over for longer than this is not told any more."""

log = structlog.get_logger()


def pause_s(attempts: int) -> float:
    """How long a channel waits after so many failures in a row."""
    return float(min(PAUSE_S_MAX, PAUSE_S_MIN * 2 ** min(attempts - 1, 20)))


class Book(Protocol):
    """Where the states are; changed in place, and whatever changes is kept."""

    def states(self) -> dict[Key, AlertState]:
        """All of them, as they are now."""
        ...

    def put(self, state: AlertState) -> None:
        """Replace one, and keep it."""
        ...


def notice_of(state: AlertState, look: str) -> Notice:
    """What people are told about ``state``."""
    return Notice(
        id=f"{state.pipeline}/{state.rule}/{state.started_ms}/{state.notices}",
        status="firing" if state.told else "resolved",
        pipeline=state.pipeline,
        rule=state.rule,
        severity=state.severity,
        value=state.value,
        bound=state.bound,
        started_at_ms=state.started_ms,
        told_at_ms=state.noticed_ms,
        number=state.notices,
        summary=state.summary,
        detail=state.detail,
        look=look,
        runbook=f"{RUNBOOK}#{state.rule}",
    )


@dataclass(slots=True)
class Outlet:
    """One channel and how it fares.

    Attributes:
        channel: The channel.
        sent: Notices that it delivered.
        failed: Attempts that failed.
        given_up: Notices that it never delivered.
        attempts: Failures in a row.
        due_s: Not before; on the clock of ``clock``.
        failing_since_s: Since when nothing went out; None: it works.
        error: Why the last attempt failed.
        clock: Seconds that never go back.
    """

    channel: Channel
    clock: Callable[[], float] = time.monotonic
    sent: int = 0
    failed: int = 0
    given_up: int = 0
    attempts: int = 0
    due_s: float = 0.0
    failing_since_s: float | None = None
    error: str = ""

    async def deliver(self, book: Book, look: Callable[[Key], str], *, now_ms: int) -> float:
        """Deliver what is owed now; the seconds until it makes sense to come back."""
        if (wait_s := self.due_s - self.clock()) > 0:
            return wait_s
        name = self.channel.name
        for state in owed(book.states(), name, now_ms=now_ms, age_ms_max=AGE_MS_MAX):
            notice = notice_of(state, look(state.key))
            try:
                await self.channel.send(notice)
            except Exception as cause:
                error = _known(cause)
                self._fails(error)
                if isinstance(error, PermanentError) or self.attempts >= ATTEMPTS_MAX:
                    self._gives_up(book, state, error)
                    continue
                return max(0.0, self.due_s - self.clock())
            self.sent += 1
            self.attempts, self.due_s, self.failing_since_s, self.error = 0, 0.0, None, ""
            self._done(book, state)
        return PAUSE_S_MIN

    def _fails(self, cause: TidemillError) -> None:
        self.failed += 1
        self.attempts += 1
        self.error = short(cause)
        if self.failing_since_s is None:
            self.failing_since_s = self.clock()
            log.warning("channel fails", channel=self.channel.name, error=self.error)
        self.due_s = self.clock() + pause_s(self.attempts)

    def _gives_up(self, book: Book, state: AlertState, cause: TidemillError) -> None:
        self.given_up += 1
        self.attempts = 0
        log.error(
            "notice given up",
            channel=self.channel.name,
            pipeline=state.pipeline,
            rule=state.rule,
            error=short(cause),
        )
        self._done(book, state)

    def _done(self, book: Book, state: AlertState) -> None:
        # The state may have changed while it was sent, so only the mark is added.
        present = book.states().get(state.key, state)
        changed = delivered(present, self.channel.name, state.notices)
        if changed is not present:
            book.put(changed)


def _known(cause: Exception) -> TidemillError:
    """``cause``, or for a mistake of ours its kind only: its text may hold a secret."""
    if isinstance(cause, TidemillError):
        return cause
    return TransientError(f"could not deliver: {type(cause).__name__}")
