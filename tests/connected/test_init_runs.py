"""What `tidemill init` wrote, started as its last lines say: to the first prediction and its row."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.settings import Settings
from tests.unit.test_cli import tidemill

EVENTS = 200
START_S_MAX = 200.0

pytestmark = [pytest.mark.connected, pytest.mark.timeout(400)]


def test_from_init_to_the_first_prediction_and_its_answer_in_sql(
    settings: Settings, tmp_path: Path
) -> None:
    """A newcomer types three lines and changes nothing; a model answers, and SQL knows the truth."""
    name = settings.database.replace("tidemill", "shop")
    environment = {
        "TIDEMILL_KAFKA": settings.kafka,
        "TIDEMILL_CLICKHOUSE": settings.clickhouse,
        "TIDEMILL_DATABASE": settings.database,
    }
    home = tmp_path / "home"
    wrote = tidemill("init", name, "--folder", str(tmp_path), home=home)
    assert wrote.returncode == 0, wrote.stderr
    file = str(tmp_path / f"{name}.py")
    said = tmp_path / "said"
    up = subprocess.Popen(
        [sys.executable, "-P", "-m", "streams.cli.main", "up", file, "--no-dashboard", "--by-hand"],
        env={"PATH": "/usr/bin:/bin", "TIDEMILL_HOME": str(home), **environment},
        stdout=said.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + START_S_MAX
        while "Running." not in said.read_text():
            assert up.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        assert "AUC on" in said.read_text(), "the first model is judged on rows of the feed"
        sent = tidemill("replay", file, "--events", str(EVENTS), "--json", home=home, **environment)
        assert json.loads(sent.stdout)["events"] == EVENTS, sent.stderr
        query = f"SELECT count() AS n, countIf(fraud IS NOT NULL) AS known FROM {name}_outcomes"
        while True:
            answer = tidemill("sql", "--format", "json", query, home=home, **environment)
            found = json.loads(answer.stdout) if answer.returncode == 0 else {"n": 0}
            if int(found["n"]) > EVENTS / 2:
                break
            assert time.monotonic() < deadline, (answer, said.read_text())
            time.sleep(0.2)
        assert int(found["known"]) == int(found["n"])
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)
    assert up.returncode == 0
