"""Event, score, row over TLS and passwords, each process with no more rights than its role's."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from streams.books.committed import committed
from streams.books.reconcile import land_group
from streams.control.rights import rights
from streams.store.client import connect
from streams.store.recorded_range import decode_pending
from streams.telemetry import read_reports
from streams.transport.authorization import set_rights
from tests.doors.conftest import NAME, Vault, wait_for
from tests.doors.secured import ADMIN

WORKERS = ("score", "join", "learn", "land")
EVENTS = 200
PASSENGERS = 20


@contextmanager
def running(vault: Vault, *roles: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Workers of these roles, each with its own user; running when entered."""
    with ExitStack() as stack:
        processes = {role: stack.enter_context(_worker(vault, role)) for role in roles}

        def ready() -> bool:
            for role, process in processes.items():
                assert process.poll() is None, log(vault, role).read_text()
            reports = read_reports(vault.base.run_folder)
            up = {r.pid for r in reports if r.state == "running" and r.partitions}
            return {process.pid for process in processes.values()} <= up

        wait_for("running workers", ready)
        yield processes


@contextmanager
def _worker(vault: Vault, role: str) -> Iterator[subprocess.Popen[bytes]]:
    line = [sys.executable, "-P", "-m", "streams.cli.main", "worker", role]
    with log(vault, role).open("ab") as output:
        process = subprocess.Popen(
            [*line, "--pipeline", vault.named.reference, "--name", f"{NAME}-{role}-0"],
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(vault.folder),
                **vault.as_(role).environment(),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def closed(vault: Vault) -> bool:
    """Whether the lander has vouched for every row: it closes its last ranges when all is quiet."""
    found = asyncio.run(committed(vault.as_("dashboard"), land_group(NAME)))
    return not [text for _offset, text in found.values() if decode_pending(text) is not None]


def log(vault: Vault, role: str) -> Path:
    return vault.folder / f"{role}.log"


@pytest.fixture(scope="session")
def travelled(vault: Vault) -> Vault:
    """The vault after events and labels have passed through everything, once for all modules."""
    if vault.landed is not None:
        return vault
    now_ms = time.time_ns() // 1_000_000
    producer = Producer(vault.client("producer", **{"enable.idempotence": True}))
    for i in range(EVENTS):
        key = f"p-{i % PASSENGERS}"
        event = {
            "event_id": f"e{i}", "event_time_ms": now_ms - 1000 + i, "card": key,
            "amount_eur": 1.5 * i, "country": "FI",
        }  # fmt: skip
        label = {"event_id": f"e{i}", "value": i % 2, "label_time_ms": now_ms}
        partition = (i % PASSENGERS) % 2
        producer.produce(f"{NAME}.events", json.dumps(event), key=key, partition=partition)
        producer.produce(f"{NAME}.labels", json.dumps(label), key=key, partition=partition)
    producer.produce(f"{NAME}.events", b"{broken", key="p-0", partition=0)
    assert producer.flush(60) == 0
    client = connect(vault.base)
    with running(vault, *WORKERS):
        for table, count in (
            ("scored", EVENTS),
            ("labels", EVENTS),
            ("examples", EVENTS),
            ("dead_letters", 1),
        ):
            sql = f"SELECT count() >= {count} FROM {table} WHERE pipeline = '{NAME}'"
            wait_for(f"{count} rows in {table}", lambda sql=sql: client.command(sql))
        wait_for("closed ranges", lambda: closed(vault))
    sql = f"SELECT count(), uniqExact(event_id), min(score) FROM scored WHERE pipeline = '{NAME}'"
    vault.landed = client.query(sql).result_rows
    client.close()
    return vault


def test_every_event_becomes_one_row(travelled: Vault) -> None:
    """The whole path, from a producer with a password to SQL."""
    assert travelled.landed == [(EVENTS, EVENTS, 0.25)]


def test_a_reader_gets_every_prediction(travelled: Vault) -> None:
    """With a group of its own and READ on one topic, nothing more."""
    group = f"{NAME}.reader.test"
    options = {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer(travelled.client("reader", **options))
    consumer.subscribe([f"{NAME}.predictions"])
    found = set()
    deadline = time.monotonic() + 60
    while len(found) < EVENTS and time.monotonic() < deadline:
        found |= {json.loads(m.value())["event_id"] for m in consumer.consume(500, timeout=1)}
    consumer.close()
    assert found == {f"e{i}" for i in range(EVENTS)}


def test_the_books_are_exact_for_who_may_only_look(travelled: Vault) -> None:
    """`reconcile` and `status` work with the rights of the dashboard, and show no password."""
    books = travelled.tidemill("dashboard", "reconcile", travelled.named.reference)
    assert books.returncode == 0, books.stdout + books.stderr
    shown = travelled.tidemill("dashboard", "status", "--json")
    assert json.loads(shown.stdout)["kafka_state"] == "ok", shown.stdout
    for done in (books, shown):
        assert travelled.as_("dashboard").kafka_password not in done.stdout + done.stderr


def test_no_password_is_in_any_log(travelled: Vault) -> None:
    """Neither in those of the workers nor in what lies in the home."""
    passwords = [p.encode() for p in travelled.broker.passwords.values()]
    for file in travelled.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [p for p in passwords if p in content], file


def test_a_worker_whose_right_is_withdrawn_ends_and_one_with_it_goes_on(travelled: Vault) -> None:
    """
    Goal: what the group's coordinator refuses for good ends the worker, with the reason.

    Most times aiokafka also wakes a fetch that waits, and Faust ends then. That it is found when no
    fetch waits is shown in `tests/connected/test_transport.py`.
    """
    group = [r for r in rights(travelled.pipeline, "land") if r.resource == "GROUP"]
    with running(travelled, "land") as workers:
        set_rights(travelled.as_(ADMIN), grant=[], revoke=group)
        try:
            assert workers["land"].wait(60) != 0
        finally:
            set_rights(travelled.as_(ADMIN), grant=group, revoke=[])
    assert "GroupAuthorizationFailedError" in log(travelled, "land").read_text()
    with running(travelled, "land"):
        pass  # it goes on where it was
