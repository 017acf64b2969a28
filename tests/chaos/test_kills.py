"""kill -9 at any moment: nothing lost and nothing doubled, in the topic and in the table.

Runs the real tree of `tidemill up`: real Kafka, real ClickHouse, workers as child processes that the
tree starts again. `pytest tests/chaos/test_kills.py --rounds 10 --seed 7` repeats a longer schedule.
"""

import asyncio
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field

import pytest

from schemas.settings import Settings
from streams.cli.assembly import assembled
from streams.cli.named import Named
from streams.cli.reconcile import run_reconcile
from streams.replay import Pace, Replay, history_slice
from streams.telemetry import read_reports
from tests.chaos import quick_flights as quick
from tests.chaos import quick_flights_at_least_once as at_least_once
from tests.chaos.quick_flights import quick_flights as flights

SETTLE_S_MAX = 120.0
EVENTS = 300_000
ROUND_S_LEAST = 60.0
"""How long the events last for each round: on a busy machine a killed worker needs 20 s."""
QUICK = quick.__file__


@dataclass
class Killer:
    """Sends signals to workers at seeded moments while a replay runs."""

    stack: object
    rounds: int
    seed: int
    stop: threading.Event = field(default_factory=threading.Event)
    log: list[str] = field(default_factory=list)
    _killed: set[int] = field(default_factory=set)

    def run(self) -> None:
        dice = random.Random(self.seed)
        for number in range(self.rounds):
            for name in ("flights-score-0", "flights-land-0"):
                if self.stop.wait(dice.uniform(0.5, 3.0)):
                    return
                pid = self._when_working(name)
                time.sleep(dice.uniform(0.0, 0.5))
                os.kill(pid, signal.SIGKILL)
                self.log.append(f"round {number}: {name} pid={pid}")
                self._killed.add(pid)

    def _when_working(self, name: str) -> int:
        """A kill during start-up proves little: wait until the victim has done something again."""
        deadline = time.monotonic() + SETTLE_S_MAX
        while time.monotonic() < deadline and not self.stop.is_set():
            reports = {r.name: r for r in read_reports(self.stack.settings.run_folder)}
            report = reports.get(name)
            done = {} if report is None else report.counters
            worked = done.get("transactions", 0) + done.get("inserts", 0)
            if report and worked and report.pid not in self._killed:
                return report.pid
            time.sleep(0.05)
        raise AssertionError(f"{name} did not come back: {reports}")


def settings_for(tmp_path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        kafka_port=29092,
        clickhouse_port=28123,
        session_timeout_ms=3000,
        transaction_timeout_ms=5000,
        land_rows_min=2000,
        land_age_ms_max=300,
    )


def books_when_done(settings, pipeline=flights):
    """The reconciliation once nothing is waiting any more."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        books = run_reconcile(pipeline, settings)
        if books.exact or (books.findings and books.waiting == 0) or time.monotonic() > deadline:
            return books
        time.sleep(0.5)


def test_killed_scorers_and_landers_lose_and_double_nothing(tmp_path, rounds, seed):
    """
    Goal: every event of a replay is one prediction and one row, however often workers die.

    Method: scorer and lander are killed in turn, at seeded moments, only while they work; after
    each kill the next waits until the victim is back. The replay lasts as long as the schedule.
    """
    table = history_slice(flights, events=EVENTS, skip=None, start_ms=None)
    pace = Pace(min(1500.0, EVENTS / (ROUND_S_LEAST * rounds)))
    with assembled(settings_for(tmp_path), [Named.load(QUICK)], workers=1) as stack:
        replay = Replay(flights, stack.settings, table, pace)
        killer = Killer(stack, rounds, seed)
        thread = threading.Thread(target=killer.run, daemon=True)
        thread.start()
        sent = asyncio.run(replay.run(stop=lambda: not thread.is_alive()))
        thread.join(5)
        books = books_when_done(stack.settings)
        restarts = stack.restart_counts
    print(f"rounds={rounds} seed={seed} kills={len(killer.log)} sent={sent} restarts={restarts}")
    print(books)
    assert len(killer.log) == 2 * rounds, killer.log
    assert books.exact, (books, killer.log)
    assert books.events == sent.events
    assert books.labels == sent.labels


@pytest.mark.slow
def test_killed_workers_of_an_at_least_once_pipeline_lose_nothing(tmp_path, rounds, seed):
    """
    Goal: with at-least-once delivery a prediction may come again, and nothing else changes: no event
    without one, every event one row. Whoever drops repeats by source partition and offset has each
    prediction once.
    """
    table = history_slice(flights, events=EVENTS, skip=None, start_ms=None)
    pace = Pace(min(1500.0, EVENTS / (ROUND_S_LEAST * rounds)))
    with assembled(
        settings_for(tmp_path), [Named.load(at_least_once.__file__)], workers=1
    ) as stack:
        replay = Replay(flights, stack.settings, table, pace)
        killer = Killer(stack, rounds, seed)
        thread = threading.Thread(target=killer.run, daemon=True)
        thread.start()
        sent = asyncio.run(replay.run(stop=lambda: not thread.is_alive()))
        thread.join(5)
        books = books_when_done(stack.settings, at_least_once.quick_flights)
    print(books)
    assert len(killer.log) == 2 * rounds, killer.log
    assert books.exact, (books, killer.log)
    assert books.events == sent.events


def test_a_worker_that_sleeps_through_its_replacement_does_no_harm(tmp_path, seed):
    """SIGSTOP for longer than the session time-out: the zombie wakes up and must be refused."""
    table = history_slice(flights, events=60_000, skip=None, start_ms=None)
    with assembled(settings_for(tmp_path), [Named.load(QUICK)], workers=2) as stack:
        replay = Replay(flights, stack.settings, table, Pace(3000.0))
        victims = ["flights-score-0", "flights-score-1", "flights-land-0"]

        def stall() -> None:
            dice = random.Random(seed)
            for name in victims:
                time.sleep(dice.uniform(1.0, 2.0))
                os.kill(stack.pids[name], signal.SIGSTOP)
                time.sleep(5.0)  # longer than session_timeout_ms: the group gives it up
                os.kill(stack.pids[name], signal.SIGCONT)

        thread = threading.Thread(target=stall, daemon=True)
        thread.start()
        sent = asyncio.run(replay.run(stop=lambda: not thread.is_alive()))
        thread.join(5)
        books = books_when_done(stack.settings)
    assert books.exact, books
    assert books.events == sent.events


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["kafka", "store"])
def test_server_that_is_killed_comes_back_and_the_books_are_exact(tmp_path, victim, seed):
    """The tree starts a killed server again; workers wait and go on."""
    table = history_slice(flights, events=40_000, skip=None, start_ms=None)
    with assembled(settings_for(tmp_path), [Named.load(QUICK)], workers=1) as stack:
        replay = Replay(flights, stack.settings, table, Pace(2000.0))

        def kill() -> None:
            time.sleep(random.Random(seed).uniform(3.0, 5.0))
            os.kill(stack.pids[victim], signal.SIGKILL)
            time.sleep(12.0)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        sent = asyncio.run(replay.run(stop=lambda: not thread.is_alive()))
        thread.join(5)
        books = books_when_done(stack.settings)
        assert stack.restart_counts[victim] == 1
    assert books.exact, books
    assert books.events == sent.events
