"""Jobs of retraining, seen from outside: made, followed and finished; the training itself is a
child process that knows neither Kafka nor the store.

    <home>/jobs/<run>/     everything about one run, and enough to finish it after a crash
"""

import fcntl
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from schemas.errors import SetupError, StoreUnavailable
from schemas.manifest import Announcement
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.training import (
    JOB,
    PROGRESS,
    RESULT,
    ROWS,
    SOURCE,
    Progress,
    RunResult,
    TrainingJob,
)
from streams.control.audit import note
from streams.local.child import ChildProcess
from streams.store.client import Client
from streams.store.runs import insert_decision, insert_progress, of_verdict
from streams.store.training_set import LABELS_MIN, offsets_of, write_set
from streams.telemetry import Reporter

POLL_S = 0.2
LOG_LINES = 15
TRAINER = "trainers.retrain"
"""What brings a training to its end; its options follow."""


def jobs_folder(settings: Settings) -> Path:
    """Where the jobs of a home lie."""
    return settings.home.absolute() / "jobs"


def name_run(pipeline: str, *, now_ms: int, token: str) -> str:
    """A name that sorts by time: ``flights-20261125T224422-9f1c``."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"{pipeline}-{moment:%Y%m%dT%H%M%S}-{token}"


def new_job(
    settings: Settings,
    pipeline: Pipeline,
    reference: str,
    champion: Announcement | None,
    *,
    now_ms: int,
) -> TrainingJob:
    """A job with everything as it is by default, to be compared with what serves now."""
    return TrainingJob(
        run=name_run(pipeline.name, now_ms=now_ms, token=new_token()),
        pipeline=pipeline.name,
        reference=reference,
        registry=settings.registry_root,
        champion="" if champion is None else champion.version,
        champion_digest="" if champion is None else champion.digest,
    )


def write_rows(
    client: Client | None,
    pipeline: Pipeline,
    folder: Path,
    source: Literal["auto", "examples", "history"],
    job: TrainingJob,
) -> None:
    """Put the rows of ``job`` into its folder, if they are to come out of the store.

    ``auto``: examples, once there are `LABELS_MIN` of them or if there is no history.

    Raises:
        StoreUnavailable: the store does not answer.
        SetupError: examples are wanted, and there are none that can be used.
    """
    if source == "history":
        return
    if client is None:
        if source == "examples":
            raise SetupError("could not train from examples: no store is known here.")
        return
    if source == "auto" and pipeline.history is not None:
        _offsets, labels = offsets_of(client, pipeline)
        if labels < LABELS_MIN:
            return
    found = write_set(client, pipeline, folder / ROWS, as_of_ms=job.as_of_ms, days=job.days)
    (folder / SOURCE).write_bytes(msgspec.json.encode(found))


def write_job(settings: Settings, job: TrainingJob) -> Path:
    """Make the folder of a job; return it."""
    folder = jobs_folder(settings) / job.run
    folder.mkdir(parents=True)
    (folder / JOB).write_bytes(msgspec.json.format(msgspec.json.encode(job), indent=2))
    return folder


@contextmanager
def only_training(settings: Settings, pipeline: str) -> Iterator[None]:
    """Held while a job of ``pipeline`` runs: never two at once. The kernel lets go of it however
    the process ends.

    Raises:
        SetupError: one runs.
    """
    path = jobs_folder(settings) / f"{pipeline}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise SetupError(
                f"could not train {pipeline}: a training of it already runs on this home. "
                "`tidemill status` shows how far it is."
            ) from cause
        yield
    finally:
        os.close(fd)


def run_job(
    settings: Settings,
    folder: Path,
    *,
    client: Client | None,
    show: Callable[[Progress], None],
    program: Sequence[str] = (TRAINER,),
) -> RunResult:
    """Bring the job in ``folder`` to its end and return how it ended.

    Every line of progress goes to ``show``, to the report that `tidemill status` reads and, with a
    ``client``, to the table ``runs``; what the gate says goes to ``decisions``. A store that does
    not answer costs rows, never the training.
    """
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=TrainingJob)
    (folder / RESULT).unlink(missing_ok=True)
    reporter = Reporter(
        folder=settings.run_folder,
        name=f"{job.pipeline}-train",
        role="train",
        pipeline=job.pipeline,
        state="running",
    )
    follower = Follower(folder, client, show, reporter)
    child = ChildProcess(
        [sys.executable, "-P", "-m", *program, str(folder)],
        log=folder / "job.log",
        env={**os.environ, **settings.environment()},
    )
    try:
        while child.exit_code() is None:
            follower.follow()
            time.sleep(POLL_S)
        follower.follow()
    finally:
        child.stop(grace_s=10.0)
        reporter.remove()
    try:
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=RunResult)
    except FileNotFoundError:
        result = RunResult(
            run=job.run,
            error=f"the training ended with exit_code={child.exit_code()}; its log ends:\n"
            f"{child.log_tail(LOG_LINES)}",
        )
    verdict = result.verdict
    if verdict is not None and client is not None:
        follower.tried(lambda: insert_decision(client, of_verdict(verdict)))
    if result.version:
        note(
            settings,
            action="register version",
            subject=f"{job.pipeline}/{result.version}",
            at_ms=time.time_ns() // 1_000_000,
            after={"run": job.run, "passed": verdict is not None and verdict.passed},
        )
    return result


class Follower:
    """Reads the progress of a run while it is written, and passes it on."""

    def __init__(
        self,
        folder: Path,
        client: Client | None,
        show: Callable[[Progress], None],
        reporter: Reporter,
    ) -> None:
        self._path = folder / PROGRESS
        self._client = client
        self._show = show
        self._reporter = reporter
        self._read = self._path.stat().st_size if self._path.exists() else 0
        self._waiting: list[Progress] = []

    def follow(self) -> None:
        """Pass on what is new."""
        lines = self._new()
        for line in lines:
            self._show(line)
            self._reporter.detail = in_words(line)
            self._reporter.counters["epoch"] = line.epoch
            self._reporter.counters["step"] = line.step
        self._reporter.write()
        self._waiting += lines
        client, waiting = self._client, self._waiting
        if client is not None and waiting:
            self.tried(lambda: insert_progress(client, waiting))

    def tried(self, insert: Callable[[], None]) -> None:
        """Insert; what the store does not take now stays waiting."""
        try:
            insert()
        except StoreUnavailable:
            return
        self._waiting = []

    def _new(self) -> Sequence[Progress]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [msgspec.json.decode(line, type=Progress) for line in whole.splitlines()]


def in_words(line: Progress) -> str:
    """One line of progress, for a person."""
    if line.state != "training":
        return f"{line.state}: {line.detail}"
    said = f"epoch {line.epoch + 1} of at most {line.epochs_max}"
    if line.training_loss is not None:
        said += f", loss {line.training_loss:.4f}"
    if line.validation_loss is not None:
        said += f", best validation {line.validation_loss:.4f}"
    if line.examples_per_s is not None:
        said += f", {line.examples_per_s:,.0f} examples/s"
    if line.seconds_left is not None:
        said += f", at most {line.seconds_left:.0f} s left"
    return said if not line.attempt else f"{said}, attempt {line.attempt + 1}"


def new_token() -> str:
    """Four random hexadecimal digits, to tell apart what begins in the same second."""
    return secrets.token_hex(2)
