"""A worker that is there and does nothing is found and started again; nothing is lost by that."""

import asyncio
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from streams.cli.assembly import assembled
from streams.cli.named import Named
from streams.local import watchdog, watching
from streams.replay import Pace, Replay, history_slice
from tests.chaos import stalling_flights
from tests.chaos.stalling_flights import stalling_flights as flights
from tests.chaos.test_kills import books_when_done, settings_for

REPLACED_S_MAX = 30.0
"""The promise: from the stall until the worker is killed."""


@pytest.mark.parametrize(
    "limit_s", [4.0, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "as shipped"]
)
def test_a_stalled_worker_is_replaced_and_the_books_are_exact(tmp_path, monkeypatch, limit_s):
    """
    Goal: neither a frozen process nor an agent that never returns stops a pipeline for long.

    Method: the lander is stopped with SIGSTOP (it says nothing any more); then the scorer's compute
    thread waits for ever (it says every second that it runs, and commits nothing). Events go on.
    """
    if limit_s is not None:
        monkeypatch.setattr(watchdog, "SILENT_S_MAX", limit_s)
        monkeypatch.setattr(watchdog, "STUCK_S_MAX", limit_s)
        monkeypatch.setattr(watching, "LAG_S", 1.0)
    table = history_slice(flights, events=100_000, skip=None, start_ms=None)
    settings = replace(settings_for(tmp_path), inline_rows_max=1)
    took_s = {}
    with assembled(settings, [Named.load(stalling_flights.__file__)], workers=1) as stack:
        replay = Replay(flights, stack.settings, table, Pace(600.0))
        done = threading.Event()
        feeding = threading.Thread(
            target=lambda: asyncio.run(replay.run(stop=done.is_set)), daemon=True
        )
        feeding.start()
        for name, stall in (
            ("flights-land-0", lambda pid: os.kill(pid, signal.SIGSTOP)),
            ("flights-score-0", lambda _pid: (settings.home / "stall").touch()),
        ):
            pid, since = stack.pids[name], time.monotonic()
            stall(pid)
            while stack.pids[name] == pid:
                assert time.monotonic() - since < 2 * REPLACED_S_MAX, name
                time.sleep(0.05)
            took_s[name] = time.monotonic() - since
        done.set()
        feeding.join(60)
        books = books_when_done(stack.settings, flights)
    print({name: f"{seconds:.1f} s" for name, seconds in took_s.items()}, books)
    assert all(seconds < REPLACED_S_MAX for seconds in took_s.values())
    assert books.exact, books
    assert books.events == replay.sent.events
