"""Kafka or ClickHouse gone for a while: workers wait, say so, and go on by themselves."""

import asyncio
import threading
import time

import pytest

from schemas.settings import Settings
from streams.cli.assembly import assembled
from streams.cli.named import Named
from streams.local.kafka import EmbeddedKafka
from streams.local.store import EmbeddedStore
from streams.replay import Pace, Replay, history_slice
from streams.telemetry import read_reports
from tests.chaos.quick_flights import quick_flights as flights
from tests.chaos.test_kills import QUICK, books_when_done


@pytest.mark.parametrize("victim", ["kafka", "store"])
def test_outage_is_waited_out_and_nothing_is_lost_or_doubled(tmp_path, victim, outage_s):
    """
    Goal: an outage longer than every client time-out needs no person and costs no record.

    Method: servers of the test's own, so that nobody starts them again meanwhile. Events are sent
    before, (for the store) during and after the outage.
    """
    kafka = EmbeddedKafka(tmp_path / "kafka")
    store = EmbeddedStore(tmp_path / "clickhouse")
    server = {"kafka": kafka, "store": store}[victim]
    with kafka, store:
        settings = Settings(home=tmp_path / "home", kafka=kafka.address, clickhouse=store.url)
        with assembled(settings, [Named.load(QUICK)], workers=1) as stack:
            sent = _replay(stack.settings, events=5_000, skip=0)
            server.kill()
            feeding = threading.Thread(
                target=_replay, args=(stack.settings,), kwargs={"events": 5_000, "skip": 5_000}
            )
            if victim == "store":
                feeding.start()
            waiting = _waiting_reports(stack.settings, outage_s)
            server.start()
            if victim == "store":
                feeding.join(60)
            _replay(stack.settings, events=5_000, skip=10_000)
            books = books_when_done(stack.settings)
            restarts = stack.restart_counts
    print(f"{victim} gone for {outage_s} s; waiting: {waiting}; restarts: {restarts}; {books}")
    assert books.exact, books
    assert books.events == sent * (3 if victim == "store" else 2)
    roles = {"kafka": ("score", "join", "learn", "land"), "store": ("land",)}[victim]
    assert set(waiting) == {f"flights-{role}-0" for role in roles}, waiting


def _replay(settings, *, events, skip) -> int:
    table = history_slice(flights, events=events, skip=skip, start_ms=None)
    return asyncio.run(Replay(flights, settings, table, Pace(2500.0)).run()).events


def _waiting_reports(settings, seconds) -> dict[str, str]:
    """Which workers said that they wait, and for what, while the server was away."""
    found = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for report in read_reports(settings.run_folder):
            if report.state == "waiting":
                found[report.name] = report.detail
        time.sleep(0.2)
    return found
