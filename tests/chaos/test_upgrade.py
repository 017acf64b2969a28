"""An upgrade from one commit to another while events flow: nothing lost, nothing doubled, and for how
long nothing was answered.

    pytest -m slow -s tests/chaos/test_upgrade.py --upgrade-from COMMIT

The old release runs in a worktree and an environment of its own, made with `make setup`: minutes when
packages have to be fetched. The steps are those of docs/deploy.md.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.cli.reconcile import run_reconcile
from streams.replay import Pace, Replay, Sent, history_slice
from streams.telemetry import read_reports

ROOT = Path(__file__).parents[2]
RATE = 300.0
EVENTS_MAX = 200_000
READY_S_MAX = 600.0
STOP_S_MAX = 120.0
"""A worker takes 20 s at most; the rest is for a machine that is busy with other tests."""
SETTLE_S = 5.0
PARTITIONS = 4
PIPELINE = """
from schemas.pipeline import Pipeline
from schemas.pipelines.flights import flights

mine = Pipeline(
    name="{name}", key=flights.key, features=flights.features, target=flights.target,
    history=flights.history, first_training_days=8, learner=flights.learner,
)
"""
PREPARE = """
import sys
from schemas.settings import Settings
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.cli.training import first_model

settings, named = Settings.from_environment(), Named.load(sys.argv[1])
prepare(settings, [named])
first_model(settings, named, None)
"""

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(2400)]


@dataclass
class Worker:
    """One process of a release."""

    process: subprocess.Popen[bytes]
    name: str
    home: Path

    def wait_running(self) -> float:
        """Seconds until it said that it runs."""
        began = time.monotonic()
        while True:
            reports = {report.name: report for report in read_reports(self.home / "run")}
            if self.name in reports and reports[self.name].state == "running":
                return time.monotonic() - began
            assert self.process.poll() is None, (self.home / "log").read_text()[-3000:]
            assert time.monotonic() - began < READY_S_MAX, reports
            time.sleep(0.05)

    def stop(self) -> None:
        """As docs/deploy.md says: SIGTERM, and it ends by itself."""
        self.process.terminate()
        assert self.process.wait(STOP_S_MAX) == 0, (self.home / "log").read_text()[-3000:]


@dataclass
class Release:
    """A commit with its environment, and what both releases share."""

    name: str
    python: Path
    folder: Path
    file: Path
    settings: Settings
    running: dict[str, Worker] = field(default_factory=dict)

    def environment(self, home: Path) -> dict[str, str]:
        place, shared = self.settings, self.folder
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(Path.home()),
            "TIDEMILL_HOME": str(home),
            "TIDEMILL_KAFKA": place.kafka,
            "TIDEMILL_CLICKHOUSE": place.clickhouse,
            "TIDEMILL_DATABASE": place.database,
            "TIDEMILL_REGISTRY": str(shared / "registry"),
            "TIDEMILL_LEDGER": str(shared / "ledger"),
            "TIDEMILL_SIGNING_KEY": str(shared / "signing.pem"),
            # Tests beside this one may keep a worker from the processor for longer than 6 s; the
            # brokers would then expel it, and that is another test.
            "TIDEMILL_SESSION_TIMEOUT_MS": "30000",
            "TIDEMILL_TRANSACTION_TIMEOUT_MS": "60000",
        }

    def run(self, *argv: str) -> None:
        """A program of this release, to its end."""
        environment = self.environment(self.folder / f"home-{self.name}")
        line = [str(self.python), "-P", *argv]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, role: str) -> Worker:
        """A worker of this release, with a home of its own as in a container."""
        name = f"{load_pipeline(str(self.file)).name}-{role}-{self.name}"
        home = self.folder / name
        home.mkdir(exist_ok=True)
        program = [str(self.python), "-P", "-m", "streams.cli.main", "worker", role]
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(
                [*program, "--pipeline", str(self.file), "--name", name],
                env=self.environment(home), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.running[role] = Worker(process, name, home)
        return self.running[role]

    def kill(self) -> None:
        for worker in self.running.values():
            worker.process.kill()


class Listener:
    """Notes when each prediction came to a consumer that is not ours."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._options = {
            "bootstrap.servers": kafka, "group.id": f"{topic}-listener",
            "isolation.level": "read_committed", "auto.offset.reset": "earliest",
        }  # fmt: skip
        self._topic = topic
        self.came_at: dict[tuple[int, int], float] = {}
        self.doubled = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        consumer = Consumer(self._options)
        consumer.subscribe([self._topic])
        while not self._stop.is_set():
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            found = json.loads(message.value())
            place = (found["source_partition"], found["source_offset"])
            self.doubled += place in self.came_at
            self.came_at[place] = time.monotonic()
        consumer.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def gap_s(self, begin: float, end: float) -> float:
        """The longest time in which no prediction came, on any one partition."""
        moments: dict[int, list[float]] = {partition: [begin] for partition in range(PARTITIONS)}
        for (partition, _offset), at in sorted(self.came_at.items(), key=lambda item: item[1]):
            if begin <= at <= end:
                moments[partition].append(at)
        return max(b - a for times in moments.values() for a, b in pairwise([*times, end]))


@pytest.fixture(scope="module")
def old_python(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Python of the release that is upgraded, in its worktree."""
    commit = str(request.config.getoption("--upgrade-from"))
    folder = tmp_path_factory.mktemp("old") / "release"
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run(
        [*git, "add", "--detach", str(folder), commit], capture_output=True, text=True, check=False
    )
    if added.returncode != 0:
        pytest.skip(f"commit {commit} is not in this checkout: {added.stderr.strip()}")
    try:
        subprocess.run(["make", "setup"], cwd=folder, check=True, capture_output=True)
        yield folder / ".venv/bin/python"
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=False)


def in_thread(replay: Replay, stop: threading.Event) -> tuple[threading.Thread, list[Sent]]:
    """Events at a steady rate until ``stop``."""
    sent: list[Sent] = []
    thread = threading.Thread(
        target=lambda: sent.append(asyncio.run(replay.run(stop=stop.is_set))), daemon=True
    )
    thread.start()
    return thread, sent


def test_an_upgrade_loses_and_doubles_nothing(
    old_python: Path, settings: Settings, tmp_path: Path
) -> None:
    """
    Goal: events go in all the time, and each has one prediction and one row, whichever release made it.

    Method: workers of all roles of the old commit; then, as docs/deploy.md says, tables first and role
    by role a new worker before the old one ends. At last the scorer is stopped and started with nobody
    beside it, to show what a new one before the old one is good for.
    """
    file = tmp_path / "mine.py"
    file.write_text(PIPELINE.format(name=settings.database.replace("tidemill", "upgraded")))
    old = Release("old", old_python, tmp_path, file, settings)
    new = Release("new", Path(sys.executable), tmp_path, file, settings)
    old.run("-c", PREPARE, str(file))
    pipeline = load_pipeline(str(file))
    listener = Listener(settings.kafka, pipeline.topics.predictions.name)
    table = history_slice(pipeline, events=EVENTS_MAX, skip=None, start_ms=None)
    stop = threading.Event()
    figures: dict[str, float] = {}
    try:
        for role in ("score", "land", "join", "learn"):
            old.start(role).wait_running()
        thread, sent = in_thread(Replay(pipeline, settings, table, Pace(RATE)), stop)
        began = time.monotonic()
        while len(listener.came_at) < 10 * RATE:
            assert time.monotonic() - began < READY_S_MAX
            time.sleep(0.1)
        quiet_from = time.monotonic() - SETTLE_S
        figures["gap s before"] = listener.gap_s(quiet_from, time.monotonic())
        begin = time.monotonic()
        new.run("-m", "streams.cli.main", "prepare", str(file))
        for role in ("land", "join", "learn", "score"):
            start = time.monotonic()
            figures[f"ready s {role}"] = new.start(role).wait_running()
            old.running[role].stop()
            time.sleep(SETTLE_S)
            figures[f"gap s {role}"] = listener.gap_s(start, time.monotonic())
        figures["gap s upgrade"] = listener.gap_s(begin, time.monotonic())
        start = time.monotonic()
        new.running["score"].stop()
        new.start("score").wait_running()
        time.sleep(SETTLE_S)
        figures["gap s alone"] = listener.gap_s(start, time.monotonic())
        stop.set()
        thread.join(60)
        [total] = sent
        books = run_reconcile(pipeline, settings)
        deadline = time.monotonic() + READY_S_MAX
        while not books.exact and time.monotonic() < deadline:
            time.sleep(1.0)
            books = run_reconcile(pipeline, settings)
        for worker in new.running.values():
            worker.stop()
    finally:
        stop.set()
        listener.stop()
        old.kill()
        new.kill()
    lost = total.events - len(listener.came_at)
    shown = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps({"events": total.events, "lost": lost, "doubled": listener.doubled, **shown}))
    assert (lost, listener.doubled) == (0, 0)
    assert books.exact, books
    assert books.events == total.events
    assert figures["gap s upgrade"] < figures["gap s alone"], "the new worker was there in time"
