"""Real clients of other languages against the store; needs their toolchains and registries.

Each program prints what failed and ends with "N passed, N failed". Skipped where its toolchain is
missing or its registry cannot be reached.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Producer

from schemas.settings import Settings
from schemas.topics import Topic
from streams.transport.administration import create_topics

FOLDER = Path(__file__).parent
BUILD_S_MAX = 240
RUN_S_MAX = 280

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_S_MAX + RUN_S_MAX)]


def test_clickhouse_go(store: str, tmp_path: Path) -> None:
    """Typed reads, a batch, parameters, errors, a million rows; by every compression."""
    need("go")
    folder, program = FOLDER / "go", str(tmp_path / "client")
    fetch(["go", "mod", "download"], folder)
    made = run(["go", "build", "-o", program, "."], folder, timeout_s=BUILD_S_MAX)
    assert made.returncode == 0, made.stderr
    assert checks([program, urlsplit(store).netloc], folder) >= 48


def test_java_client_and_jdbc(store: str, tmp_path: Path) -> None:
    """The same by both kinds of compression, and JDBC with batches, metadata, cancel, time limit."""
    need("java", "mvn")
    folder, jars = FOLDER / "java", tmp_path / "jars"
    mvn = ["mvn", "--quiet", "--batch-mode", f"-DoutputDirectory={jars}"]
    fetch([*mvn, "dependency:copy-dependencies"], folder)
    assert checks(["java", "-cp", f"{jars}/*", "Checks.java", store], folder) >= 49


def test_node_client(store: str, tmp_path: Path) -> None:
    """The same, with and without gzip; streams both ways, progress, abort, a session."""
    need("node", "npm")
    folder = tmp_path / "node"
    shutil.copytree(FOLDER / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    fetch(["npm", "ci", "--no-audit", "--no-fund"], folder)
    assert checks(["node", "checks.js", store], folder) >= 26


def test_node_consumer_of_predictions(
    kafka: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """In a group, as a service reads them: what was rolled back is not seen."""
    need("node", "npm")
    folder, topic = tmp_path / "node", unique("predictions")
    shutil.copytree(FOLDER / "node_consumer", folder, ignore=shutil.ignore_patterns("node_modules"))
    fetch(["npm", "ci", "--no-audit", "--no-fund"], folder)
    create_topics(
        Settings(kafka=kafka, home=tmp_path), [Topic(name=topic, record="", key="", partitions=2)]
    )
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(30)
    for name, kept in (("first", True), ("rolled back", False), ("second", True)):
        producer.begin_transaction()
        value = json.dumps({"event_id": name, "score": 0.5})
        producer.produce(topic, value, key="k", partition=0)
        producer.flush(30)
        (producer.commit_transaction if kept else producer.abort_transaction)(30)
    ran = run(["node", "predictions.js", kafka, topic, "2"], folder, timeout_s=RUN_S_MAX)
    assert ran.returncode == 0, ran.stderr
    seen = [json.loads(line) for line in ran.stdout.splitlines()]
    assert seen == [["k", "first", 0.5], ["k", "second", 0.5]]


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def fetch(command: list[str], folder: Path) -> None:
    """Get what the program needs from its registry."""
    made = run(command, folder, timeout_s=BUILD_S_MAX)
    if made.returncode:
        pytest.skip(f"{command[0]} could not fetch: {(made.stdout + made.stderr)[-300:]}")


def checks(command: list[str], folder: Path) -> int:
    """How many checks passed; the test fails if one failed."""
    ran = run(command, folder, timeout_s=RUN_S_MAX)
    print(ran.stdout)
    found = re.search(r"^(\d+) passed, 0 failed$", ran.stdout, re.MULTILINE)
    assert found, ran.stdout + ran.stderr[-2000:]
    assert ran.returncode == 0
    return int(found.group(1))


def run(command: list[str], folder: Path, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False
    )
