"""Queries that run, by the ids their clients gave them; KILL QUERY and what it ends.

chDB gives every query an id of its own and takes none. So each statement is run behind a comment
that names its client's id and user. The comment stays in ``system.processes.query``: by it one
query can be ended, and there the client's id is put in the place of the engine's.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from streams.store.gateway.access import identity
from streams.store.gateway.client_ids import MARK, WITH_ENGINE_ID
from streams.store.gateway.errors import SAME_ID_RUNS, from_engine, refusal
from streams.store.gateway.statement import quote, tokens

SYNC_S_MAX = 30.0
"""Longest wait of a KILL QUERY ... SYNC; what still runs then is answered as ``waiting``."""
SYNC_STEP_S = 0.05


@dataclass(eq=False, slots=True)
class Running:
    """One query from its request to the end of its answer.

    ``left`` is set when its client has gone: what has not begun need not begin. ``progress`` holds
    the engine's last figures, if somebody wants them.
    """

    query_id: str
    user: str = "default"
    left: threading.Event = field(default_factory=threading.Event)
    progress: dict[str, int] | None = None

    @property
    def mark(self) -> str:
        """The comment in front of the statement; only one running query has it."""
        return f"{MARK}{identity(self.query_id)} {identity(self.user)} */ "


@dataclass(slots=True)
class Registry:
    """All queries that run. Touched by the event loop's thread only."""

    _running: dict[tuple[str, str], Running] = field(default_factory=dict)

    @contextmanager
    def enter(self, query_id: str, user: str = "default") -> Iterator[Running]:
        """Hold ``query_id`` for one query.

        Raises:
            EngineError: a query of this user with this id runs.
        """
        if (user, query_id) in self._running:
            raise refusal(SAME_ID_RUNS, f"Query with id = {query_id} is already running.")
        running = self._running[user, query_id] = Running(query_id, user)
        try:
            yield running
        finally:
            self.release(running)

    def find(self, query_id: str, user: str) -> Running | None:
        """The query of ``user`` that has this id."""
        return self._running.get((user, query_id))

    def release(self, running: Running) -> None:
        """Let the id be used again; nothing if it is already."""
        if self._running.get((running.user, running.query_id)) is running:
            del self._running[running.user, running.query_id]


@dataclass(frozen=True, slots=True)
class Kill:
    """A ``KILL QUERY`` taken apart; ``mode`` is SYNC, ASYNC or TEST."""

    condition: str
    mode: str


_KILL: Final = re.compile(rb"\s*KILL\s+QUERY\s+WHERE\s", re.IGNORECASE)


def split_kill(printed: bytes) -> Kill | None:
    """The parts of a statement as the engine printed it; None for every other statement."""
    head = _KILL.match(printed)
    if head is None:
        return None
    depth, mode = 0, None
    for token in tokens(printed):
        if token.kind == "other":
            depth += (token.text == b"(") - (token.text == b")")
        elif depth == 0 and token.kind == "word" and token.text in {b"sync", b"async", b"test"}:
            mode = token
    if mode is None:
        return None
    return Kill(printed[head.end() : mode.start].decode(), mode.text.decode().upper())


def victims(kill: Kill, by: Running) -> str:
    """A query for the ids in the engine, the client ids, users and texts that ``kill`` names.

    It never finds the KILL itself, and must be judged like any other statement.
    """
    return (
        f"{by.mark}SELECT gateway_engine_id, query_id, user, query FROM {WITH_ENGINE_ID} "
        f"WHERE gateway_engine_id != queryID() AND query_id != {quote(by.query_id)} "
        f"AND ({kill.condition})"
    )


def end_queries(
    connection: Any, sql: str, parameters: dict[str, str], kill: Kill, by: Running
) -> list[tuple[str, str, str, str]]:
    """End what ``sql``, made by `victims`, finds: status, client id, user and text of each.

    Blocks up to ``SYNC_S_MAX`` with SYNC.

    Raises:
        EngineError: the condition cannot be used.
    """
    try:
        found = _rows(connection.query(sql, "JSONCompactEachRow", params=parameters).bytes())
        if not found or kill.mode == "TEST":
            return [("unknown_status", *row[1:]) for row in found]
        names = ", ".join(quote(row[0]) for row in found)
        connection.query(f"KILL QUERY WHERE query_id IN ({names}) ASYNC")
        alive = {row[0] for row in found}
        deadline_s = time.monotonic() + SYNC_S_MAX
        while kill.mode == "SYNC" and alive and time.monotonic() < deadline_s:
            left = connection.query(
                f"SELECT query_id FROM system.processes WHERE query_id IN ({names})", "TSV"
            )
            alive = set(left.bytes().decode().split())
            if by.left.wait(SYNC_STEP_S if alive else 0):
                break
    except Exception as cause:
        raise from_engine(cause) from cause
    return [("waiting" if row[0] in alive else "finished", *row[1:]) for row in found]


def killed_rows(rows: list[tuple[str, str, str, str]]) -> bytes:
    """The answer's rows in JSONCompactEachRow."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rows(text: bytes) -> list[tuple[str, str, str, str]]:
    return [tuple(json.loads(line)) for line in text.decode(errors="replace").splitlines() if line]
