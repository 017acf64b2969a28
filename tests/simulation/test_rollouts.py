"""Rollouts by the hundred: the budget of wrong decisions holds, and right ones are made."""

import numpy as np
import pytest

from models import rollout
from models.judge import JudgePolicy, RolloutJudge
from models.sequential import Evidence
from schemas.manifest import Announcement, NamedVersion

ROLLOUTS = 200
POLICY = JudgePolicy(step_rows=1_000, rows_max=20_000)
CHAMPION, CHALLENGER = (NamedVersion(version=c * 12, digest=c * 64) for c in "ab")


def begun() -> Announcement:
    return rollout.try_out(rollout.promote(None, "p", CHAMPION, at_ms=0), CHALLENGER, at_ms=1)


def simulate(seed: int, *, champion_noise: float, challenger_noise: float, shuffled: bool = False,
             failing: float = 0.0) -> tuple[str, str, int]:  # fmt: skip
    """How a rollout ends when nobody watches: the last action, why, and after how many rows."""
    rng = np.random.default_rng(seed)
    judge, announced, rows = RolloutJudge(POLICY), begun(), 0
    while True:
        logit = rng.normal(-1.0, 1.5, 250)
        labels = (rng.random(250) < _chance(logit)).astype(np.float64)
        champion = _chance(logit + rng.normal(0.0, champion_noise, 250))
        challenger = _chance(logit + rng.normal(0.0, challenger_noise, 250))
        if shuffled:
            challenger = rng.permutation(challenger)
        judge.observe(labels, champion, challenger)
        if announced.stage == "canary":
            judge.observe_answers(rng.random(250 * announced.share // 100) < failing)
        rows += 250
        opinion = judge.decide(announced)
        if opinion.step == "widen":
            announced = rollout.widen(announced, at_ms=rows)
        elif opinion.step != "wait":
            return opinion.step, opinion.reason, rows


def _chance(logit: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logit))


def test_without_a_difference_wrong_decisions_stay_within_the_budget() -> None:
    """Goal: of 200 rollouts at most 5 percent end in a promotion, and 5 percent in an alarm."""
    ends = [simulate(seed, champion_noise=0.5, challenger_noise=0.5) for seed in range(ROLLOUTS)]
    promoted = sum(step == "promote" for step, _, _ in ends)
    alarms = sum(step == "rollback" and "beyond doubt" in why for step, why, _ in ends)
    assert promoted <= POLICY.wrong_promotion_max * ROLLOUTS
    assert alarms <= POLICY.wrong_rollback_max * ROLLOUTS
    assert all("no difference" in why for step, why, _ in ends if step == "rollback") or alarms


@pytest.mark.parametrize("seed", range(20))
def test_a_challenger_that_learned_shuffled_labels_is_rolled_back(seed: int) -> None:
    """Goal: while it is still a shadow, or has one percent of the keys."""
    step, why, rows = simulate(seed, champion_noise=0.5, challenger_noise=0.5, shuffled=True)
    assert (step, rows <= 2_000) == ("rollback", True)
    assert "log-loss is higher" in why


@pytest.mark.parametrize("seed", range(20))
def test_a_better_challenger_becomes_champion_unattended(seed: int) -> None:
    """Goal: by all steps, none left out."""
    step, why, rows = simulate(seed, champion_noise=1.5, challenger_noise=0.1)
    assert step == "promote", why
    assert rows >= 4 * POLICY.step_rows


@pytest.mark.parametrize("seed", range(5))
def test_a_canary_that_fails_is_rolled_back_though_its_answers_are_good(seed: int) -> None:
    """Goal: errors count, not the loss alone. At 10 percent there are enough rows to say so."""
    step, why, _ = simulate(seed, champion_noise=1.5, challenger_noise=0.1, failing=0.3)
    assert step == "rollback", why
    assert "leaves too many" in why


def test_what_is_held_waits() -> None:
    """A person's word counts more than any number."""
    judge = RolloutJudge(POLICY)
    labels = np.zeros(5_000)
    judge.observe(labels, labels + 0.01, labels + 0.99)
    assert judge.decide(begun()).step == "rollback"
    opinion = judge.decide(rollout.hold(begun(), at_ms=2))
    assert (opinion.step, "otherwise rollback" in opinion.reason) == ("wait", True)


def test_scores_that_shift_are_rolled_back_without_a_loss() -> None:
    """Labels may say nothing about a model that suddenly answers 0.2 higher."""
    judge, rng = RolloutJudge(POLICY), np.random.default_rng(1)
    for _ in range(20):
        labels = (rng.random(250) < 0.6).astype(np.float64)
        judge.observe(labels, np.full(250, 0.48), np.full(250, 0.7))
    opinion = judge.decide(begun())
    assert (opinion.step, opinion.reason.startswith("scores are higher")) == ("rollback", True)


def test_evidence_is_that_of_the_formula() -> None:
    """By hand: after 64 rows of 1 the stake is (64/80) / ((64 + 4)/80) = 0.94, cut to 0.5."""
    evidence = Evidence()
    evidence.observe(np.ones(64))
    assert evidence.chance == 1.0  # nothing was staked yet
    evidence.observe(np.ones(64))
    assert evidence.chance == pytest.approx(1.5**-64)
    with pytest.raises(ValueError, match="from -1 to 1"):
        evidence.observe(np.array([np.nan]))
