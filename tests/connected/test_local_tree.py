"""The process tree keeps its processes alive, says how they are, and ends them in order."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from schemas.errors import HomeInUse
from schemas.settings import Settings
from streams.local.broker_probe import live_brokers
from streams.local.home import read_stack, resolve
from streams.local.tree import Child, LocalStack
from streams.telemetry import read_reports

pytestmark = pytest.mark.connected

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
CRASHER = [sys.executable, "-c", "raise SystemExit('the disk is on fire')"]
ADDRESSES = {"kafka": "127.0.0.1:1", "clickhouse": "http://127.0.0.1:1"}


def wait_until(condition, *, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def report(settings, name):
    return next((r for r in read_reports(settings.run_folder) if r.name == name), None)


def test_a_crashing_worker_is_started_again_ever_later_and_says_why(tmp_path):
    """A crash loop must neither burn the machine nor be silent."""
    settings = Settings(home=tmp_path, **ADDRESSES)
    with LocalStack(settings) as stack:
        started = time.monotonic()
        stack.add(Child("crasher", CRASHER, role="score"))
        wait_until(lambda: stack.restart_counts["crasher"] >= 3)
        assert time.monotonic() - started >= 0.2 + 0.4 + 0.8
        wait_until(lambda: (r := report(settings, "crasher")) is not None and r.state == "failed")
        said = report(settings, "crasher")
        assert "exit_code=1" in said.detail
        assert "the disk is on fire" in said.detail
        assert said.role == "score"
    assert read_reports(settings.run_folder) == [], "what was stopped must not look broken"


def test_a_killed_worker_comes_back_with_its_environment(tmp_path):
    """kill -9 of a worker is an everyday event; the tree's settings reach the next one too."""
    settings = Settings(home=tmp_path, **ADDRESSES)
    told = tmp_path / "told"
    program = (
        f"import os, pathlib, time; p = pathlib.Path({str(told)!r}); "
        "p.open('a').write(os.environ['TIDEMILL_KAFKA'] + os.environ['EXTRA'] + '\\n'); "
        "time.sleep(600)"
    )
    with LocalStack(settings) as stack:
        stack.add(Child("worker", [sys.executable, "-c", program], {"EXTRA": "!"}))
        wait_until(lambda: told.exists() and told.read_text().count("\n") == 1)
        first = stack.pids["worker"]
        os.kill(first, signal.SIGKILL)
        stack.run_forever(until=lambda: told.read_text().count("\n") == 2)
        assert stack.pids["worker"] != first
        assert stack.restart_counts == {"worker": 1}
        last = psutil.Process(stack.pids["worker"])
    assert told.read_text() == "127.0.0.1:1!\n" * 2
    assert not last.is_running()


def test_an_existing_cluster_is_used_and_a_second_stack_refused(tmp_path):
    settings = Settings(home=tmp_path, **ADDRESSES)
    with LocalStack(settings, pipelines=["flights"]) as stack:
        assert stack.pids == {}
        assert stack.settings.kafka == "127.0.0.1:1"
        assert read_stack(settings).pipelines == ["flights"]
        with pytest.raises(HomeInUse), LocalStack(settings):
            pass
        assert read_stack(settings) is not None, "the refused one must not remove our entry"
    assert read_stack(settings) is None
    with LocalStack(settings):
        pass


def test_broker_and_store_come_back_on_the_same_ports(tmp_path, kafka, broker):
    """The default ports are taken here, so free ones are chosen; they stay across restarts."""
    settings = Settings(home=tmp_path, kafka_port=broker.port)
    with LocalStack(settings) as stack:
        assert stack.settings.kafka != kafka
        found = resolve(settings)
        assert (found.kafka, found.clickhouse) == (stack.settings.kafka, stack.settings.clickhouse)
        port = int(stack.settings.kafka.split(":")[1])
        wait_until(lambda: (r := report(settings, "kafka")) is not None and r.state == "running")
        assert report(settings, "kafka").pid == stack.pids["kafka"]
        before = stack.pids
        for name in ("kafka", "store"):
            os.kill(before[name], signal.SIGKILL)
        wait_until(lambda: stack.restart_counts == {"kafka": 1, "store": 1})
        wait_until(lambda: live_brokers("127.0.0.1", port) == 1)
        wait_until(
            lambda: all(
                (r := report(settings, name)).state == "running" and r.pid != before[name]
                for name in ("kafka", "store")
            )
        )
        pids = stack.pids
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert read_reports(settings.run_folder) == []


UP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts without it
from pathlib import Path
from schemas.settings import Settings
from streams.local.tree import Child, LocalStack
with LocalStack(Settings(home=Path(sys.argv[1]), kafka="127.0.0.1:1",
                         clickhouse="http://127.0.0.1:1")) as stack:
    stack.add(Child("sleeper", sys.argv[2:]))
    say = [lambda: print(stack.pids["sleeper"], flush=True)]
    stack.run_forever(until=lambda: say and say.pop()())
print("left in order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_however_up_ends_its_workers_end_too(tmp_path, number):
    up = subprocess.Popen(
        [sys.executable, "-c", UP, str(tmp_path), *SLEEPER], stdout=subprocess.PIPE, text=True
    )
    sleeper = psutil.Process(int(up.stdout.readline()))
    up.send_signal(number)
    rest, _ = up.communicate(timeout=60)
    wait_until(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE)
    if number != signal.SIGKILL:
        assert rest == "left in order\n"
        assert up.returncode == 0
