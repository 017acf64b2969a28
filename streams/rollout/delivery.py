"""The slow loop of one pipeline, unattended: triggers, training, gate, rollout, verdict.

    every few seconds:
        a version is tried           -> a judge runs until it stays or goes
        a rule of `retraining` is due -> train, ask the gate, try what passed

The work is done by other programs, so that this one stays small and what they hold ends with them:
`trainers.retrain`, `tidemill models try` and `tidemill models judge`. It may be killed at any
moment. A training that it began lies in a folder with the decision that asked for it; whoever
starts next goes on from its last checkpoint, and a version that passed but was not tried yet is
tried then. So no job is lost and none runs twice.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from schemas.errors import KafkaUnavailable, SetupError, StoreUnavailable
from schemas.manifest import Announcement
from schemas.pipeline import Pipeline
from schemas.retraining import Retraining
from schemas.settings import Settings
from schemas.training import RESULT, Progress, RunResult
from streams.control.announce import champion
from streams.local.child import ChildProcess
from streams.local.restarts import Restarts
from streams.rollout.facts import read_facts
from streams.rollout.retraining import (
    TRAINER,
    in_words,
    jobs_folder,
    new_job,
    only_training,
    run_job,
    write_job,
    write_rows,
)
from streams.rollout.triggers import Due, Facts, decide
from streams.store.client import Client, connect
from streams.store.runs import Decision, insert_decision
from streams.telemetry import Reporter

log = structlog.get_logger()

POLL_S = 5.0
"""Between two looks. What they ask costs the store and the broker some milliseconds."""
MEANWHILE_S = 1.0
STOP_S = 10.0
TRY_S_MAX = 180.0
TRIGGER = "trigger.json"
"""In the folder of a job that a rule asked for: the decision."""
TRIED = "tried"
"""In the same folder: what passed has been tried, or nothing passed."""


class Delivery:
    """Watches one pipeline; `run` returns only when ``stopped`` says so.

    Args of the constructor:
        reference: How to load the pipeline: its name, or the path of its file.
        ranks: Processes of one training.
        clock: Unix seconds.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        reference: str,
        settings: Settings,
        reporter: Reporter,
        *,
        ranks: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._reference = reference
        self._settings = settings
        self._reporter = reporter
        self._ranks = ranks
        self._clock = clock
        self._client: Client | None = None
        self._judge: ChildProcess | None = None
        self._judge_restarts = Restarts(0.0)
        self._code = ""

    def run(self, stopped: Callable[[], bool]) -> None:
        """Look, act, rest, again and again. What does not answer now is asked again."""
        try:
            while not stopped():
                try:
                    self.look()
                except (KafkaUnavailable, StoreUnavailable, SetupError) as error:
                    self._client = None
                    self._reporter.change("waiting", str(error))
                    log.warning("could not look", error=str(error))
                self._rest(POLL_S, stopped)
        finally:
            if self._judge is not None:
                self._judge.stop(grace_s=STOP_S)

    def look(self) -> None:
        """Once: see to the judge, finish what was begun, and train if a rule is due.

        Raises:
            KafkaUnavailable, StoreUnavailable, SetupError: ask again later.
        """
        announced = asyncio.run(champion(self._settings, self._pipeline.name))
        self._see_to_judge(announced)
        if announced is None:
            self._say("no version serves yet")
            return
        self._finish()
        declared = self._pipeline.retraining
        if declared is None:
            tried = announced.challenger
            words = f"judging {tried.version}" if tried else "nothing is tried"
            self._say(f"{words}; no retraining is declared")
            return
        due = decide(declared, self._facts(declared, announced))
        self._say(due.reason)
        if due.train:
            self._train(declared, announced, due)
        elif due.code != self._code:
            self._record(self._decision(announced, due))
        self._code = due.code

    # -- rollouts

    def _see_to_judge(self, announced: Announcement | None) -> None:
        """A judge runs while a version is tried, and is started again if it ends before."""
        now_s = time.monotonic()
        if self._judge is not None and self._judge.exit_code() is not None:
            log.info("judge ended", exit_code=self._judge.exit_code())
            self._judge = None
            self._judge_restarts.ended(now_s)
        tried = announced is not None and announced.challenger is not None
        due_s = self._judge_restarts.due_s
        if tried and self._judge is None and (due_s is None or now_s >= due_s):
            self._judge = self._child("models", "judge", self._reference, "--once", name="judge")
            self._judge_restarts.started(now_s)

    def _child(self, *arguments: str, name: str) -> ChildProcess:
        return ChildProcess(
            [sys.executable, "-P", "-m", "streams.cli.main", *arguments],
            log=self._settings.home.absolute() / "logs" / f"{self._pipeline.name}-{name}.log",
            env={**os.environ, **self._settings.environment()},
        )

    # -- trainings

    def _train(self, declared: Retraining, announced: Announcement, due: Due) -> None:
        """Write down what is to be done and why, then do it."""
        job = msgspec.structs.replace(
            new_job(
                self._settings, self._pipeline, self._reference, announced, now_ms=self._now_ms()
            ),
            days=declared.days,
            start=declared.start,
        )
        decision = self._decision(announced, due, run=job.run)
        with only_training(self._settings, self._pipeline.name):
            folder = write_job(self._settings, job)
            try:
                write_rows(self._client, self._pipeline, folder, "auto", job)
            except SetupError:
                shutil.rmtree(folder)
                raise
            (folder / TRIGGER).write_bytes(msgspec.json.encode(decision))  # from here on it counts
        log.info("training begins", run=job.run, why=due.reason)
        self._finish()

    def _finish(self) -> None:
        """Bring every job that a rule asked for to its end, and try what passed."""
        for file in sorted(jobs_folder(self._settings).glob(f"{self._pipeline.name}-*/{TRIGGER}")):
            folder = file.parent
            if (folder / TRIED).exists():
                continue
            decision = msgspec.json.decode(file.read_bytes(), type=Decision)
            self._record(decision)  # the same row, however often
            result = self._trained(folder)
            self._try(folder, result, decision.reason)

    def _trained(self, folder: Path) -> RunResult:
        """The end of a job, run now if it has none."""
        try:
            return msgspec.json.decode((folder / RESULT).read_bytes(), type=RunResult)
        except FileNotFoundError:
            pass
        with only_training(self._settings, self._pipeline.name):
            return run_job(
                self._settings,
                folder,
                client=self._client,
                show=self._show,
                program=(TRAINER, "--ranks", str(self._ranks)),
            )

    def _show(self, line: Progress) -> None:
        self._say(f"training {line.run}: {in_words(line)}")

    def _try(self, folder: Path, result: RunResult, why: str) -> None:
        """Begin the rollout of what passed. The gate has the word: what it refused is not tried."""
        passed = result.verdict is not None and result.verdict.passed
        if passed:
            announced = asyncio.run(champion(self._settings, self._pipeline.name))
            if announced is not None and announced.held:
                return  # a person keeps everything as it is; when it is released, this is tried
            child = self._child(
                "models", "try", self._reference, result.version, "--reason", why, name="try"
            )
            deadline = time.monotonic() + TRY_S_MAX
            while child.exit_code() is None and time.monotonic() < deadline:
                self._rest(MEANWHILE_S, lambda: False)
            if child.exit_code() != 0:
                child.stop(grace_s=STOP_S)
                log.warning("not tried", version=result.version, why=child.log_tail(3))
        outcome = "failed" if result.verdict is None else "passed" if passed else "refused"
        self._reporter.counters[f"trainings_{outcome}"] += 1
        log.info("training ended", run=result.run, version=result.version, passed=passed)
        (folder / TRIED).touch()

    def _facts(self, declared: Retraining, announced: Announcement) -> Facts:
        if self._client is None:
            self._client = connect(self._settings)
        challenger = announced.challenger
        return read_facts(
            self._client,
            self._pipeline,
            declared,
            champion=announced.version,
            announced_ms=announced.announced_at_ms,
            rollout="" if challenger is None else challenger.version,
            held=announced.held,
            now_ms=self._now_ms(),
        )

    def _decision(self, announced: Announcement, due: Due, *, run: str = "") -> Decision:
        return Decision(
            pipeline=self._pipeline.name,
            at_ms=self._now_ms(),
            kind="trigger",
            decision="train" if due.train else "wait",
            champion=announced.version,
            reason=due.reason,
            numbers={"run": run, **due.numbers},
        )

    def _record(self, decision: Decision) -> None:
        if self._client is None:
            self._client = connect(self._settings)
        insert_decision(self._client, decision)

    def _say(self, words: str) -> None:
        """What it is doing, for `tidemill status`; the log gets a line when it begins to run."""
        if self._reporter.state != "running":
            self._reporter.change("running", words)
        self._reporter.detail = words
        self._reporter.write()

    def _rest(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Sleep, but report once a second, and wake up to stop."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not stopped():
            self._reporter.write()
            time.sleep(min(MEANWHILE_S, left))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
