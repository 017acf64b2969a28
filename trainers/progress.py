"""How far a run is: lines of JSON in the folder of its job, for terminals, `status` and SQL."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from schemas.training import PROGRESS, Progress, State, TrainingJob

LINE_S_MIN = 0.5
"""Lines are at least so far apart, except where the state changes."""


class ProgressLog:
    """Appends lines; one process at a time writes.

    Args of the constructor:
        job: The run.
        folder: Of the job.
        clock: Seconds that never go back.
        now_ms: Unix epoch, milliseconds.
        facts: Fields of every line.
    """

    def __init__(
        self,
        job: TrainingJob,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        **facts: Any,
    ) -> None:
        self._job = job
        self._path = folder / PROGRESS
        self._clock = clock
        self._now_ms = now_ms
        self._facts = facts
        self._written_at = -LINE_S_MIN
        self._counted_at = clock()
        self._rows = 0
        self._cpu_s: float | None = None
        self._gradients: list[float] = []
        self._gradient_norm: float | None = None

    def say(self, state: State, detail: str = "", **facts: Any) -> None:
        """Write a line now."""
        line = Progress(
            run=self._job.run,
            pipeline=self._job.pipeline,
            at_ms=self._now_ms(),
            state=state,
            detail=detail,
            **{**self._facts, **facts},
        )
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
        self._written_at = self._clock()

    def step(
        self,
        *,
        rows: int,
        steps_left: int,
        cpu_s: float,
        memory_bytes: float,
        gradient_norm: float | None = None,
        **facts: Any,
    ) -> None:
        """Count ``rows`` of one step; write a line if one is due.

        ``cpu_s`` is the processor time of all ranks since their start. Where no step since the last
        line had a ``gradient_norm``, the line repeats the one before.
        """
        self._rows += rows
        if gradient_norm is not None:
            self._gradients.append(gradient_norm)
        now = self._clock()
        if now - self._written_at < LINE_S_MIN:
            self._cpu_s = cpu_s if self._cpu_s is None else self._cpu_s
            return
        took_s = max(now - self._counted_at, 1e-9)
        rate = self._rows / took_s
        left = steps_left * rows / rate if rate else None
        cores = None if self._cpu_s is None else max(0.0, cpu_s - self._cpu_s) / took_s
        if self._gradients:
            self._gradient_norm = sum(self._gradients) / len(self._gradients)
        self._counted_at, self._rows, self._cpu_s, self._gradients = now, 0, cpu_s, []
        self.say(
            "training",
            examples_per_s=rate,
            seconds_left=left,
            gradient_norm=self._gradient_norm,
            cpu_cores=cores,
            memory_bytes=int(memory_bytes),
            **facts,
        )


def attempt() -> int:
    """How often torchrun has started the ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
