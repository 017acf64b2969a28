"""Launching: command lines, the watchdog, and the job for Kubernetes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.launcher import (
    Hosts,
    Torchrun,
    TrainingFailed,
    end,
    environment,
    kubernetes_job,
    watch,
)

HOSTS = Hosts(num=3, rendezvous="10.0.0.1:29400", address="10.0.0.2", run="r1")


def test_the_command_lines() -> None:
    """One machine takes a free port on the loopback interface; hosts meet where they are told."""
    alone = " ".join(Torchrun(ranks=4).command(Path("/jobs/a")))
    assert "--nnodes=1" in alone
    assert "--rdzv-endpoint=127.0.0.1:0" in alone
    assert alone.endswith("-m trainers.distributed /jobs/a")
    many = Torchrun(ranks=4, hosts=HOSTS).command(Path("/jobs/a"))
    assert {"--nnodes=3", "--rdzv-endpoint=10.0.0.1:29400", "--rdzv-id=r1"} <= {*many}
    assert "--local-addr=10.0.0.2" in many


def test_the_store_of_the_rendezvous_is_not_shared() -> None:
    """Shared, a restart after a kill hangs (torch 2.13)."""
    assert environment({}, trainer=1)["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_silence_ends_a_job_and_progress_keeps_it(tmp_path: Path) -> None:
    """The clock is ours: every look is ten seconds after the last one."""
    ticks = iter(range(0, 100_000, 10))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with pytest.raises(TrainingFailed, match="no progress for 60 s"):
            watch(process, tmp_path, silence_s_max=60.0, clock=lambda: float(next(ticks)))
    finally:
        end(process)
    assert process.poll() is not None
    end(process)  # again is harmless
    lines = (
        "import sys, time\nfor i in range(5):\n open(sys.argv[1], 'a').write('x'); time.sleep(.1)"
    )
    ticks = iter(range(100_000))
    busy = subprocess.Popen([sys.executable, "-c", lines, str(tmp_path / "progress.jsonl")])
    assert watch(busy, tmp_path, silence_s_max=60.0, clock=lambda: float(next(ticks))) == 0


class Failing(Torchrun):
    """Stands for a torchrun whose ranks cannot begin."""

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-c", "import sys; print('no job.json'); sys.exit(1)"]


def test_ranks_that_fail_say_why(tmp_path: Path) -> None:
    """The end of their log is in the message."""
    with pytest.raises(TrainingFailed, match=r"(?s)exit_code=1.*no job\.json"):
        Failing().launch(tmp_path)


def test_a_job_for_kubernetes_is_complete() -> None:
    """One pod per host, a name to meet at, the shared folder, and the setting for restarts."""
    text = kubernetes_job(
        name="flights-1", image="tidemill:1", hosts=2, ranks=4, claim="jobs", folder="flights-1"
    )
    service, job = json.loads(text)["items"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    (container,) = spec["template"]["spec"]["containers"]
    assert "--rdzv-endpoint=flights-1-0.flights-1:29400" in container["command"]
    assert "--local-addr=$(POD_IP)" in container["command"]
    assert container["command"][-1] == "/tidemill/flights-1"
    names = {item["name"] for item in container["env"]}
    assert {"POD_IP", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"} <= names
