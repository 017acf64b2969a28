"""Sessions: temporary tables, `SET` and `USE` that outlive a request.

A session is one connection, used by one request at a time. Settings given in a request's URL count
for that request alone, so they are taken back before the next one that does not have them.

Most clients name a session and never put anything into it. Such a session's connection can be
closed when others need the room, and is made anew with its next request. One that was told `SET` or
`USE`, or made a temporary table, keeps its connection until it expires.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streams.store.gateway.access import FENCE, IDENTITY, Role, engine_roles, identity
from streams.store.gateway.engine import Engine, Scope, apply_settings
from streams.store.gateway.errors import (
    ACCESS_DENIED,
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    from_engine,
    refusal,
)
from streams.store.gateway.statement import quote, quote_name
from streams.store.gateway.users import NOBODY, User

SESSIONS_MAX = 10_000
"""Names of sessions; clickhouse-connect opens one per client, for 60 s, unless told otherwise."""
CONNECTIONS_MAX = 400
"""Connections of sessions, those in use included; 50 cost 2.6 MB."""


@dataclass(slots=True)
class Session:
    """One connection of one user, with what requests have laid over its own state.

    ``holds`` says that the connection has state that would be missed if it were closed.
    """

    name: str
    user: User = NOBODY
    connection: Any = None
    database: str = ""
    busy: bool = False
    holds: bool = False
    released_s: float = 0.0
    deadline_s: float = 0.0
    _replaced: Any = None
    _laid: dict[str, str] = field(default_factory=dict)
    _under: dict[str, str | None] = field(default_factory=dict)

    def prepare(self, engine: Engine, *, database: str, settings: dict[str, str]) -> None:
        """Bring the connection to what one request asks for; blocks.

        Raises:
            EngineError: no such database, or a setting the engine does not take.
        """
        replaced, self._replaced = self._replaced, None
        if replaced is not None:
            replaced.close()
        if self.connection is None:
            self._laid = {}
            self.connection = engine.connect(Scope(database, user=self.user))
            self.database = database
        elif database and database != self.database:
            try:
                self.connection.query(f"USE {quote_name(database)}")
            except Exception as cause:
                raise from_engine(cause) from cause
            self.database = database
        for name, value in settings.items():
            self.user.limits.check(name, value)
        if settings != self._laid:
            self._take_back()
            if settings:
                self._under = self._values(settings)
                self._laid = dict(settings)
                apply_settings(self.connection, settings)

    def verify(self) -> None:
        """End the connection if a statement has given it other rights than its user's; blocks.

        Nothing is known that does, and would pass the judge; but what came through would stay.

        Raises:
            EngineError: it had, and all that the session held is lost.
        """
        user, connection = self.user, self.connection
        if user.role is Role.ADMIN or connection is None:
            return
        roles = ", ".join(quote(name) for name in sorted(engine_roles(user.role, user.databases)))
        try:
            found = connection.query(
                f"SELECT arraySort(currentRoles()) = [{roles}] AND currentProfiles() = ['{FENCE}'] "
                f"AND getSetting('{IDENTITY}') = {quote(identity(user.name))}",
                "TSV",
            ).bytes()
        except Exception:
            found = b""
        if found.strip() != b"1":
            self.connection, self.holds = None, False
            connection.close()
            raise refusal(ACCESS_DENIED, "Not enough privileges: the session was ended.")

    def _take_back(self) -> None:
        laid, self._laid = self._laid, {}
        for name in laid:
            value = self._under.get(name)
            self.connection.query(
                f"SET {quote_name(name)} = {'DEFAULT' if value is None else quote(value)}"
            )

    def _values(self, settings: dict[str, str]) -> dict[str, str | None]:
        """The values the session itself has set; None for those at their default."""
        names = ", ".join(quote(name) for name in settings)
        rows = self.connection.query(
            f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})",
            "JSONCompactEachRow",
        ).bytes()
        found = dict(json.loads(line) for line in rows.splitlines())
        return {name: found.get(name) for name in settings}


@dataclass(slots=True)
class Sessions:
    """All sessions, by user and name. Touched by the event loop's thread only.

    A user whose rights have changed has new ones.
    """

    clock: Callable[[], float] = time.monotonic
    _open: dict[tuple[User, str], Session] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._open)

    def take(self, name: str, user: User = NOBODY, *, must_exist: bool) -> Session:
        """The session, now busy; give it back with `release`.

        Raises:
            EngineError: it is busy, or it must exist and does not, or there are too many.
        """
        session = self._open.get((user, name))
        if session is not None and session.busy:
            raise refusal(SESSION_IS_LOCKED, f"Session {name[:80]!r} is locked by another request.")
        if session is None:
            if must_exist:
                raise refusal(SESSION_NOT_FOUND, f"Session {name[:80]!r} not found.")
            if len(self._open) >= SESSIONS_MAX:
                raise refusal(TOO_MANY_SIMULTANEOUS_QUERIES, "Too many open sessions.")
            session = Session(name, user)
        if session.connection is None:
            self._make_room(session)
        self._open[user, name] = session
        session.busy = True
        return session

    def _make_room(self, session: Session) -> None:
        """Let ``session`` close the connection that has been idle longest, if there are too many.

        Raises:
            EngineError: all are in use, or hold something of their own.
        """
        have = [s for s in self._open.values() if s.busy or s.connection is not None]
        if len(have) < CONNECTIONS_MAX:
            return
        idle = [s for s in have if not s.busy and not s.holds]
        if not idle:
            raise refusal(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                f"Too many sessions with settings or temporary tables: {CONNECTIONS_MAX}.",
            )
        oldest = min(idle, key=lambda one: one.released_s)
        session._replaced, oldest.connection = oldest.connection, None

    def release(self, session: Session, *, keep_s: float) -> None:
        """Let the next request have it, or forget it if none comes for ``keep_s``."""
        session.busy = False
        session.released_s = self.clock()
        session.deadline_s = session.released_s + keep_s
        if session.connection is None:
            self._open.pop((session.user, session.name), None)

    def expired(self) -> list[Any]:
        """Connections of sessions that nobody uses any more; the caller closes them."""
        now = self.clock()
        gone = [s for s in self._open.values() if not s.busy and s.deadline_s < now]
        for session in gone:
            del self._open[session.user, session.name]
        return [session.connection for session in gone if session.connection is not None]

    def drain(self) -> list[Any]:
        """The connections of all sessions, which are forgotten."""
        gone = [s.connection for s in self._open.values() if s.connection is not None]
        self._open.clear()
        return gone
