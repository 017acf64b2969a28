"""The log of what was refused: who, from where, which query, why. Never the statement: it may hold
a secret.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web

from streams.store.gateway.errors import EngineError
from streams.store.gateway.users import User

LINES_MAX: Final = 200
"""Lines that may be written at once; `LINES_PER_S` more each second. An attacker must not fill the
disk. What is left out is counted in the next line."""
LINES_PER_S: Final = 20.0
WHY_LENGTH_MAX: Final = 300

_REFUSALS: Final = frozenset({401, 403, 408, 413, 503})
"""Statuses that say that somebody was not let through; others say that a request was wrong."""
_CODES: Final = frozenset({117, 452})

log = structlog.get_logger()


@dataclass(slots=True)
class Refusals:
    """Writes one line for each, up to a rate. Used by one thread."""

    clock: Callable[[], float] = time.monotonic
    count: int = 0
    _room: float = float(LINES_MAX)
    _at_s: float = 0.0
    _left_out: int = 0

    def note(
        self, error: EngineError, request: web.Request, *, query_id: str, user: User | None
    ) -> None:
        """Log ``error`` if it is a refusal."""
        if error.status in _REFUSALS or error.code in _CODES:
            name = user.name if user is not None else "(not let in)"
            self.cut_off(
                error.message, address=request.remote or "", query_id=query_id, user=name,
                code=error.code,
            )  # fmt: skip

    def cut_off(
        self, why: str, *, address: str, query_id: str = "", user: str = "", code: int = 0
    ) -> None:
        """Log that a request was refused or a connection closed."""
        self.count += 1
        now_s = self.clock()
        self._room = min(float(LINES_MAX), self._room + (now_s - self._at_s) * LINES_PER_S)
        self._at_s = now_s
        if self._room < 1.0:
            self._left_out += 1
            return
        self._room -= 1.0
        left_out, self._left_out = self._left_out, 0
        log.warning(
            "request refused",
            user=user,
            address=address,
            query_id=query_id,
            code=code,
            why=why[:WHY_LENGTH_MAX],
            **({"lines_left_out": left_out} if left_out else {}),
        )
