"""The process tree of ``tidemill up``: broker, store and workers, kept alive and ended in order.

One thread watches all of them from the moment the stack is entered until it is left. Whatever ends
is started again, sooner or later by `Restarts`; the broker and the store keep their ports, so the
clients of a restarted server find it without being told.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import structlog

from schemas.errors import SetupError
from schemas.settings import Settings
from streams.local.child import ChildProcess
from streams.local.home import HomeLock, remove_stack, write_stack
from streams.local.kafka import EmbeddedKafka
from streams.local.ports import free_port
from streams.local.reports import (
    remove_dead_reports,
    remove_report,
    say_failed,
    server_reporter,
    worked,
)
from streams.local.restarts import Restarts
from streams.local.server import EmbeddedServer
from streams.local.store import EmbeddedStore
from streams.metrics.endpoint import write_target
from streams.telemetry import Reporter

WATCH_S = 0.1
"""How often the tree looks at its processes."""

REPORT_S = 1.0
"""How often it says how the servers are."""

STOP_S_MAX = 15.0
"""How long the workers, all at once, may take to stop before they are killed."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Told to stop, or the terminal was closed: both end the tree as Ctrl-C does."""

LOG_LINES = 8
"""How much of a dead process's log goes into our own."""


@dataclass(frozen=True, slots=True)
class Child:
    """One worker of the tree.

    Attributes:
        name: Unique in the tree; also the name of its report and of its log file.
        argv: Its command line.
        env: Variables on top of our environment and the stack's settings.
        log: Where its output goes; ``<home>/logs/<name>.log`` if not given.
        role: For `status` while it cannot speak for itself.
        pipeline: The pipeline it works for.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    role: str = "worker"
    pipeline: str = ""


@dataclass(slots=True)
class _Worker:
    child: Child
    process: ChildProcess
    restarts: Restarts
    ended_how: str = ""
    stalled_why: str = ""


@dataclass(slots=True)
class _Server:
    server: EmbeddedServer
    reporter: Reporter
    restarts: Restarts


class LocalStack:
    """Broker, store and workers of one home; see the module for what it promises.

    Entering starts what the settings do not name and returns when it answers. Leaving stops the
    workers, then the store, then the broker. `STOP_SIGNALS` raise `KeyboardInterrupt` in the main
    thread, so that every way of being told to stop takes the same path.

    Raises:
        HomeInUse: another stack runs on this home.
        SetupError, TransientError: a server could not be started; nothing is left running.
    """

    def __init__(self, settings: Settings, *, pipelines: Sequence[str] = ()) -> None:
        """Describe the stack; nothing is started."""
        self.settings = replace(settings, home=settings.home.absolute())
        self._pipelines = list(pipelines)
        self._lock = threading.RLock()
        self._home_lock = HomeLock(self.settings.home)
        self._workers: dict[str, _Worker] = {}
        self._servers: dict[str, _Server] = {}
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}

    @property
    def restart_counts(self) -> dict[str, int]:
        """How often each process, servers included, was started again."""
        with self._lock:
            servers = {name: watched.restarts.count for name, watched in self._servers.items()}
            workers = {name: worker.restarts.count for name, worker in self._workers.items()}
            return servers | workers

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each process, servers included; of a dead one the last."""
        with self._lock:
            servers = {name: watched.server.pid for name, watched in self._servers.items()}
            return servers | {name: watched.process.pid for name, watched in self._workers.items()}

    def log_file(self, name: str) -> Path:
        """Where the process ``name`` writes its log."""
        return self.settings.home / "logs" / f"{name}.log"

    def add(self, child: Child) -> None:
        """Start ``child`` now and keep it running until the stack is left."""
        with self._lock:
            assert child.name not in self._workers, f"two children named {child.name}"
            started = Restarts(started_s=time.monotonic())
            self._workers[child.name] = _Worker(child, self._spawn(child), started)

    def replace(self, name: str, pid: int, why: str) -> None:
        """Kill process ``pid`` of the worker ``name``, so that it starts again; see `Watching`."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is None or worker.process.pid != pid or self._closing.is_set():
                return
            _log.warning("worker stalls and is replaced", worker=name, pid=pid, why=why)
            worker.stalled_why = why
            worker.process.kill()

    def run_forever(self, until: Callable[[], bool] | None = None) -> None:
        """Return when ``until`` says so, or at Ctrl-C or SIGTERM; watches meanwhile and before."""
        try:
            while not self._closing.wait(WATCH_S):
                if self._failure is not None:
                    raise self._failure
                if until is not None and until():
                    return
        except KeyboardInterrupt:
            return

    def __enter__(self) -> Self:
        self._home_lock.take()
        try:
            if threading.current_thread() is threading.main_thread():
                for number in STOP_SIGNALS:
                    self._handlers_before[number] = signal.signal(number, _interrupt)
            self._start_servers()
            write_stack(self.settings, pipelines=self._pipelines)
            self._watcher = threading.Thread(target=self._watch, name="tree", daemon=True)
            self._watcher.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _start_servers(self) -> None:
        """Start both at the same time and wait for both."""
        settings, home = self.settings, self.settings.home
        remove_dead_reports(settings.run_folder)
        if not settings.clickhouse:
            store = EmbeddedStore(
                home / "store",
                port=free_port(settings.clickhouse_port),
                log=self.log_file("store"),
                users=Path(settings.clickhouse_users) if settings.clickhouse_users else None,
            )
            self.settings = replace(self.settings, clickhouse=store.url)
            self._begin("store", store)
        if not settings.kafka:
            kafka = EmbeddedKafka(
                home / "kafka", port=free_port(settings.kafka_port), log=self.log_file("kafka")
            )
            self.settings = replace(self.settings, kafka=kafka.address)
            self._begin("kafka", kafka)
        for name, watched in self._servers.items():
            watched.server.wait_ready()
            seconds = time.monotonic() - watched.restarts.started_s
            watched.reporter.pid = watched.server.pid
            watched.reporter.change("running", f"listens on 127.0.0.1:{watched.server.port}")
            if name == "store" and settings.metrics_host and not settings.clickhouse_users:
                write_target(watched.reporter, f"127.0.0.1:{watched.server.port}")
            _log.info(
                "server started", server=name, port=watched.server.port, took_s=_tenth(seconds)
            )

    def _begin(self, name: str, server: EmbeddedServer) -> None:
        reporter = server_reporter(self.settings.run_folder, name)
        started = Restarts(started_s=time.monotonic())
        self._servers[name] = _Server(server, reporter, started)
        server.begin()

    def _spawn(self, child: Child) -> ChildProcess:
        environment = {**os.environ, **self.settings.environment(), **child.env}
        return ChildProcess(child.argv, log=child.log or self.log_file(child.name), env=environment)

    def _watch(self) -> None:
        report_due_s = 0.0
        try:
            while not self._closing.wait(WATCH_S):
                now_s = time.monotonic()
                with self._lock:
                    for worker in self._workers.values():
                        self._look_at_worker(worker, now_s)
                    for name, watched in self._servers.items():
                        self._look_at_server(name, watched, now_s)
                if now_s >= report_due_s:
                    report_due_s = now_s + REPORT_S
                    self._report()
        except BaseException as cause:
            self._failure = cause  # raised by run_forever

    def _look_at_worker(self, worker: _Worker, now_s: float) -> None:
        name, process, restarts = worker.child.name, worker.process, worker.restarts
        if restarts.due_s is None and (code := process.exit_code()) is not None:
            done = worked(self.settings.run_folder, name, process.pid)
            wait_s, log_tail = restarts.ended(now_s, worked=done), process.log_tail(LOG_LINES)
            _log.warning(
                "worker ended", worker=name, exit_code=code, restart_in_s=wait_s, log=log_tail
            )
            last = log_tail.splitlines()[-1] if log_tail else "(empty)"
            worker.ended_how = (
                f"was killed because {worker.stalled_why}"
                if worker.stalled_why
                else f"ended with exit_code={code}; its log ends: {last}"
            )
            worker.stalled_why = ""
            _report_death(self.settings.run_folder, worker, now_s)
        elif restarts.due_s is not None and now_s >= restarts.due_s:
            try:
                worker.process = self._spawn(worker.child)
            except OSError as cause:  # a full disk, no process or file left to be had
                worker.ended_how = f"could not be started: {cause}"
                restarts.ended(now_s)
            else:
                restarts.started(now_s)

    def _look_at_server(self, name: str, watched: _Server, now_s: float) -> None:
        server, restarts = watched.server, watched.restarts
        if restarts.due_s is None and (code := server.exit_code()) is not None:
            wait_s = restarts.ended(now_s)
            _log.warning(
                "server ended",
                server=name,
                exit_code=code,
                restart_in_s=wait_s,
                log=server.log_tail(),
            )
            watched.reporter.change("failed", f"ended with exit_code={code}, starts again")
        elif restarts.due_s is not None and now_s >= restarts.due_s:
            try:
                server.begin()
            except (OSError, SetupError) as cause:  # a full disk, a cache that was emptied
                _log.warning("server not started", server=name, cause=str(cause))
                restarts.ended(now_s)
            else:
                restarts.started(now_s)
                watched.reporter.pid = server.pid

    def _report(self) -> None:
        """Write the reports of those that cannot speak; asks the servers, so it holds no lock."""
        with self._lock:
            for worker in self._workers.values():
                if worker.restarts.due_s is not None:
                    _report_death(self.settings.run_folder, worker, time.monotonic())
        for watched in self._servers.values():
            watched.reporter.counters["restarts"] = watched.restarts.count
            if not watched.server.running:
                watched.reporter.write()
            elif watched.server.answers():
                where = f"listens on 127.0.0.1:{watched.server.port}"
                watched.reporter.change("running", where)
            else:
                watched.reporter.change("waiting", "does not answer yet")

    def _close(self) -> None:
        """Stop everything in order; also after half a start, and when called again."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.process.ask_to_stop()
        deadline = time.monotonic() + STOP_S_MAX
        for worker in workers:
            worker.process.stop(grace_s=max(0.1, deadline - time.monotonic()))
            remove_report(self.settings.run_folder, worker.child.name)
        for name in ("store", "kafka"):
            if (watched := self._servers.get(name)) is not None:
                watched.server.stop()
                watched.reporter.remove()
        remove_stack(self.settings)
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()
        self._home_lock.release()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report_death(folder: Path, worker: _Worker, now_s: float) -> None:
    wait_s = max(0.0, (worker.restarts.due_s or 0.0) - now_s)
    say_failed(
        folder,
        name=worker.child.name,
        role=worker.child.role,
        pipeline=worker.child.pipeline,
        pid=worker.process.pid,
        detail=f"starts again in {wait_s:.1f} s, after it {worker.ended_how}",
    )


def _tenth(seconds: float) -> float:
    return round(seconds, 1)


_log = structlog.get_logger(__name__)
