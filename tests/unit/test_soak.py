"""What the soak takes for growth."""

import numpy as np
import pytest

from tests.chaos.soak import Series

HOUR_S = 3600.0


def series(values) -> Series:
    at_s = np.linspace(0.0, HOUR_S, len(values))
    return Series("x", "MiB", at_s.tolist(), np.asarray(values, float).tolist())


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
    """The first quarter may rise as it likes."""
    values = noisy(3)
    values[:150] -= np.linspace(200.0, 0.0, 150)
    assert not series(values).grows
    assert not series(noisy(4, slope=-30.0)).grows
