"""The gate: a worse model is stopped, a better one is not, and the numbers are right."""

from typing import Any

import numpy as np
import pytest
import torch

from models.engine import Loaded
from models.features import Encoder
from schemas.features import FeatureSpec, split
from schemas.manifest import Manifest
from schemas.pipeline import category, numeric
from schemas.topics import DAY_MS
from schemas.training import Gate, Verdict
from tests.unit.training_jobs import FEATURES, history
from trainers.gate import calibration_error, interval, judge

NUMERIC, CATEGORY = split(FEATURES)
SPEC = FeatureSpec(numeric=NUMERIC, category=CATEGORY, vocabularies=(("A", "B"),))
JUDGED = history(rows=4000, seed=5)


class Truth(torch.nn.Module):
    """Knows the machines, but turns the log-odds of some: ``how`` is applied to them."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self._how = how

    def forward(self, numeric_BF: torch.Tensor, category_BC: torch.Tensor) -> torch.Tensor:
        side_B = torch.where(category_BC[:, 0] == 1, 1.0, -1.0)
        return torch.sigmoid(self._how(3.0 * numeric_BF[:, 0] * side_B, category_BC[:, 0]))


def loaded(how: Any, version: str = "a" * 12) -> Loaded:
    return Loaded(
        version=version, epoch=0, trained_at_ms=0, module=Truth(how), encode=Encoder(SPEC)
    )


def verdict(how: Any, champion: Any = None, **more: Any) -> Verdict:
    manifest = Manifest(
        pipeline="machines",
        architecture="a",
        parameters={},
        features=SPEC,
        weights_sha256="",
        trained_at_ms=0,
        seed=0,
    )
    arguments: dict[str, Any] = {
        "judged": JUDGED,
        "features": FEATURES,
        "gate": Gate(),
        "digest": "d",
        "base_rate": 0.5,
        "size_bytes": 1000,
        "seed": 1,
        "now_ms": 7,
    } | more
    serving = None if champion is None else loaded(champion, "b" * 12)
    return judge(loaded(how), manifest, serving, **arguments)


def failed(found: Verdict) -> set[str]:
    return {check.name for check in found.checks if not check.passed}


def right(odds: torch.Tensor, _word: torch.Tensor) -> torch.Tensor:
    return odds


def test_the_same_model_passes_and_every_check_has_its_numbers() -> None:
    """No better and no worse: a monthly retraining may replace it."""
    found = verdict(right, right)
    assert failed(found) == set()
    assert found.passed
    assert found.champion == "b" * 12
    assert found.rows == 4000
    assert found.event_time_ms_last < 20 * DAY_MS
    assert [check.name for check in found.checks] == [
        "signature", "features", "rows", "size_bytes", "skill", "loss_excess", "errors_excess",
        "slices", "calibration_error", "latency_ms",
    ]  # fmt: skip


def test_a_model_that_knows_nothing_is_stopped_with_and_without_a_champion() -> None:
    """What labels that were shuffled would teach: the base rate."""
    guess = verdict(lambda odds, _word: odds * 0.0, right)
    assert failed(guess) >= {"skill", "loss_excess", "errors_excess"}
    assert "loss_excess" in guess.reason
    assert failed(verdict(lambda odds, _word: odds * 0.0)) == {"skill"}


def test_one_group_must_not_pay_for_the_others() -> None:
    """Better on the whole, ruinous for plant B: the slice says no."""

    def champion(odds: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
        return torch.where(word == 1, odds * 0.0, odds)

    def challenger(odds: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
        return torch.where(word == 2, odds * 0.5, odds)

    found = verdict(challenger, champion)
    assert failed(found) == {"slices"}
    assert "plant=B" in found.reason


def test_confidence_that_does_not_come_true_is_stopped() -> None:
    """Twice the log-odds: the same order of rows and the same decisions, but too sure."""
    found = verdict(lambda odds, _word: odds * 4.0, None)
    assert "calibration_error" in failed(found)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"size_bytes": 2 << 30}, "size_bytes"),
        ({"judged": JUDGED.slice(0, 300)}, "rows"),
        ({"features": (numeric("heat", missing=0.0), category("plant"))}, "features"),
    ],
)
def test_what_cannot_be_served_is_not_even_compared(more: dict[str, Any], name: str) -> None:
    """Size, rows and the declaration of the features."""
    found = verdict(right, right, **more)
    assert failed(found) == {name}
    assert not found.passed


def test_latency_is_that_of_the_serving_code() -> None:
    """A clock that jumps a second with every look: each call took one."""
    ticks = iter(range(1000))
    found = verdict(right, clock=lambda: float(next(ticks)))
    assert failed(found) == {"latency_ms"}
    assert next(c.value for c in found.checks if c.name == "latency_ms") == 1000.0


def test_interval_and_calibration_by_hand() -> None:
    """Differences that are all one number have an interval of no width; 0.2 against a quarter."""
    assert interval(np.full(100, 0.25), confidence=0.95, seed=0) == (0.25, 0.25)
    low, high = interval(np.random.default_rng(0).normal(size=10_000), confidence=0.95, seed=0)
    assert low == pytest.approx(-0.02, abs=0.012)
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.1)
    labels = np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(np.full(4, 0.2), labels) == pytest.approx(0.05)
