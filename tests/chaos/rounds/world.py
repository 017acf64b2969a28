"""Everything that `tidemill up` starts, on servers that can be harmed, and the hand that does it."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from models.registry import open_registry
from schemas.settings import Settings
from streams.cli.assembly import assembled, start_delivery
from streams.cli.named import Named
from streams.control.announce import champion
from streams.local.child import ChildProcess
from streams.local.kafka import EmbeddedCluster, EmbeddedKafka
from streams.local.server import EmbeddedServer
from streams.local.store import EmbeddedStore
from streams.local.tree import LocalStack
from streams.telemetry import configure_logging, read_reports
from tests.chaos.rounds import clock, restless_flights
from tests.chaos.rounds.clock import ShiftedClock, compiler
from tests.chaos.rounds.link import Link
from tests.chaos.rounds.schedule import SESSION_S, TRANSACTION_S, WORKERS, Schedule
from tests.chaos.rounds.watch import Watch

PIPELINE = restless_flights.restless_flights
REFERENCE = str(Path(restless_flights.__file__))
WORKED_S_MAX = 15.0
"""How long a kill waits for its victim to have worked since it started."""
RUNNING_S_MAX = 90.0
"""How long all workers may take to run again after the last fault."""
DISK_MIB = 2_048
CLOCK_S = {"clock ahead": 3_600, "clock back": -600}


def impossible() -> frozenset[str]:
    """Faults that cannot be brought about here, by a user who is not root or without a compiler."""
    found: set[str] = set()
    if os.geteuid() != 0 or sys.platform != "linux":
        found |= {"store's disk full", "broker's disk full"}
    if compiler() is None or sys.platform != "linux":
        found |= set(CLOCK_S)
    return frozenset(found)


@dataclass
class World:
    """One round's servers, workers and links.

    Attributes:
        kills: Processes that got SIGKILL, by role.
        troubles: What could not be done, in words; a round with any is no proof.
    """

    folder: Path
    schedule: Schedule
    kills: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator["World"]:
        """Start everything; stop it in order when left."""
        with contextlib.ExitStack() as stack:
            self._clock: ShiftedClock | None = None
            self._servers = threading.RLock()
            self.store = EmbeddedStore(self._disk(stack, "store") / "data")
            stack.enter_context(self.store)
            self.brokers = self._brokers(stack)
            self.store_link = stack.enter_context(Link(self.store.port))
            if any(step.fault in CLOCK_S for step in self.schedule.steps):
                stack.callback(self._real_clock)
                self._clock = ShiftedClock(self.folder)
                os.environ.update(self._clock.variables)
            settings = Settings(
                home=self.folder / "home",
                kafka=self._kafka,
                clickhouse=f"http://127.0.0.1:{self.store_link.port}",
                replication=self.schedule.brokers,
                session_timeout_ms=int(SESSION_S * 1000),
                transaction_timeout_ms=int(TRANSACTION_S * 1000),
            )
            named = [Named.load(REFERENCE)]
            self.tree: LocalStack = stack.enter_context(assembled(settings, named, workers=2))
            configure_logging("human", level=logging.ERROR)  # that workers die is no news here
            start_delivery(self.tree, named)
            self.settings = self.tree.settings
            self.watch = stack.enter_context(Watch(PIPELINE, self.settings))
            self.versions = self.copies()
            yield self

    def _disk(self, stack: contextlib.ExitStack, name: str) -> Path:
        """A folder; on a disk of its own if the schedule fills it."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        wanted = "store's disk full" if name == "store" else "broker's disk full"
        if any(step.fault == wanted for step in self.schedule.steps):
            size = f"size={DISK_MIB}m"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
            stack.callback(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def _brokers(self, stack: contextlib.ExitStack) -> list[EmbeddedKafka]:
        self.kafka_link: Link | None = None
        if self.schedule.brokers > 1:
            cluster = stack.enter_context(
                EmbeddedCluster(self.folder / "kafka", nodes=self.schedule.brokers)
            )
            self._kafka = cluster.address
            return cluster.nodes
        kafka = EmbeddedKafka(self._disk(stack, "kafka") / "data")
        self.kafka_link = stack.enter_context(Link(kafka.port))
        kafka.advertised_port = self.kafka_link.port
        self._kafka = kafka.address
        stack.enter_context(kafka)
        return [kafka]

    def copies(self) -> list[tuple[str, str]]:
        """The first model under two more names, with the digests that announcements need."""
        registry = open_registry(self.settings)
        first = asyncio.run(champion(self.settings, PIPELINE.name))
        assert first is not None
        manifest, module = registry.load(PIPELINE.name, first.version)
        return [
            registry.publish(msgspec.structs.replace(manifest, seed=1000 + i), module.state_dict())
            for i in range(2)
        ]

    # -- servers: nobody but us starts them again

    def begin(self, server: EmbeddedServer) -> None:
        """Start a server that was killed; its clock is the real one."""
        with self._servers:
            faked = os.environ.pop("LD_PRELOAD", None)
            try:
                server.begin()
            finally:
                if faked is not None:
                    os.environ["LD_PRELOAD"] = faked

    def set_clock(self, seconds: int) -> None:
        """Let the clocks of all workers jump."""
        assert self._clock is not None
        self._clock.jump(seconds)

    def _real_clock(self) -> None:
        for name in clock.VARIABLES:
            os.environ.pop(name, None)

    # -- workers

    def pid(self, worker: str) -> int:
        """The process that works under this short name now."""
        return self.tree.pids[f"{PIPELINE.name}-{worker}"]

    def extra(self, role: str, name: str) -> ChildProcess:
        """One more worker, which nobody starts again."""
        program = [sys.executable, "-P", "-m", "streams.cli.main", "worker", role]
        return ChildProcess(
            [*program, "--pipeline", REFERENCE, "--name", f"{PIPELINE.name}-{name}"],
            log=self.settings.home / "logs" / f"extra-{name}.log",
            env={**os.environ, **self.settings.environment()},
        )

    def await_work(self, worker: str) -> None:
        """Return when the worker has done something since it started, or after `WORKED_S_MAX`: a
        kill during start-up proves less."""
        name, deadline = f"{PIPELINE.name}-{worker}", time.monotonic() + WORKED_S_MAX
        while time.monotonic() < deadline:
            for report in read_reports(self.settings.run_folder):
                done = report.counters.get("records", 0) + report.counters.get("inserts", 0)
                busy = done or (report.role == "deliver" and report.state == "running")
                if report.name == name and report.pid == self.pid(worker) and busy:
                    return
            time.sleep(0.05)

    def await_all(self) -> None:
        """Return when every worker runs, or after `RUNNING_S_MAX`: then `troubles` tells which do
        not. One that ends again and again would look as if it had nothing to do."""
        wanted, deadline = (
            {f"{PIPELINE.name}-{w}" for w in WORKERS},
            time.monotonic() + RUNNING_S_MAX,
        )
        while missing := wanted - {
            report.name
            for report in read_reports(self.settings.run_folder)
            if report.state == "running" and report.pid == self.tree.pids.get(report.name)
        }:
            if time.monotonic() > deadline:
                self.troubles.append(f"not running at the end: {', '.join(sorted(missing))}")
                return
            time.sleep(0.2)

    def kill(self, *workers: str) -> float:
        """kill -9 of all of them, once each has worked; the moment of the first."""
        for worker in workers:
            self.await_work(worker)
        since = time.monotonic()
        for worker in workers:
            self.strike(self.pid(worker), worker.split("-", maxsplit=1)[0])
        return since

    def strike(self, pid: int, role: str) -> None:
        """SIGKILL to a process, counted if it was there."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills[role] = self.kills.get(role, 0) + 1
