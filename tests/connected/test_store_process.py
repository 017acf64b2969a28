"""The gateway as a process: one owner per folder, clean stops, and kills that lose nothing."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from schemas.errors import StoreUnavailable
from schemas.settings import Settings
from streams.local.store import EmbeddedStore
from streams.store.client import connect, insert_rows
from tests.connected.store_http import send

pytestmark = pytest.mark.embedded

GATEWAY = [sys.executable, "-P", "-m", "streams.store.gateway"]
READY_S_MAX = 60.0


class Process:
    """A gateway of the test's own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self.child = subprocess.Popen(
            [*GATEWAY, "--folder", str(self.folder), "--port", str(self.port)],
            stderr=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline_s:
            try:
                if send(self.url, method="GET", path="/ping").text == "Ok.\n":
                    return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("the gateway does not answer")

    def end(self, number: int) -> int:
        self.child.send_signal(number)
        return self.child.wait(timeout=30)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "store", unused_port())
    yield process
    if process.child.poll() is None:
        process.end(signal.SIGKILL)


def _refused(*arguments: str) -> str:
    done = subprocess.run(
        [*GATEWAY, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_a_second_process_on_the_folder_is_told_who_has_it(
    gateway: Process, store_process: EmbeddedStore
) -> None:
    told = _refused("--folder", str(gateway.folder), "--port", "0")
    name = psutil.Process(gateway.child.pid).name()
    assert f"pid={gateway.child.pid} name={name}" in told
    assert "Traceback" not in told
    assert send(gateway.url, "SELECT 1").text == "1\n"
    assert store_process.answers(), "another folder at the same time is fine"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_no_other_machine_is_served(tmp_path: Path, host: str) -> None:
    told = _refused("--folder", str(tmp_path / "x"), "--port", "0", "--host", host)
    assert "could not listen" in told
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_even_in_mid_query(gateway: Process, number: int) -> None:
    replies: list[int] = []
    query = "SELECT count() FROM numbers(1000000000000)"
    thread = threading.Thread(target=lambda: replies.append(send(gateway.url, query).code))
    thread.start()
    while send(gateway.url, "SELECT count() FROM system.processes").text != "2\n":
        pass
    began_s = time.monotonic()
    assert gateway.end(number) == 0
    assert time.monotonic() - began_s < 15
    thread.join()
    assert replies == [394]


def test_scratch_files_of_a_killed_process_are_swept(gateway: Process) -> None:
    gateway.end(signal.SIGKILL)
    orphan = gateway.folder / "tmp" / "orphan.raw"
    orphan.write_bytes(b"x")
    gateway.start()
    assert not orphan.exists()
    assert gateway.end(signal.SIGTERM) == 0


def test_a_stray_configuration_changes_nothing(
    tmp_path: Path, gateway: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """chDB alone would load a config.xml of the working directory."""
    gateway.end(signal.SIGTERM)
    (tmp_path / "config.xml").write_text("<clickhouse><users_config>no</users_config></clickhouse>")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".clickhouse-local"
    home.mkdir()
    (home / "config.xml").write_text("<clickhouse><users_config>no</users_config></clickhouse>")
    monkeypatch.chdir(tmp_path)
    gateway.start()
    assert send(gateway.url, "SELECT file('/etc/passwd')").code == 497


def test_kills_keep_every_acknowledged_row_and_tokens_stop_repeats(gateway: Process) -> None:
    """Three kills in mid-insert; every unanswered insert is repeated with its token."""
    send(
        gateway.url,
        "CREATE TABLE killed (a UInt64) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 1000",
    )
    settings = Settings(clickhouse=gateway.url)
    client = connect(settings)
    rows, batches, kills = 1000, 60, 3
    repeated = 0

    def killer() -> None:
        for _ in range(kills):
            time.sleep(0.25)
            gateway.end(signal.SIGKILL)
            gateway.start()

    thread = threading.Thread(target=killer)
    thread.start()
    batch = 0
    unanswered = False  # an insert cut off by the last kill may have landed: its repeat must follow
    while batch < batches or thread.is_alive() or unanswered:
        table = pa.table({"a": pa.array(range(batch * rows, (batch + 1) * rows), pa.uint64())})
        try:
            insert_rows(client, "killed", table, token=f"t|{batch}")
        except StoreUnavailable:
            repeated, unanswered = repeated + 1, True
            time.sleep(0.02)
        else:
            batch, unanswered = batch + 1, False
    thread.join()
    client.close()
    assert repeated >= 1
    found = send(gateway.url, "SELECT count(), uniqExact(a), max(a) FROM killed").text
    assert found == f"{batch * rows}\t{batch * rows}\t{batch * rows - 1}\n"
    assert gateway.end(signal.SIGTERM) == 0
