"""`first`: seconds from the start of ``tidemill demo`` on a set-up machine to the first answer."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition

from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.bench import reading
from streams.bench.result import Goal, Result
from streams.bench.stand import PIPELINE
from streams.local.child import ChildProcess
from streams.local.home import read_stack
from streams.local.ports import free_port

FIRST_S_MAX = 30.0
"""Goal: from nothing but an installed environment to the first prediction a consumer can read."""
EVENTS = 4_000
LIMIT_S = 240.0


def run() -> Result:
    """Run the demo on an empty home and watch its predictions from outside."""
    pipeline = load_pipeline(PIPELINE)
    with tempfile.TemporaryDirectory(prefix="bench-first-") as folder:
        home = Path(folder) / "home"
        settings = replace(Settings.from_environment(), home=home, kafka="", clickhouse="")
        program = [sys.executable, "-P", "-m", "streams.cli.main", "demo", PIPELINE]
        started = time.monotonic()
        demo = ChildProcess(
            [*program, "--events", str(EVENTS), "--exit"],
            log=Path(folder) / "demo.log",
            env={
                **os.environ,
                "TIDEMILL_HOME": str(home),
                "TIDEMILL_KAFKA_PORT": str(free_port()),
                "TIDEMILL_CLICKHOUSE_PORT": str(free_port()),
            },
        )
        try:
            kafka = _wait(lambda: (s := read_stack(settings)) and s.kafka, demo)
            _read_one(replace(settings, kafka=kafka), pipeline.topics.predictions.name, demo)
            first_s = time.monotonic() - started
            _wait(lambda: demo.exit_code() is not None, demo, ending=True)
        finally:
            demo.stop()
        assert demo.exit_code() == 0, demo.log_tail(40)
        steps = [line.strip() for line in demo.log_tail(60).splitlines() if line.endswith(" s")]
    row = {"who": "tidemill", "first_prediction_s": round(first_s, 1), "demo_says": steps}
    goal = Goal(f"first prediction in less than {FIRST_S_MAX:g} s", first_s < FIRST_S_MAX)
    return Result("first", [row], goals=[goal])


def _wait(condition: Callable[[], Any], demo: ChildProcess, *, ending: bool = False) -> Any:
    """Poll until the condition gives something; the demo must not end before unless it should."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert ending or demo.exit_code() is None, demo.log_tail(40)
        assert time.monotonic() < deadline, demo.log_tail(40)
        time.sleep(0.1)
    return found


def _read_one(settings: Settings, topic: str, demo: ChildProcess) -> None:
    """Return when a committed prediction has been read."""
    reader = reading.consumer(settings)
    try:
        _wait(lambda: topic in reader.list_topics(timeout=5).topics, demo)
        parts = reader.list_topics(topic, timeout=10).topics[topic].partitions
        reader.assign([TopicPartition(topic, p, 0) for p in parts])

        def came() -> bool:
            message = reader.poll(0.1)
            return message is not None and message.error() is None

        _wait(came, demo)
    finally:
        reader.close()
