"""What the soak takes for growth."""

import numpy as np
import pytest

from tests.chaos.soak import Series

HOUR_S = 3600.0


def series(values, unit="MiB", hours=1.0) -> Series:
    at_s = np.linspace(0.0, hours * HOUR_S, len(values))
    return Series("x", unit, at_s.tolist(), np.asarray(values, float).tolist())


def noisy(number: int, *, slope: float = 0.0, mean: float = 300.0) -> np.ndarray:
    """Memory as it is: steps that stay for a while, and noise on them."""
    dice = np.random.default_rng(number)
    steps = np.repeat(dice.normal(0.0, 2.0, 72), 10)
    return mean + steps + dice.normal(0.0, 0.5, 720) + slope * np.linspace(0.0, 1.0, 720)


def test_what_stays_is_not_taken_for_growth():
    """Of 200 flat series with steps in them at most a few; a constant one never."""
    assert sum(series(noisy(n)).grows for n in range(200)) <= 8
    assert not series(np.full(720, 300.0)).grows


@pytest.mark.parametrize("slope", [12.0, 30.0])
def test_a_leak_is_found(slope):
    """4 % an hour of 300 MiB, and more."""
    assert sum(series(noisy(n, slope=slope)).grows for n in range(100)) >= 95


def test_a_warm_up_is_not_growth_and_a_shrinking_one_neither():
    """What comes before the last 60 % may rise as it likes."""
    values = noisy(3)
    values[:280] -= np.linspace(200.0, 0.0, 280)
    assert not series(values).grows
    assert not series(noisy(4, slope=-30.0)).grows


def test_a_step_that_stays_is_not_growth_and_steps_that_go_on_are():
    """An allocator takes 3 MiB near the end and keeps them; or a little with every version."""
    once, often = np.full(720, 152.0), 152.0 + 1.5 * np.floor(np.linspace(0.0, 6.0, 720))
    once[610:] += 3.0
    assert not series(once).grows
    assert series(often).grows


@pytest.mark.parametrize("mean", [80.0, 400.0])
def test_one_piece_of_an_allocator_is_not_growth_and_longer_runs_see_less(mean):
    """A hundredth of a small process is less than the piece in which memory comes."""
    for at in range(300, 720, 30):
        piece = np.full(720, mean)
        piece[at:] += 2.0
        assert not series(piece, hours=1.25).grows, at
    leak = np.linspace(0.0, 6.0, 720)  # 5 MiB an hour, and in ten hours as much an hour
    assert not series(mean + leak, hours=1.25).grows
    assert series(mean + 8 * leak, hours=10.0).grows


@pytest.mark.parametrize(("unit", "leak"), [("files", 7.0), ("threads", 14.0)])
def test_one_or_two_more_are_not_growth_but_one_more_with_every_version_is(unit, leak):
    """By its share of so few, two steps of one would be growth."""
    steps, leaky = np.full(720, 40.0), 40.0 + np.floor(np.linspace(0.0, leak, 720))
    steps[430:] += 1
    steps[570:] += 1
    assert series(steps, "anything", hours=1.25).grows
    assert not series(steps, unit, hours=1.25).grows
    assert series(leaky, unit, hours=1.25).grows
