"""A rank that is killed costs the time since the last checkpoint and a start, and changes nothing.

All of it on the real torchrun, so it also guards the setting without which a restart hangs.
"""

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from schemas.training import PROGRESS, Progress, TrainingJob
from streams.local.ports import free_port
from tests.unit.training_jobs import distance, job_in, same
from trainers.launcher import Hosts, Torchrun, TrainingFailed
from trainers.start import OUTCOME, TRAINED, Outcome

# Three starts of torchrun: half a minute on two free cores, ten times that on busy ones.
pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1500)]

DEADLINE_S = 450
EXTRA_S_MAX = 15.0
RECIPE: dict[str, Any] = {"epochs_max": 10, "patience_epochs": 10, "checkpoint_interval_s": 0.5}


def prepared(folder: Path) -> TrainingJob:
    """A job of some 500 steps, with its description where the ranks look for it."""
    job, _plan = job_in(folder, **RECIPE)
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    return job


def steps(folder: Path) -> int:
    """Steps that rank 0 has told of."""
    try:
        lines = (folder / PROGRESS).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith(b"\n")]
    return msgspec.json.decode(whole[-1], type=Progress).step if whole else 0


def ranks_of(folder: Path) -> list[psutil.Process]:
    """The processes that train in ``folder``, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if line[-1:] == [str(folder)] and "torch.distributed.run" not in line:
                found[int(process.environ()["RANK"])] = process
        except (psutil.Error, KeyError):
            continue
    return [found[rank] for rank in sorted(found)]


def launched(folder: Path, launcher: Torchrun) -> threading.Thread:
    """The launcher at work; what it raises fails the test through the missing outcome."""

    def launch() -> None:
        launcher.launch(folder)

    thread = threading.Thread(target=launch, daemon=True)
    thread.start()
    return thread


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def outcome(folder: Path) -> Outcome:
    return msgspec.json.decode((folder / OUTCOME).read_bytes(), type=Outcome)


def test_a_killed_rank_changes_nothing(tmp_path: Path, seed: int) -> None:
    """SIGKILL at a random step: the weights are those of an undisturbed run, to the last bit."""
    chance = random.Random(seed)
    prepared(tmp_path / "calm")
    began = time.monotonic()
    Torchrun(ranks=2).launch(tmp_path / "calm")
    calm_s = time.monotonic() - began

    folder = tmp_path / "killed"
    prepared(folder)
    at, rank = chance.randrange(30, 350), chance.randrange(2)
    began = time.monotonic()
    thread = launched(folder, Torchrun(ranks=2))
    wait_for(lambda: steps(folder) >= at, f"step {at}; seed {seed}")
    ranks_of(folder)[rank].kill()
    thread.join(DEADLINE_S)
    killed_s = time.monotonic() - began
    print(f"seed {seed}: rank {rank} killed at step {at}; {calm_s:.1f} s calm, {killed_s:.1f} s so")
    assert outcome(folder).attempts == 2, "the kill must have hit"
    if (
        os.getloadavg()[0] < (os.cpu_count() or 1) + 2
    ):  # a saturated machine starts no ranks in time
        assert killed_s - calm_s <= RECIPE["checkpoint_interval_s"] + EXTRA_S_MAX
    assert distance(tmp_path / "calm" / TRAINED, folder / TRAINED) < 5e-9
    assert same(tmp_path / "calm" / TRAINED, folder / TRAINED)
    assert not ranks_of(folder)


def test_two_hosts_meet_and_survive_a_kill(tmp_path: Path, seed: int) -> None:
    """Two torchruns with addresses of their own, as two machines would have; one rank each."""
    folder = tmp_path / "hosts"
    prepared(folder)
    prepared(tmp_path / "calm")
    Torchrun(ranks=2).launch(tmp_path / "calm")
    endpoint = f"127.0.0.1:{free_port(29_450)}"

    def host(number: int) -> Torchrun:
        address = f"127.0.0.{number}"
        return Torchrun(
            ranks=1, hosts=Hosts(num=2, rendezvous=endpoint, address=address, run=f"t{seed}")
        )

    threads = [launched(folder, host(number)) for number in (1, 2)]
    wait_for(lambda: steps(folder) >= 50, f"step 50; seed {seed}")
    ranks_of(folder)[1].kill()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert outcome(folder).ranks == 2
    assert distance(tmp_path / "calm" / TRAINED, folder / TRAINED) < 5e-9


def test_a_hung_rank_is_ended(tmp_path: Path) -> None:
    """No progress: the watchdog gives the reason, and nothing stays behind."""
    folder = tmp_path / "hung"
    prepared(folder)
    failures: list[Exception] = []

    def launch() -> None:
        try:
            Torchrun(ranks=1, silence_s_max=20.0).launch(folder)
        except TrainingFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=launch, daemon=True)
    thread.start()
    wait_for(lambda: steps(folder) >= 1, "the first step")
    ranks_of(folder)[0].suspend()
    thread.join(DEADLINE_S)
    assert "no progress for 20 s" in str(failures[0])
    wait_for(lambda: not ranks_of(folder), "the end of the rank")
