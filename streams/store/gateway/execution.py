"""One call run on the engine: judged, given a connection, answered. Everything here blocks."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streams.store.gateway.access import Role
from streams.store.gateway.client_ids import with_client_ids
from streams.store.gateway.engine import Engine, Kind, Lease, Scope
from streams.store.gateway.errors import (
    QUERY_WAS_CANCELLED,
    READONLY,
    SYNTAX_ERROR,
    from_engine,
    refusal,
)
from streams.store.gateway.forbidden import (
    VALUES_SETTINGS,
    check_canonical,
    harmless_values,
    suspect,
)
from streams.store.gateway.hello import SERVER_NAME, hello, is_hello
from streams.store.gateway.progress import watched
from streams.store.gateway.request import Call, External
from streams.store.gateway.rows import Counts, Rows, open_rows, streamable
from streams.store.gateway.running import (
    Kill,
    Running,
    end_queries,
    killed_rows,
    split_kill,
    victims,
)
from streams.store.gateway.sending import send_rows
from streams.store.gateway.sessions import Session
from streams.store.gateway.statement import (
    SQL_BYTES_MAX,
    Insert,
    decode_sql,
    first_word,
    output_format,
    quote_name,
)
from streams.store.gateway.users import User

HELD_BYTES_MAX = 1 << 20
HELD_S_MAX = 0.5
"""An answer that stays below both is sent with its length, its summary and, if it fails, status.
A slower one is sent as it comes."""
WHOLE_BYTES_MAX = 2 << 30
"""Largest answer, counted by the engine, in a format that is made in one piece."""

# These change from insert to insert, so they go into the statement and not into the connection.
_INSERT_SETTINGS = ("insert_", "dedup", "async_insert", "wait_for_async_insert", "max_insert")

_CONTROLS = frozenset({Kind.CONTROL, Kind.UNKNOWN})
"""Statements that may change the connection itself, such as SET and USE."""


@dataclass(slots=True)
class Answer:
    """What a call came to.

    Attributes:
        held: Bytes that are ready.
        rows: Set while more is to come; then `close` must be called.
        format: The format of the bytes; None when the statement has no result set.
    """

    held: list[bytes]
    counts: Counts
    began_s: float
    rows: Rows | None = None
    format: str | None = None
    give_back: Callable[[], None] | None = None

    def close(self) -> None:
        """End the query and give its connection back; nothing the second time."""
        give_back, self.give_back = self.give_back, None
        if give_back is not None:
            give_back()


def run(engine: Engine, call: Call, session: Session | None, running: Running) -> Answer:
    """Run ``call``; in a session on its connection, else on a borrowed one.

    Raises:
        EngineError: it was refused or failed, or its client had gone before it began.
    """
    began_s = time.monotonic()
    if running.left.is_set():
        raise refusal(QUERY_WAS_CANCELLED, "Query was cancelled: its client has gone.")
    if call.protocol and is_hello(call.sql):
        block = hello(
            call.protocol, name=SERVER_NAME, version=engine.version, timezone=engine.timezone
        )
        return Answer([block], Counts(result_rows=1), began_s, format="Native")
    sql = decode_sql(call.sql)
    kind, statements = judge(engine, call, sql)
    if call.insert is not None:
        return _insert(engine, call, session, began_s, running)
    if first_word(call.sql) == b"kill" and (kill := split_kill(engine.canonical(sql))):
        return _kill(engine, call, kill, running, began_s)
    if statements:
        # Only what reads: the text of a view is kept as its maker wrote it.
        shown = _shown(engine, call, sql) if kind is Kind.READ else sql
        sql = running.mark + shown
    settings = dict(call.settings)
    name = (output_format(call.sql) if kind is Kind.READ else None) or call.default_format
    stream = kind is Kind.READ and _can_stream(call, name)
    if kind is Kind.READ and (call.whole or not stream):
        bytes_max = call.user.limits.result_bytes_max or WHOLE_BYTES_MAX
        settings.setdefault("max_result_bytes", str(min(bytes_max, WHOLE_BYTES_MAX)))
    if harmless_values(call.sql):
        settings |= dict.fromkeys(VALUES_SETTINGS, "1")
    lease, give_back = _connection(engine, call, session, settings, kind)
    give_back = watched(running, lease.connection, give_back)
    try:
        for table in call.external:
            _create_external(engine, lease.connection, table, call.user)
            lease.spoilt = True
        answer = Answer([], Counts(), began_s, format=_result_format(call, kind, name))
        rows = open_rows(lease.connection, sql, name, call.parameters) if stream else None
        if rows is not None:
            _hold(rows, answer, bytes_max=None if call.whole else HELD_BYTES_MAX)
            if answer.rows is not None:
                answer.give_back = lambda: _end(rows, give_back)
                return answer
        # An empty answer still has a header in some formats, and chDB streams none.
        if rows is None or (rows.empty and _headed(name)):
            answer.held, answer.counts = _whole(lease.connection, sql, name, call.parameters)
    except BaseException:
        lease.spoilt = session is None
        give_back()
        raise
    give_back()
    return answer


def judge(engine: Engine, call: Call, sql: str) -> tuple[Kind, int]:
    """What the statement does, and 1, or 0 for text that does not parse.

    Raises:
        EngineError: several statements, a forbidden part, or a write where only reads are allowed.
    """
    kind, statements = engine.classify(sql, call.database)
    if statements > 1:
        raise refusal(SYNTAX_ERROR, "Syntax error: Multi-statements are not allowed.")
    if suspect(call.sql):
        check_canonical(engine.canonical(sql), call.user.limits)
    if call.readonly and kind is not Kind.READ:
        raise refusal(
            READONLY, "Cannot execute query in readonly mode: GET only reads. Use POST to write."
        )
    return kind, statements


def _shown(engine: Engine, call: Call, sql: str) -> str:
    """``sql`` with the clients' ids in ``system.processes``; a changed text is judged again."""
    shown = with_client_ids(sql, call.query_id)
    if shown != sql:
        judge(engine, call, shown)
    return shown


def _kill(engine: Engine, call: Call, kill: Kill, running: Running, began_s: float) -> Answer:
    sql = victims(kill, running)
    if engine.classify(sql, call.database) != (Kind.READ, 1):
        raise refusal(SYNTAX_ERROR, "Syntax error: the condition of KILL QUERY.")
    form = output_format(call.sql) or call.default_format
    # What is made for the answer goes with the connection.
    lease = Lease(engine.connect(Scope(call.database, user=call.user)))
    try:
        rows = end_queries(lease.connection, sql, call.parameters, kill, running)
        if not rows:
            return Answer([], Counts(), began_s, format=form)
        columns = "kill_status String, query_id String, user String, query String"
        table = External("killed", columns, "JSONCompactEachRow", killed_rows(rows))
        _create_external(engine, lease.connection, table, call.user)
        held, counts = _whole(lease.connection, "SELECT * FROM killed", form, {})
        return Answer(held, counts, began_s, format=form)
    finally:
        lease.connection.close()


def _can_stream(call: Call, name: str) -> bool:
    if len(call.sql) > SQL_BYTES_MAX or not streamable(name):
        return False
    if first_word(call.sql) not in {b"select", b"with", b"from", b"("}:
        return False
    # chDB leaves totals and extremes out of streamed answers.
    text = call.sql.lower()
    return not (b"totals" in text or b"extremes" in text or "extremes" in call.settings)


def _headed(name: str) -> bool:
    lowered = name.lower()
    return "withnames" in lowered or lowered == "arrowstream"


def _result_format(call: Call, kind: Kind, name: str) -> str | None:
    word = first_word(call.sql)
    reads = word in {b"select", b"with", b"from", b"(", b"show", b"desc", b"describe", b"exists"}
    answers = word in {b"check", b"kill", b"backup", b"restore"}
    reads = reads or word == b"explain"
    return name if answers or (reads and kind is Kind.READ) else None


def _connection(
    engine: Engine, call: Call, session: Session | None, settings: dict[str, str], kind: Kind
) -> tuple[Lease, Callable[[], None]]:
    if session is not None:
        # SET and USE must act on the session's own state.
        laid = {} if kind in _CONTROLS else settings
        session.prepare(engine, database=call.database, settings=laid)
        session.holds = session.holds or kind in _CONTROLS or b"temp" in call.sql.lower()
        return Lease(session.connection), lambda: _leave(session, call, kind)
    # External tables are made before the connection could be read-only.
    readonly = call.readonly and not call.external
    scope = Scope(call.database, tuple(sorted(settings.items())), readonly, call.user)
    lease = engine.borrow(scope)
    lease.spoilt = kind in _CONTROLS or b"temporary" in call.sql.lower()
    # Whatever got past the judge, no connection is lent again with more rights than it had.
    changing = kind is not Kind.READ and call.insert is None
    lease.spoilt = lease.spoilt or (changing and call.user.role is not Role.ADMIN)
    return lease, lambda: engine.give_back(scope, lease)


def _hold(rows: Rows, answer: Answer, *, bytes_max: int | None) -> None:
    """Fetch until the answer is complete, or ``bytes_max`` or ``HELD_S_MAX`` is reached."""
    size = 0
    until_s = time.monotonic() + HELD_S_MAX
    while (block := rows.fetch()) is not None:
        answer.held.append(block)
        size += len(block)
        if bytes_max is not None and (size >= bytes_max or time.monotonic() >= until_s):
            answer.rows = rows
            break
    answer.counts = rows.counts


def _end(rows: Rows, give_back: Callable[[], None]) -> None:
    try:
        rows.cancel()
    finally:
        give_back()


def _whole(
    connection: Any, sql: str, name: str, parameters: dict[str, str]
) -> tuple[list[bytes], Counts]:
    try:
        result = connection.query(sql, name, params=parameters)
    except Exception as cause:
        raise from_engine(cause) from cause
    counts = Counts(
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        result_rows=result.rows_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
    )
    content = result.bytes()
    return [content] if content else [], counts


def _create_external(engine: Engine, connection: Any, table: External, user: User) -> None:
    # The structure is text from the client, so the whole statement is judged like any other.
    sql = f"CREATE TEMPORARY TABLE {quote_name(table.name)} ({table.structure})"
    if engine.classify(sql, "system")[1] != 1 or b" AS " in (printed := engine.canonical(sql)):
        raise refusal(SYNTAX_ERROR, f"Syntax error: structure of external table {table.name[:80]}.")
    check_canonical(printed, user.limits)
    try:
        connection.query(sql)
    except Exception as cause:
        raise from_engine(cause) from cause
    into = f"INSERT INTO {quote_name(table.name)}"
    insert = Insert(into=into, settings="", format=table.format, data=memoryview(b""))
    send_rows(connection, insert, (table.content,), settings={})


def _leave(session: Session, call: Call, kind: Kind) -> None:
    """What a request leaves behind in a session."""
    for table in call.external:
        with contextlib.suppress(Exception):  # it was perhaps never made
            session.connection.query(f"DROP TEMPORARY TABLE IF EXISTS {quote_name(table.name)}")
    if kind is not Kind.READ and call.insert is None:
        session.verify()


def _insert(
    engine: Engine, call: Call, session: Session | None, began_s: float, running: Running
) -> Answer:
    assert call.insert is not None
    once = {k: v for k, v in call.settings.items() if k.startswith(_INSERT_SETTINGS)}
    settings = {k: v for k, v in call.settings.items() if k not in once}
    lease, give_back = _connection(engine, call, session, settings, Kind.WRITE)
    give_back = watched(running, lease.connection, give_back)
    try:
        counts = send_rows(
            lease.connection, call.insert, call.content, settings=once, mark=running.mark
        )
    except BaseException:
        lease.spoilt = session is None
        raise
    finally:
        give_back()
    return Answer([], counts, began_s)
