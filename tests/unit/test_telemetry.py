"""Log lines as machines read them, and reports that hold nothing up."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.workers import process as worker

PROGRAM = """
import logging

import structlog

from streams.telemetry import configure_logging

configure_logging("json", worker="shop-score-0")
secret = "hunter2"
structlog.get_logger("a").info("state changed", state="running")
logging.getLogger("somebody").warning("of a %s", "library")
try:
    raise ValueError("so it is")
except ValueError as error:
    structlog.get_logger("b").error("worker ends itself", exc_info=error)
logging.getLogger("streams.transport.driver").info("[^-AppConsumer]: Starting...")
"""


def test_every_line_is_one_object_that_names_its_worker() -> None:
    """Ours and those of libraries; a traceback is one text, without local variables.

    In a process of its own: pytest has handlers of its own on the root logger.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(one["level"], one["event"]) for one in told] == [
        ("info", "state changed"),
        ("warning", "of a library"),
        ("error", "worker ends itself"),
    ]
    assert {one["worker"] for one in told} == {"shop-score-0"}
    assert "ValueError: so it is" in told[2]["exception"]
    assert "hunter2" not in done.stderr


async def test_a_disk_that_is_slow_holds_no_event_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a busy store the kernel took 83 ms to open the report, once a second."""
    reporter, held = Reporter(tmp_path, "shop-score-0", "score"), threading.Event()
    monkeypatch.setattr(worker, "REPORT_S", 0.01)
    monkeypatch.setattr(Reporter, "_write", lambda _self: held.wait(20))
    reports = asyncio.create_task(worker._report(reporter, Settings(home=tmp_path)))
    started_s = time.monotonic()
    while not reporter._writing.locked():
        await asyncio.sleep(0.01)
    took_s = time.monotonic() - started_s
    held.set()
    reports.cancel()
    assert took_s < 10
