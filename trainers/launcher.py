"""Starts the ranks of a job, and ends them when nothing moves any more.

The unit everywhere is torchrun: on this machine, on several hosts that meet at a rendezvous, or in
the pods of a Kubernetes job. The folder of the job is all they share; on several hosts it lies on a
file system that all of them mount.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil

from schemas.errors import ModelError
from schemas.training import PROGRESS

RESTARTS_MAX = 5
"""Starts of the ranks after the first before a job is given up."""

SILENCE_S_MAX = 180.0
"""So long without a line of progress or a checkpoint, and a job hangs: more than the time a start
takes on a saturated machine, and more than the ranks' own time-out."""

LOG_LINES = 40
"""Of the log, in a message: torchrun's own summary takes 15, and the traceback stands before it."""

POLL_S = 0.2
STOP_S = 5.0
TRAINER = "TRAINER_PID"
PORT = 29_400


class TrainingFailed(ModelError):
    """The ranks ended without a result; the message ends with their last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Several machines that train together.

    Attributes:
        num: How many.
        rendezvous: ``host:port`` of one of them that all can reach.
        address: Ours, as the others reach it.
        run: The same for all, and for nothing else.
    """

    num: int
    rendezvous: str
    address: str
    run: str


class Launcher(Protocol):
    """Brings the ranks of a job to their end."""

    def launch(self, folder: Path) -> None:
        """Return when the ranks have left their result in ``folder``.

        Raises:
            TrainingFailed: they did not; what they leave in ``folder`` can be resumed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Torchrun:
    """Ranks on this machine, started again as a whole when one of them dies.

    Attributes:
        ranks: Processes here.
        hosts: The other machines; None: this one alone.
        restarts_max: See `RESTARTS_MAX`.
        silence_s_max: See `SILENCE_S_MAX`.
        clock: Seconds that never go back.
    """

    ranks: int = 1
    hosts: Hosts | None = None
    restarts_max: int = RESTARTS_MAX
    silence_s_max: float = SILENCE_S_MAX
    clock: Callable[[], float] = time.monotonic

    def launch(self, folder: Path) -> None:
        """See `Launcher`."""
        run(self.command(folder), folder, silence_s_max=self.silence_s_max, clock=self.clock)

    def command(self, folder: Path) -> list[str]:
        """The command line of torchrun."""
        return [
            sys.executable,
            "-P",
            "-m",
            "torch.distributed.run",
            *torchrun_options(self.ranks, self.hosts, self.restarts_max),
            "-m",
            "trainers.distributed",
            str(folder),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayTrain:
    """Ranks as workers of Ray Train: on the cluster of ``RAY_ADDRESS``, or on this machine.

    Attributes:
        ranks: How many, over all machines.
        silence_s_max: See `SILENCE_S_MAX`.
    """

    ranks: int = 1
    silence_s_max: float = SILENCE_S_MAX

    def launch(self, folder: Path) -> None:
        """See `Launcher`."""
        program = [sys.executable, "-P", "-m", "trainers.ray_ranks", str(folder)]
        run([*program, "--ranks", str(self.ranks)], folder, silence_s_max=self.silence_s_max)


def run(
    command: list[str],
    folder: Path,
    *,
    silence_s_max: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run what starts the ranks to its end; ended when nothing moves.

    Raises:
        TrainingFailed: it ended with an error, or nothing moved for ``silence_s_max``.
    """
    log = folder / "ranks.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(os.environ, trainer=os.getpid()),
        )
    try:
        code = watch(process, folder, silence_s_max=silence_s_max, clock=clock)
    finally:
        end(process)
    if code != 0:
        raise TrainingFailed(
            f"could not train: the ranks ended with exit_code={code} after up to "
            f"restarts={RESTARTS_MAX}. All they said is in {log}; it ends:\n{_tail(log)}"
        )


def torchrun_options(ranks: int, hosts: Hosts | None, restarts_max: int) -> list[str]:
    """Options of torchrun before the program."""
    common = [f"--nproc-per-node={ranks}", f"--max-restarts={restarts_max}"]
    if hosts is None:
        # A free port on the loopback interface: jobs beside each other do not meet.
        return [*common, "--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    return [
        *common,
        f"--nnodes={hosts.num}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={hosts.rendezvous}",
        f"--rdzv-id={hosts.run}",
        f"--local-addr={hosts.address}",
    ]


def environment(inherited: Mapping[str, str], *, trainer: int) -> dict[str, str]:
    """The environment of torchrun; the ranks end when process ``trainer`` is gone."""
    return {
        **inherited,
        TRAINER: str(trainer),
        # torch 2.13 shares the rendezvous' store with the ranks and does not tell attempts apart:
        # restarted ranks read the addresses of the dead ones and hang (pytorch issue 167288).
        # Remove this when a killed rank no longer does (tests/chaos/test_training_kills.py).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # One thread per rank, as `trainers.distributed` sets it; said here it saves a warning.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def watch(
    process: "subprocess.Popen[bytes]",
    folder: Path,
    *,
    silence_s_max: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Wait for ``process``; return its exit code.

    Raises:
        TrainingFailed: nothing moved in ``folder`` for ``silence_s_max``; it still runs.
    """
    seen, seen_at = _trace(folder), clock()
    while (code := process.poll()) is None:
        time.sleep(POLL_S)
        trace = _trace(folder)
        if trace != seen:
            seen, seen_at = trace, clock()
        elif clock() - seen_at > silence_s_max:
            raise TrainingFailed(
                f"could not train: no progress for {silence_s_max:.0f} s in {folder}; it was ended"
            )
    return code


def end(process: "subprocess.Popen[bytes]") -> None:
    """End torchrun and its ranks; harmless when it has ended.

    A rank that hangs or is stopped neither hears torchrun nor notices that it is gone
    (`end_with_parents`): it is killed.
    """
    if process.poll() is None:
        ranks = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.kill()


def end_with_parents() -> None:
    """End this process, a rank, when its torchrun or the trainer that started that is gone."""
    parent, trainer = os.getppid(), int(os.environ.get(TRAINER, "0"))

    def look() -> None:
        while os.getppid() == parent and (not trainer or _runs(trainer)):
            time.sleep(1.0)
        if os.getppid() == parent:
            os.kill(parent, signal.SIGTERM)  # else torchrun would start the ranks again
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="parents").start()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kubernetes_job(
    *, name: str, image: str, hosts: int, ranks: int, claim: str, folder: str
) -> str:
    """A job for ``kubectl apply -f -``, as JSON: one pod per host, and the name that they meet at.

    Args:
        name: Of the job; lower-case letters, digits and dashes.
        image: Container image with this release of Tidemill, python on its path.
        hosts: Pods.
        ranks: Processes in each.
        claim: Persistent volume claim that holds the folder, mounted in every pod.
        folder: The folder of the job below the root of that volume.
    """
    first = f"{name}-0.{name}"
    program = [
        "python",
        "-P",
        "-m",
        "torch.distributed.run",
        *torchrun_options(
            ranks,
            Hosts(num=hosts, rendezvous=f"{first}:{PORT}", address="$(POD_IP)", run=name),
            RESTARTS_MAX,
        ),
        "-m",
        "trainers.distributed",
        f"/tidemill/{folder}",
    ]
    variables = [
        {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"},
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    container = {
        "name": "ranks",
        "image": image,
        "command": program,
        "env": variables,
        "volumeMounts": [{"name": "jobs", "mountPath": "/tidemill"}],
    }
    pod = {
        "subdomain": name,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "jobs", "persistentVolumeClaim": {"claimName": claim}}],
    }
    labels = {"app.kubernetes.io/name": "tidemill", "job-name": name}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "tidemill"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": hosts,
            "parallelism": hosts,
            "backoffLimit": RESTARTS_MAX,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    whole = {"apiVersion": "v1", "kind": "List", "items": [_meeting_place(name), job]}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode()


def _meeting_place(name: str) -> dict[str, Any]:
    """A service without an address of its own: it gives the pods of a job their names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        # Pods must find each other before they are ready.
        "spec": {
            "clusterIP": "None",
            "selector": {"job-name": name},
            "publishNotReadyAddresses": True,
        },
    }


def _trace(folder: Path) -> tuple[object, ...]:
    """What changes while a job moves."""
    try:
        written = (folder / PROGRESS).stat().st_size
    except FileNotFoundError:
        written = 0
    return (written, *sorted(path.parent.name for path in folder.glob("checkpoints/*/.metadata")))


def _tail(path: Path, *, lines: int = LOG_LINES) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
