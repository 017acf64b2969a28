"""What the store keeps through kills, with and without fsync, and through other engines."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.connected.store_http import send
from tests.connected.test_store_process import READY_S_MAX, Process, _refused, gateway

pytestmark = pytest.mark.embedded

__all__ = ["gateway"]
TABLE = "CREATE TABLE {} (a UInt64) ENGINE = MergeTree ORDER BY a"


@pytest.fixture
def flushing(gateway: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A gateway with ``--fsync``."""
    import tests.connected.test_store_process as module

    gateway.end(signal.SIGTERM)
    monkeypatch.setattr(module, "GATEWAY", [*module.GATEWAY, "--fsync"])
    gateway.start()
    return gateway


def flushes(url: str) -> dict[str, int]:
    """The engine's own count of fsync calls."""
    lines = send(
        url, "SELECT event, value FROM system.events WHERE event IN ('FileSync', 'DirectorySync')"
    ).text.splitlines()
    found = {"FileSync": 0, "DirectorySync": 0}
    return found | {name: int(value) for name, value in (line.split("\t") for line in lines)}


def grown(url: str, inserts: int) -> dict[str, int]:
    """How many flushes ``inserts`` inserts and one merge of their parts took."""
    send(url, TABLE.format("flushed"))
    before = flushes(url)
    for number in range(inserts):
        assert send(url, f"{number}\n", query="INSERT INTO flushed FORMAT TSV").status == 200
    return {name: value - before[name] for name, value in flushes(url).items()}


def test_with_fsync_each_insert_is_flushed(flushing: Process) -> None:
    found = grown(flushing.url, 20)
    assert found["FileSync"] >= 20
    assert found["DirectorySync"] >= 20


def test_without_fsync_inserts_are_left_to_the_operating_system(gateway: Process) -> None:
    """The control for the test above."""
    assert grown(gateway.url, 20) == {"FileSync": 0, "DirectorySync": 0}


def acknowledged_through_kills(process: Process, work: Callable[[int], list[str]]) -> list[int]:
    """Run ``work`` for 0, 1, 2... until two kills have struck; those answered with 200."""
    answered: list[int] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            try:
                if all(send(process.url, sql).status == 200 for sql in work(number)):
                    answered.append(number)
            except OSError:
                time.sleep(0.02)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(2):
        goal, deadline_s = len(answered) + 15, time.monotonic() + READY_S_MAX
        while len(answered) < goal:
            assert time.monotonic() < deadline_s, "nothing is answered"
            time.sleep(0.01)
        process.end(signal.SIGKILL)
        process.start()
    stop.set()
    thread.join()
    return answered


def test_kills_during_merges_keep_every_acknowledged_row(gateway: Process) -> None:
    send(gateway.url, TABLE.format("merged"))

    def work(number: int) -> list[str]:
        insert = f"INSERT INTO merged SELECT {number} * 1000 + number FROM numbers(1000)"
        return [insert, "OPTIMIZE TABLE merged FINAL"] if number % 3 == 2 else [insert]

    answered = acknowledged_through_kills(gateway, work)
    found = send(gateway.url, "SELECT intDiv(a, 1000) AS n, count() FROM merged GROUP BY n").text
    rows = dict(tuple(map(int, line.split("\t"))) for line in found.splitlines())
    assert {number: rows.get(number) for number in answered} == dict.fromkeys(answered, 1000)
    assert set(rows.values()) == {1000}, "an insert is there in whole or not at all"


def test_kills_during_create_and_alter_keep_what_was_acknowledged(gateway: Process) -> None:
    def work(number: int) -> list[str]:
        name = f"made_{number}"
        return [
            TABLE.format(name),
            f"INSERT INTO {name} VALUES ({number})",
            f"ALTER TABLE {name} ADD COLUMN b UInt64 DEFAULT a + 1",
        ]

    answered = acknowledged_through_kills(gateway, work)
    for number in answered:
        assert send(gateway.url, f"SELECT a, b FROM made_{number}").text == (
            f"{number}\t{number + 1}\n"
        )


def test_temporary_files_stay_in_the_data_folder(gateway: Process) -> None:
    """Those of a killed process are swept from there, and only from there."""
    environment = Path(f"/proc/{gateway.child.pid}/cwd").resolve()
    assert environment == (gateway.folder / "tmp").resolve()


def test_an_older_engine_refuses_the_folder_and_a_newer_one_notes_it(gateway: Process) -> None:
    record = gateway.folder / "engine.json"
    ours = json.loads(record.read_text())["engine"]
    assert ours == send(gateway.url, "SELECT version()").text.strip()
    send(gateway.url, TABLE.format("kept"))
    send(gateway.url, "INSERT INTO kept VALUES (7)")
    gateway.end(signal.SIGTERM)
    record.write_text(json.dumps({"engine": "99.1.2.3"}))
    told = _refused("--folder", str(gateway.folder), "--port", "0")
    assert "engine=99.1.2.3 wrote it" in told
    assert f"engine={ours} is older" in told
    assert "Traceback" not in told
    record.write_text("damaged")
    assert "could not read" in _refused("--folder", str(gateway.folder), "--port", "0")
    record.write_text(json.dumps({"engine": "1.1.2.3"}))
    gateway.start()
    assert json.loads(record.read_text())["engine"] == ours
    assert send(gateway.url, "SELECT a FROM kept").text == "7\n"
