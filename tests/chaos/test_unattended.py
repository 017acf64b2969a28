"""The slow loop by itself, with everything that `tidemill up` starts: real Kafka, store, training.

`pytest -m slow -s tests/chaos/test_unattended.py` prints what happened and how long it took.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.settings import Settings
from streams.local.home import resolve
from streams.store.client import connect

FOLDER = Path(__file__).parent
PIPELINE = str(FOLDER / "unattended_flights.py")
SHUFFLED = str(FOLDER / "shuffled_flights.py")
LIMIT_S = 800.0
ROLLBACK_S_MAX = 60.0
RATE_PER_S = 500


class Machine:
    """A home with `tidemill up` on it."""

    def __init__(self, home: Path) -> None:
        self.env = {
            **os.environ,
            "TIDEMILL_HOME": str(home),
            "PYTHONPATH": str(FOLDER.parent.parent),
        }
        self.settings = Settings(home=home)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "streams.cli.main", *arguments]
        return subprocess.Popen(program, env=self.env, **options)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "streams.cli.main", *arguments]
        return subprocess.run(program, env=self.env, capture_output=True, text=True, check=False)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        client = connect(resolve(self.settings))
        try:
            return [tuple(row) for row in client.query(query).result_rows]
        finally:
            client.close()

    def until(self, query: str, *, what: str) -> list[tuple[Any, ...]]:
        """The rows of ``query``, once there are some."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := self.rows(query)):
            assert time.monotonic() < deadline, (what, self.decisions())
            time.sleep(0.5)
        return found

    def decisions(self) -> list[tuple[Any, ...]]:
        return self.rows(
            "SELECT at, kind, decision, version, champion, reason FROM decisions "
            "WHERE pipeline = 'flights' ORDER BY at"
        )


@contextmanager
def running(home: Path) -> Iterator[Machine]:
    machine = Machine(home)
    up = machine.start("up", PIPELINE, "--no-dashboard", stdout=subprocess.PIPE)
    try:
        assert up.stdout is not None
        for line in up.stdout:
            if b"Running" in line:
                break
        assert up.poll() is None, up.returncode
        yield machine
    finally:
        up.terminate()
        up.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_better_version_becomes_champion_and_a_worse_one_does_not_stay(tmp_path: Path) -> None:
    """
    Goal: nobody steers. A version trained on what came true passes the gate, is tried, and becomes
    the champion. One trained on shuffled labels is refused by the gate; forced past it, it is
    taken back in less than a minute after the first label that it is judged by.
    """
    with running(tmp_path) as machine:
        replay = machine.start(
            "replay", PIPELINE, "--events", "300000", "--rate", str(RATE_PER_S), "--json",
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _better(machine)
            _worse(machine)
        finally:
            replay.terminate()
            replay.wait(60)
        for row in machine.decisions():
            print(*row, sep=" | ")


def _better(machine: Machine) -> None:
    [(first,)] = machine.until("SELECT model_version FROM scored LIMIT 1", what="a prediction")
    [(why, at)] = machine.until(
        "SELECT reason, at FROM decisions WHERE kind = 'trigger' AND decision = 'train'",
        what="a trigger",
    )
    assert "volume" in why
    [(champion, promoted_at)] = machine.until(
        "SELECT version, at FROM decisions WHERE kind = 'promotion' AND decision = 'promoted' "
        f"AND champion = '{first}'",
        what="a promotion",
    )
    assert champion != first
    steps = [
        decision
        for (decision,) in machine.rows(
            f"SELECT decision FROM decisions WHERE version = '{champion}' ORDER BY at"
        )
    ]
    assert steps[:2] == ["passed", "try"], steps
    assert steps.count("widen") == 3, steps
    machine.until(
        f"SELECT 1 FROM scored WHERE model_version = '{champion}' AND predicted_at > "
        f"toDateTime64('{promoted_at:%Y-%m-%d %H:%M:%S}', 3, 'UTC') LIMIT 1",
        what="predictions of the new champion",
    )
    print(f"trigger to champion: {(promoted_at - at).total_seconds():.0f} s")


def _worse(machine: Machine) -> None:
    hold = machine.call("models", "hold", "flights", "--reason", "no training meanwhile")
    assert hold.returncode == 0, hold.stderr
    given = ("--source", "history", "--days", "30", "--as-of", "2013-02-10", "--json")
    while "already runs" in (trained := machine.call("train", SHUFFLED, *given)).stderr:
        time.sleep(1.0)  # one was due just now
    assert trained.returncode == 1, trained.stdout + trained.stderr
    found = json.loads(trained.stdout)
    assert found["version"], found
    assert not found["passed"]
    version = found["version"]
    refused = machine.call("models", "try", PIPELINE, version)
    assert refused.returncode == 2
    assert "the gate refused it" in refused.stderr
    for command in (
        ("models", "try", PIPELINE, version, "--force", "--reason", "to see it go"),
        ("models", "release", "flights"),
    ):
        done = machine.call(*command)
        assert done.returncode == 0, done.stderr
    [(rolled_back_ms, why)] = machine.until(
        "SELECT toUnixTimestamp64Milli(at), reason FROM decisions WHERE kind = 'rollout' "
        f"AND decision = 'rollback' AND version = '{version}'",
        what="a rollback",
    )
    [(first_label_ms, rows)] = machine.rows(
        "SELECT toUnixTimestamp64Milli(min(produced_at)), count() FROM examples "
        f"WHERE label IS NOT NULL AND produced_at BETWEEN (SELECT at FROM decisions "
        f"WHERE decision = 'try' AND version = '{version}') "
        f"AND fromUnixTimestamp64Milli({rolled_back_ms})"
    )
    seconds = (rolled_back_ms - first_label_ms) / 1000
    print(f"shuffled labels: rolled back {seconds:.1f} s after its first label, {rows} rows: {why}")
    assert "log-loss is higher" in why
    assert seconds <= ROLLBACK_S_MAX
