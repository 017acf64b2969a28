"""Gives a target its inputs in a process of its own: also one that ends it, or never comes back, is
found and named."""

import logging
import multiprocessing as mp
import resource
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from queue import Empty
from typing import Any

import structlog

from tests.fuzz.target import Inputs
from tests.fuzz.targets import TARGETS

INPUT_S_MAX = 2.0
"""Of processor time, for one input. Whatever takes longer stops a partition or a server for as long."""
HANG_S_MAX = 60.0
"""Without an answer; then the process is ended."""
MEMORY_BYTES_MAX = 8 << 30
STEP_S = 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round found: nothing if ``problem`` is empty.

    Attributes:
        inputs: How many the target was given.
        slowest_s: Of processor time for one of them.
        number: The input with the problem; ``python -m tests.fuzz --target NAME --seed SEED --only
            NUMBER`` gives it again.
    """

    target: str
    seed: int
    inputs: int
    seconds: float
    slowest_s: float = 0.0
    number: int = -1
    problem: str = ""

    def __str__(self) -> str:
        if not self.problem:
            return (
                f"{self.target:15} {self.inputs:9,} inputs {self.inputs / self.seconds:8,.0f}/s  "
                f"slowest {self.slowest_s * 1e3:7.1f} ms  nothing found"
            )
        return (
            f"{self.target:15} input {self.number}: {self.problem}\n"
            f"  again: python -m tests.fuzz --target {self.target} --seed {self.seed} "
            f"--only {self.number}"
        )


def try_inputs(name: str, *, seed: int, first: int, count: int, at: Any = None) -> Outcome:
    """Check inputs here, in this process, until one has a problem."""
    _be_quiet()
    inputs, check = Inputs(TARGETS[name], seed), TARGETS[name].check
    began, slowest_s = time.perf_counter(), 0.0
    for number in range(first, first + count):
        if at is not None:
            at.value = number
        content = inputs[number]
        started_s = time.process_time()
        problem = ""
        try:
            check(content)
        except Exception:  # whatever comes out of a door is a finding
            problem = traceback.format_exc(limit=-6)
        taken_s = time.process_time() - started_s
        slowest_s = max(slowest_s, taken_s)
        if taken_s > INPUT_S_MAX:
            problem = f"took {taken_s:.1f} s for {len(content)} bytes {content[:60]!r}"
        if problem:
            done = number - first
            return Outcome(
                name, seed, done, time.perf_counter() - began, slowest_s, number, problem
            )
    return Outcome(name, seed, count, time.perf_counter() - began, slowest_s)


def try_apart(
    name: str,
    *,
    seed: int,
    first: int,
    count: int,
    progress: Callable[[int], object] = lambda _: None,
) -> Outcome:
    """The same in a child: a crash or an endless loop ends only that.

    ``progress`` is told the number of the input in work, some times a second.
    """
    context = mp.get_context("fork")
    at: Synchronized[int] = context.Value("q", first)
    answers: Any = context.Queue()
    child = context.Process(
        target=_child, args=(answers, at, name, seed, first, count), daemon=True
    )
    began = changed = time.monotonic()
    child.start()
    seen = -1
    while True:
        try:
            found: Outcome = answers.get(timeout=STEP_S)
        except Empty:
            now = time.monotonic()
            progress(at.value)
            if at.value != seen:
                seen, changed = at.value, now
            hangs = now - changed > HANG_S_MAX
            if child.is_alive() and not hangs:
                continue
            child.kill()
            child.join()
            why = f"no answer in {HANG_S_MAX:g} s" if hangs else f"ended it: code {child.exitcode}"
            return Outcome(name, seed, seen - first, now - began, 0.0, at.value, why)
        child.join()
        return found


def _child(answers: Any, at: Any, name: str, seed: int, first: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers.put(try_inputs(name, seed=seed, first=first, count=count, at=at))


def _be_quiet() -> None:
    """Each refused record is a line in a log or a warning of a library, and there are millions."""
    warnings.simplefilter("ignore")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
