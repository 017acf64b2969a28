"""The one chDB engine of this process: starting, judging statements, lending connections.

chDB allows one owner per folder and one folder per process. All calls block, so the server makes
them from its threads; several connections run side by side.
"""

import enum
import fcntl
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import structlog

from schemas.errors import HomeInUse, SetupError
from streams.store.gateway.access import FENCE, IDENTITY, Role, engine_roles, identity
from streams.store.gateway.configuration import write_configuration
from streams.store.gateway.errors import EngineError, from_engine
from streams.store.gateway.folder import check_engine, record_engine
from streams.store.gateway.statement import quote, quote_name
from streams.store.gateway.users import NOBODY, User

IDLE_CONNECTIONS_MAX = 64
"""Connections kept for the next request with the same settings; 50 cost 2.6 MB."""

ALLOCATOR = "tcache_max:4096"
"""Of the engine's jemalloc, which lets each thread keep freed memory of up to 32 KiB a piece. The
engine makes a thread when more is asked at once than ever before, and keeps it, and what the thread
keeps: a third as much with 4 KiB. Whoever sets ``JE_MALLOC_CONF`` has the word."""

log = structlog.get_logger()


class Kind(enum.StrEnum):
    """What a statement does, by the engine's own parser."""

    READ = "READ_ONLY"
    WRITE = "MUTATING"
    WRITE_GLOBAL = "MUTATING_GLOBAL"
    CONTROL = "CONTROL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a connection must be set to: requests with equal scopes share connections."""

    database: str
    settings: tuple[tuple[str, str], ...] = ()
    readonly: bool = False
    user: User = NOBODY


@dataclass(slots=True)
class Lease:
    """A borrowed connection. ``spoilt`` means that its state has changed: it is not lent again."""

    connection: Any
    spoilt: bool = False


@dataclass(slots=True)
class Engine:
    """chDB on one folder; `open` starts it, `close` must end it."""

    address: str
    root: Any
    version: str = ""
    timezone: str = ""
    _idle: "OrderedDict[Scope, list[Any]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _root_lock: threading.Lock = field(default_factory=threading.Lock)
    _killer: Any = None
    _killer_lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(
        cls, folder: Path, *, database: str, fsync: bool = False, restricted: Iterable[str] = ()
    ) -> Self:
        """Start the engine on ``folder`` and make ``database`` if it is missing.

        With ``fsync`` an insert is answered only when its part has been flushed to the disk.
        ``restricted`` are the databases that some user sees alone.

        Raises:
            HomeInUse: another process holds the folder; the message has its pid.
            SetupError: the engine cannot start, or is older than the one that wrote the folder.
        """
        folder = folder.absolute()
        store, scratch = folder / "store", folder / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        _check_free(store)
        # What a killed process left: chDB writes temporary files only while a query runs.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        _settle_in(scratch)
        server = write_configuration(
            folder,
            query_memory_bytes_max=psutil.virtual_memory().total // 3,
            fsync=fsync,
            databases=restricted,
        )
        address = f"{store.absolute()}?config-file={server.absolute()}"
        chdb = _import_chdb()
        check_engine(folder, str(chdb.engine_version))
        try:
            root = chdb.connect(address)
        except Exception as cause:
            _check_free(store)
            raise SetupError(f"could not start the store on {folder}: {cause}") from cause
        engine = cls(address=address, root=root)
        engine.root.query("SET log_queries = 0")  # what judges statements is nobody's query
        engine.root.query(f"CREATE DATABASE IF NOT EXISTS {quote_name(database)}")
        about = engine.root.query("SELECT version(), timezone()", "TabSeparated").bytes()
        engine.version, engine.timezone = about.decode().strip().split("\t")
        # Asked once at the start, so that a chDB that lost this private call fails here.
        if engine.classify("SELECT 1", "system") != (Kind.READ, 1):
            raise SetupError(f"could not start the store: chDB {engine.version} is not supported")
        record_engine(folder, engine.version)
        return engine

    def classify(self, sql: str, database: str) -> tuple[Kind, int]:
        """What ``sql`` does and how many statements it has; text that does not parse is a READ.

        Raises:
            EngineError: the parser gave up.
        """
        try:
            verdict = self.root._conn.classify_query(sql, database)
        except Exception as cause:
            raise from_engine(cause) from cause
        return Kind(verdict["query_class"].name), int(verdict["statement_count"])

    def canonical(self, sql: str) -> bytes:
        """``sql`` as the engine understood and prints it.

        Raises:
            EngineError: a syntax error.
        """
        try:
            # A connection's parameters belong to all its calls: two at once would mix them up, and
            # one statement would be judged by another's text.
            with self._root_lock:
                printed: bytes = self.root.query(
                    "SELECT formatQuerySingleLine({sql:String}) SETTINGS max_query_size = 0",
                    "RawBLOB",
                    params={"sql": _escaped(sql)},
                ).bytes()
        except Exception as cause:
            raise from_engine(cause) from cause
        return printed

    def ask(self, sql: str) -> bytes:
        """The answer to a question of the gateway's own; its text names the format.

        Raises:
            EngineError: it failed.
        """
        try:
            with self._root_lock:
                answer: bytes = self.root.query(sql).bytes()
        except Exception as cause:
            raise from_engine(cause) from cause
        return answer

    @contextmanager
    def lend(self, scope: Scope) -> Iterator[Lease]:
        """A connection for one request; back in the pool afterwards unless it is spoilt."""
        lease = self.borrow(scope)
        try:
            yield lease
        except BaseException:
            lease.spoilt = True
            raise
        finally:
            self.give_back(scope, lease)

    def borrow(self, scope: Scope) -> Lease:
        """As `lend`, to be returned with `give_back`.

        Raises:
            EngineError: no such database, or a setting the engine does not take.
        """
        with self._lock:
            idle = self._idle.get(scope)
            if idle:
                self._idle.move_to_end(scope)
                return Lease(idle.pop())
        return Lease(self.connect(scope))

    def connect(self, scope: Scope) -> Any:
        """A new connection set to ``scope``, which it cannot leave.

        Raises:
            EngineError: no such database, or a setting the engine does not take.
        """
        user = scope.user
        for name, value in scope.settings:
            user.limits.check(name, value)
        connection = _import_chdb().connect(self.address)
        try:
            own = {IDENTITY: identity(user.name), **user.limits.settings()}
            laid = ", ".join(f"{name} = {quote(value)}" for name, value in own.items())
            connection.query(f"SET {laid}")
            connection.query(f"SET ROLE {', '.join(engine_roles(user.role, user.databases))}")
            connection.query(f"USE {quote_name(scope.database)}")
            apply_settings(connection, dict(scope.settings))
            if scope.readonly or user.role is Role.READ:
                connection.query("SET readonly = 2")
            connection.query(f"SET profile = '{FENCE}'")
        except Exception as cause:
            connection.close()
            raise from_engine(cause) from cause
        return connection

    def give_back(self, scope: Scope, lease: Lease) -> None:
        """Keep the connection for the next request of the same scope, or close it."""
        surplus = [lease.connection] if lease.spoilt else []
        with self._lock:
            if not lease.spoilt:
                self._idle.setdefault(scope, []).append(lease.connection)
                self._idle.move_to_end(scope)
            if sum(map(len, self._idle.values())) > IDLE_CONNECTIONS_MAX:
                oldest, idle = next(iter(self._idle.items()))
                surplus += idle[:1]
                del idle[:1]
                if not idle:
                    del self._idle[oldest]
        for connection in surplus:
            connection.close()

    def kill_query(self, mark: str) -> None:
        """End the query whose text begins with ``mark``; nothing if none does."""
        self._kill(f"startsWith(query, {quote(mark)})")

    def kill_queries(self) -> None:
        """End every query that runs."""
        self._kill("query NOT ILIKE 'KILL QUERY%'")

    def _kill(self, condition: str) -> None:
        # On a connection of its own: what is judged on the root one must not hold it up.
        try:
            with self._killer_lock:
                if self._killer is None:
                    self._killer = _import_chdb().connect(self.address)
                    self._killer.query("SET log_queries = 0")
                self._killer.query(f"KILL QUERY WHERE {condition} ASYNC")
        except Exception as cause:
            log.warning("query not killed", cause=str(cause))

    def close(self) -> None:
        """Close every connection and the engine with the last."""
        with self._lock:
            idle = [connection for some in self._idle.values() for connection in some]
            self._idle.clear()
        with self._killer_lock:
            killer, self._killer = self._killer, None
        for connection in [*idle, *([] if killer is None else [killer]), self.root]:
            connection.close()


def apply_settings(connection: Any, settings: Mapping[str, str]) -> None:
    """``SET`` each setting on ``connection``.

    Raises:
        EngineError: the engine does not know or take one of them.
    """
    for name, value in settings.items():
        try:
            connection.query(f"SET {quote_name(name)} = {quote(value)}")
        except Exception as cause:
            raise from_engine(cause) from cause


def _settle_in(scratch: Path) -> None:
    """Make this process's surroundings safe for chDB, before it is imported.

    Already its import opens an engine without a configuration of ours, which loads any
    ``config.xml`` of the working directory and ``~/.clickhouse-local/config.*``.
    """
    os.environ["TMPDIR"] = os.environ["HOME"] = str(scratch)
    os.environ["TZ"] = "UTC"
    os.environ.setdefault("JE_MALLOC_CONF", ALLOCATOR)
    os.chdir(scratch)


def _escaped(text: str) -> str:
    """``text`` as a parameter's value: those are read in the TabSeparated escaping."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _import_chdb() -> Any:
    # Imported late: chDB reads TMPDIR and TZ when it loads, and takes 0.3 s.
    import chdb

    return chdb


def _process_name(pid: str) -> str:
    """What runs as ``pid``, without its arguments: they may hold secrets."""
    try:
        return str(psutil.Process(int(pid)).name())
    except (psutil.Error, ValueError):
        return "?"


def _check_free(store: Path) -> None:
    """Raise `HomeInUse` if another process holds the engine's lock on ``store``."""
    status = store / "status"
    try:
        with status.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lines = file.read(500).decode(errors="replace").splitlines()
                pid = next((line[4:].strip() for line in lines if line.startswith("PID:")), "?")
                name = _process_name(pid)
                raise HomeInUse(
                    f"could not open the store {store}: another process holds it, pid={pid} "
                    f"name={name}. Use its HTTP address, or stop it."
                ) from None
    except FileNotFoundError:
        return


__all__ = ["Engine", "EngineError", "Kind", "Lease", "Scope", "apply_settings"]
