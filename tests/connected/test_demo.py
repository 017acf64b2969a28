"""The whole product through its command line, on a pipeline that a user wrote, with bad input and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

EVENTS = 3_000
PIPELINE = '''
import random

import pyarrow as pa

from schemas.pipeline import Pipeline, category, label, numeric


def history() -> pa.Table:
    """Ninety days; large amounts from abroad are fraud."""
    chance = random.Random(7)
    rows = []
    for i in range(9_000):
        amount, country = chance.lognormvariate(3, 1), chance.choice(["DE", "FR", "XX"])
        fraud = chance.random() < (0.6 if country == "XX" and amount > 20 else 0.02)
        time_ms = 1_700_000_000_000 + i * 864_000
        truth = (float(fraud), time_ms + 5_000_000) if i % 10 else (None, None)
        rows.append((f"e{i}", time_ms, f"a{i % 97}", amount if i % 50 else None, country, *truth))
    names = ["event_id", "event_time_ms", "account_id", "amount", "country", "label", "label_time_ms"]
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows))})


payments = Pipeline(
    name="payments",
    key="account_id",
    features=[numeric("amount", missing=0.0), category("country")],
    target=label("fraud", prior=0.1),
    partitions=3,
    history=history,
    first_training_days=50,
)
'''


class Running:
    """A `tidemill demo` that stayed up."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = folder / "payments.py"
        self.pipeline.write_text(PIPELINE, encoding="utf-8")
        self.environment = {
            **os.environ,
            "TIDEMILL_HOME": str(folder / "home"),
            "TIDEMILL_KAFKA_PORT": "19192",
            "TIDEMILL_CLICKHOUSE_PORT": "18192",
        }
        self.output = folder / "output"
        self.process = subprocess.Popen(
            self._line("demo", str(self.pipeline), "--events", str(EVENTS), "--rate", "0"),
            env=self.environment,
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
        )

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "streams.cli.main", *arguments]

    def tidemill(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._line(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tidemill("status", "--json").stdout)
        return found

    def books(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.tidemill("reconcile", str(self.pipeline), "--json").stdout
        )[0]
        return found

    def wait_for_books(self, **wanted: object) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while True:
            books = self.books()
            if {name: books[name] for name in wanted} == wanted:
                return books
            assert time.monotonic() < deadline, books
            time.sleep(0.5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Up, with the demo's events landed and its report printed."""
    running = Running(tmp_path_factory.mktemp("demo"))
    deadline = time.monotonic() + 240
    while "Still running" not in running.output.read_text():
        assert running.process.poll() is None, running.output.read_text()
        assert time.monotonic() < deadline, running.output.read_text()
        time.sleep(0.2)
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)


pytestmark = [pytest.mark.connected, pytest.mark.timeout(600)]


def test_demo_reports_and_balances(demo: Running) -> None:
    """Every event is one prediction and one row, and the report says so in words."""
    output = demo.output.read_text()
    assert f"exact  {EVENTS:,} events = {EVENTS:,} predictions + 0 dead letters" in output
    assert "AUC 0." in output
    assert "p50 / p99" in output
    books = demo.wait_for_books(exact=True)
    assert (books["events"], books["predictions"], books["rows"]) == (EVENTS,) * 3
    assert books["labels"] == books["label_rows"] == sum(i % 10 > 0 for i in range(EVENTS))
    assert (books["ledger"]["missing"], books["ledger"]["exact"]) == (0, True)
    assert books["ledger"]["counts"]["labels"] == books["labels"]
    assert "ledger  0 missing" in output


def versions(demo: Running) -> dict[str, dict[str, Any]]:
    """What `tidemill models list` says of each version."""
    listed = demo.tidemill("models", "list", str(demo.pipeline), "--json")
    return {row["version"]: row for row in json.loads(listed.stdout)}


def test_a_retraining_is_judged_and_promoted(demo: Running) -> None:
    """From the examples to a version, a verdict and, only then, to what serves."""
    name = str(demo.pipeline)
    (first,) = versions(demo)
    done = demo.tidemill("train", name, "--epochs", "6", "--json", timeout_s=400)
    told = json.loads(done.stdout)
    verdict, version = told["verdict"], told["version"]
    assert verdict, done.stderr + told["error"]
    assert done.returncode == (0 if told["passed"] else 1)
    assert verdict["champion"] == first
    assert {check["name"] for check in verdict["checks"]} >= {"skill", "loss_excess", "slices"}
    data = json.loads(demo.tidemill("models", "show", name, version).stdout)["manifest"]["data"]
    assert data["offsets"].keys() == {"0", "1", "2"}
    assert "FROM examples" in data["sql"]
    promoted = demo.tidemill("models", "promote", name, version)
    if not told["passed"]:
        assert promoted.returncode == 2
        assert "the gate refused it" in promoted.stderr
        forced = ("--force", "--reason", "a test")
        promoted = demo.tidemill("models", "promote", name, version, *forced)
    assert promoted.returncode == 0, promoted.stderr
    assert "epoch 2" in promoted.stdout
    found = versions(demo)
    assert {name: row["serves"] for name, row in found.items()} == {first: False, version: True}
    assert found[version]["passed"] is told["passed"]
    rows = demo.tidemill(
        "sql", "SELECT DISTINCT kind FROM decisions UNION ALL "
        "SELECT DISTINCT state FROM runs", "--format", "csv",
    )  # fmt: skip
    said = {*rows.stdout.replace('"', "").split()}
    assert {"gate", "promotion", "preparing", "judging", "done"} <= said
    used = demo.tidemill(
        "sql", "SELECT count() > 0, min(learning_rate) > 0, min(gradient_norm) > 0, "
        "min(memory_bytes) > 1e8 FROM runs WHERE state = 'training'", "--format", "csv",
    )  # fmt: skip
    assert used.stdout.splitlines()[-1] == "1,1,1,1"


def test_what_the_demo_tells_people_to_try_works(demo: Running) -> None:
    """The printed lines are run as they are."""
    output = demo.output.read_text()
    lines = [line for line in output.splitlines() if line.startswith("tidemill sql ")]
    assert len(lines) == 3
    shell = " && ".join(
        line.replace("tidemill", f"{sys.executable} -P -m streams.cli.main", 1) for line in lines
    )
    answer = subprocess.run(
        ["bash", "-c", shell], env=demo.environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "XX" in answer.stdout
    consumer = demo.tidemill(
        "kafka", "console-consumer", "--topic", "payments.predictions", "--from-beginning",
        "--isolation-level", "read_committed", "--max-messages", "3", "--timeout-ms", "30000",
    )  # fmt: skip
    assert len([json.loads(line) for line in consumer.stdout.splitlines()]) == 3


def test_status_names_everything(demo: Running) -> None:
    """Programs find servers, pipelines, workers, models, lag and rows."""
    caught_up = {"score": 0, "join": 0, "learn": 0, "land": 0}
    deadline = time.monotonic() + 120
    while (status := demo.status())["lag"].get("payments") != caught_up:
        assert time.monotonic() < deadline, status["lag"]
        time.sleep(0.5)
    assert status["running"] is True
    assert (status["kafka_state"], status["clickhouse_state"]) == ("ok", "ok")
    assert status["pipelines"] == ["payments"]
    assert {(w["role"], w["state"]) for w in status["workers"]} >= {
        ("score", "running"),
        ("join", "running"),
        ("learn", "running"),
        ("land", "running"),
    }
    assert status["models"]["payments"]["epoch"] >= 1
    ledger = status["ledger"]["payments"]
    assert ledger["predictions"] >= EVENTS
    assert ledger["labelled"] == ledger["joined"] > 0
    assert 0 < ledger["coverage"] <= 1
    assert status["delays_ms"]["payments"]["p50"] == 5_000_000
    assert status["rows"]["payments"]["scored"] >= EVENTS
    assert demo.tidemill("status").returncode == 0
    assert demo.tidemill("doctor").returncode == 0


def test_sql_speaks_three_formats(demo: Running) -> None:
    """People, spreadsheets and programs."""
    query = "SELECT country, count() AS events FROM payments GROUP BY country ORDER BY country"
    assert "country" in demo.tidemill("sql", query).stdout
    assert (
        demo.tidemill("sql", "--format", "csv", query).stdout.splitlines()[0]
        == '"country","events"'
    )
    rows = [
        json.loads(line)
        for line in demo.tidemill("sql", "--format", "json", query).stdout.splitlines()
    ]
    assert sum(int(row["events"]) for row in rows) >= EVENTS
    wrong = demo.tidemill("sql", "SELECT nope FROM payments")
    assert wrong.returncode == 2
    assert "nope" in wrong.stderr


def test_second_up_on_the_same_home_is_refused(demo: Running) -> None:
    """Two brokers on one folder would destroy it."""
    answer = demo.tidemill("up", str(demo.pipeline))
    assert answer.returncode == 2
    assert "already runs" in answer.stderr


BAD = {
    "malformed-json": b"{broken",
    "schema": b'{"event_id": "x", "event_time_ms": 1, "account_id": 5, "country": "DE"}',
    "too-large": b'{"event_id": "' + b"x" * 900_000 + b'"}',
    "null-value": None,
    "time": b'{"event_id": "x", "event_time_ms": 99999999999999, "account_id": "a", "country": "DE"}',
    "not-finite": b'{"event_id": "x", "event_time_ms": 1, "account_id": "a", "country": "DE", "amount": 1e300}',
}
GOOD = {
    "unknown-category": (b"a1", {"country": "Atlantis"}),
    "null-key": (None, {}),
    "null-optional": (b"a1", {"amount": None}),
    "extra-field": (b"a1", {"nobody": "asked"}),
}


def test_bad_input_becomes_dead_letters_and_the_rest_goes_on(demo: Running) -> None:
    """By a producer that is not ours; what has a documented default is scored."""
    before = demo.books()
    producer = Producer({"bootstrap.servers": demo.status()["kafka"], "message.max.bytes": 2 << 20})
    for value in BAD.values():
        producer.produce("payments.events", value, key=b"a1")
    producer.produce("payments.events", b'{"event_id": "x", "amount": NaN}', key=b"a1")
    base = {"event_time_ms": 1_700_000_000_000, "account_id": "a1", "country": "DE", "amount": 1.0}
    for name, (key, change) in GOOD.items():
        event = {"event_id": name, **base, **change}
        producer.produce("payments.events", json.dumps(event).encode(), key=key)
    label = {"event_id": "never-happened", "value": 1, "label_time_ms": 1_700_000_000_000}
    producer.produce("payments.labels", json.dumps(label).encode(), key=b"a1")
    producer.produce(
        "payments.labels", b'{"event_id": "e1", "value": 7, "label_time_ms": 1}', key=b"a1"
    )
    assert producer.flush(30) == 0
    books = demo.wait_for_books(exact=True, events=before["events"] + len(BAD) + 1 + len(GOOD))
    assert books["dead_letters"] == before["dead_letters"] + len(BAD) + 1
    assert books["predictions"] == before["predictions"] + len(GOOD)
    assert books["label_rows"] == before["label_rows"] + 1
    assert books["label_dead_letters"] == before["label_dead_letters"] + 1
    query = "SELECT reason, count() AS n FROM dead_letters GROUP BY reason"
    answer = demo.tidemill("sql", "--format", "json", query).stdout
    reasons = {row["reason"]: int(row["n"]) for row in map(json.loads, answer.splitlines())}
    assert reasons == {**dict.fromkeys(BAD, 1), "malformed-json": 2, "schema": 2}
    assert (
        "broken" in demo.tidemill("tail", "dead-letters", "--pipeline", str(demo.pipeline)).stdout
    )


@pytest.mark.chaos
def test_nothing_is_lost_or_doubled_when_workers_are_killed(demo: Running) -> None:
    """kill -9 of scorer and lander in the middle of a replay; read back by a consumer not ours."""
    before = demo.books()
    replay = subprocess.Popen(
        demo._line("replay", str(demo.pipeline), "--events", "3000", "--rate", "300"),
        env=demo.environment,
        stdout=subprocess.DEVNULL,
    )
    for role in ("score", "join", "land", "score"):
        time.sleep(1.5)
        worker = next(w for w in demo.status()["workers"] if w["role"] == role)
        os.kill(worker["pid"], signal.SIGKILL)
    assert replay.wait(120) == 0
    demo.wait_for_books(exact=True, events=before["events"] + 3_000)
    assert _predictions(demo.status()["kafka"]) == before["predictions"] + 3_000


def _predictions(kafka: str) -> int:
    """Distinct predictions a read_committed consumer sees; fails on a doubled one."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "someone-else",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe(["payments.predictions"])
    seen: set[tuple[int, int]] = set()
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    while len(ended) < 3:
        assert time.monotonic() < deadline
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            ended.add(message.partition())
            continue
        found = json.loads(message.value())
        place = (found["source_partition"], found["source_offset"])
        assert place not in seen
        seen.add(place)
    consumer.close()
    return len(seen)


def test_sigterm_ends_all_of_it(demo: Running) -> None:
    """The last test of this file: exit code 0, and no process or port is left."""
    status = demo.status()
    pids = [worker["pid"] for worker in status["workers"]]
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(60) == 0, demo.output.read_text()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert demo.tidemill("status").returncode == 1
