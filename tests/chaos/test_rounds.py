"""A short round of everything at once; `make chaos ROUNDS=5 SEED=7` is the long form."""

import os
import subprocess
import sys
import time

import pytest

from tests.chaos.rounds.clock import ShiftedClock, compiler
from tests.chaos.rounds.running import run_round
from tests.chaos.rounds.schedule import OF_ONE_BROKER, OF_THREE_BROKERS, drawn
from tests.chaos.rounds.world import impossible

SHORT_STEPS = 2
RATE = 250.0


def test_a_seed_draws_the_same_schedule_again_and_leaves_no_fault_out():
    """A failure can be repeated; over five rounds each fault comes up, and a kill of every role."""
    rounds = [drawn(7, n, steps=16, without=frozenset()) for n in range(5)]
    assert rounds == [drawn(7, n, steps=16, without=frozenset()) for n in range(5)]
    assert rounds != [drawn(8, n, steps=16, without=frozenset()) for n in range(5)]
    faults = {step.fault for schedule in rounds for step in schedule.steps}
    assert len(faults) == 1 + 5 + 6 + 5 + 3 + 1, faults
    assert {r.brokers for r in rounds if {s.fault for s in r.steps} & set(OF_ONE_BROKER)} == {1}
    assert {r.brokers for r in rounds if {s.fault for s in r.steps} & set(OF_THREE_BROKERS)} == {3}
    killed = {v.split("-")[0] for r in rounds for s in r.steps for v in s.victims}
    assert killed == {"score", "land", "join", "learn", "deliver"}


@pytest.mark.skipif(compiler() is None or sys.platform != "linux", reason="no C compiler")
def test_a_jumping_clock_leaves_waits_alone(tmp_path):
    """Only the calendar jumps: sleeps, waits with a limit and the monotonic clock go on."""
    clock = ShiftedClock(tmp_path)
    program = (
        "import datetime, queue, time\n"
        "print('ready', flush=True); input()\n"
        "shift_s, began_s = time.time() - float(input()), time.monotonic()\n"
        "assert abs(shift_s - 3600) < 60 > abs(datetime.datetime.now().timestamp() - time.time())\n"
        "time.sleep(0.1)\n"
        "try: queue.Queue().get(timeout=0.1)\n"
        "except queue.Empty: pass\n"
        "assert 0.2 <= time.monotonic() - began_s < 30\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, **clock.variables},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    clock.jump(3600)
    child.communicate(f"\n{time.time()}\n", timeout=60)
    assert child.returncode == 0


@pytest.mark.timeout(600)
def test_a_short_round_is_exact(tmp_path, seed):
    """
    Goal: whatever dies, every event is one prediction and one row, every label is accounted for, and
    the learner knows bit by bit what a clean replay of its examples knows.

    Method: real servers and all workers; faults drawn from ``--seed``; good, broken, repeated, late
    and corrected records meanwhile.
    """
    schedule = drawn(seed, 0, steps=SHORT_STEPS, without=impossible())
    result = run_round(tmp_path, schedule, rate=RATE, say=print)
    print(result.summary, result.outcomes)
    assert result.exact, (schedule, result.summary)
    assert result.verdict.books.events > RATE
    assert result.verdict.books.dead_letters > 0
    assert result.verdict.rows_learned > 0
