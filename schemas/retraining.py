"""How a pipeline declares when it trains again, and what a version must do to stay."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from schemas.durations import duration_ms, duration_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """When a training is worth what it costs; both in the same currency.

    Attributes:
        per_training: What one training costs.
        per_nat: What one prediction gains when its log-loss falls by one nat.
        horizon: For how long the new version is expected to serve.
    """

    per_training: float
    per_nat: float
    horizon: str = "7d"

    @property
    def horizon_ms(self) -> int:
        """`horizon` in milliseconds."""
        return duration_ms(self.horizon)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What is asked of a version that is tried; see `models.judge.JudgePolicy`.

    Attributes:
        step_rows: Labelled rows before each step.
        rows_max: Labelled rows after which one without a difference is taken back.
        wrong_rollback_max: Chance of taking back one that is no worse.
        wrong_promotion_max: Chance of promoting one that is no better.
        errors_max: Share of its keys that a canary may leave to the champion.
        shift_max: By how much scores may be higher or lower on average.
        stage_s_min: Time that every stage lasts at least, however many labels are known.
    """

    step_rows: int = 1_000
    rows_max: int = 200_000
    wrong_rollback_max: float = 0.05
    wrong_promotion_max: float = 0.05
    errors_max: float = 0.01
    shift_max: float = 0.1
    stage_s_min: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """When to train a new version. Any one of these is enough, but never within `gap`.

    Times are of the clock of this machine, not of events.

    Attributes:
        every: Since the last training: a schedule.
        examples: So many new labelled examples since the last training.
        drift: A drift alarm since the last training.
        model_age: Since the end of the training of the version that serves.
        accuracy_min: The share of right answers of the champion, over its newest `quality_rows`
            labelled rows; and its estimate, over its newest `quality_rows` predictions, which needs
            no labels.
        log_loss_max: Its log-loss in nats, likewise.
        quality_rows: Fewer rows say nothing.
        cost: A training that pays: what the champion has lost since it began to serve, times the
            traffic, times `Cost.horizon`, is more than it costs.
        gap: Between two trainings at least, and after the end of a rollout.
        days: Only events of so many days are learned from; None: all.
        start: ``cold``: from random weights. ``warm``: from the champion's.
    """

    every: str | None = None
    examples: int | None = None
    drift: bool = False
    model_age: str | None = None
    accuracy_min: float | None = None
    log_loss_max: float | None = None
    quality_rows: int = 2_000
    cost: Cost | None = None
    gap: str = "1h"
    days: int | None = None
    start: Literal["cold", "warm"] = "cold"

    @property
    def gap_ms(self) -> int:
        """`gap` in milliseconds."""
        return duration_ms(self.gap)

    @property
    def every_ms(self) -> int | None:
        """`every` in milliseconds."""
        return None if self.every is None else duration_ms(self.every)

    @property
    def model_age_ms(self) -> int | None:
        """`model_age` in milliseconds."""
        return None if self.model_age is None else duration_ms(self.model_age)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAge:
    """What happens when the version that serves has become too old.

    Attributes:
        limit: Since the end of its training.
        then: ``alarm``: it goes on; the worker says so in its log and its counter
            ``model_too_old_rows``. ``prior``: the target's prior is served instead, under the
            version ``prior``.
    """

    limit: str
    then: Literal["alarm", "prior"] = "alarm"

    @property
    def limit_ms(self) -> int:
        """`limit` in milliseconds."""
        return duration_ms(self.limit)


def retraining_problems(declared: object) -> list[str]:
    """What is wrong with the declared `Retraining`; field, fact and fix."""
    if declared is None:
        return []
    if not isinstance(declared, Retraining):
        return [f"retraining: {declared!r} says no when. Use Retraining(examples=100_000)."]
    found = duration_problem("retraining.gap", declared.gap)
    for name in ("every", "model_age"):
        if (text := getattr(declared, name)) is not None:
            found += duration_problem(f"retraining.{name}", text)
    for name, optional in (("examples", True), ("quality_rows", False), ("days", True)):
        value = getattr(declared, name)
        if not (optional and value is None) and not (_whole(value) and value >= 1):
            found.append(f"retraining: {name}={value!r} must be a number of at least 1.")
    if (share := declared.accuracy_min) is not None and not (_number(share) and 0 < share < 1):
        found.append(f"retraining: accuracy_min={share!r} must lie between 0 and 1.")
    if (loss := declared.log_loss_max) is not None and not (_number(loss) and loss > 0):
        found.append(f"retraining: log_loss_max={loss!r} must be more than 0.")
    if declared.start not in {"cold", "warm"}:
        found.append(f"retraining: start={declared.start!r} must be 'cold' or 'warm'.")
    if declared.cost is not None:
        found += _cost_problems(declared.cost)
    whens = ("every", "examples", "model_age", "accuracy_min", "log_loss_max", "cost")
    if not declared.drift and all(getattr(declared, name) is None for name in whens):
        found.append("retraining: nothing would ever start one. Add examples=, every=, drift=True.")
    return found


def _cost_problems(cost: object) -> list[str]:
    if not isinstance(cost, Cost):
        return [f"retraining.cost: {cost!r} is none. Use Cost(per_training=2.0, per_nat=0.01)."]
    found = duration_problem("retraining.cost.horizon", cost.horizon)
    for name in ("per_training", "per_nat"):
        value = getattr(cost, name)
        if not (_number(value) and value > 0):
            found.append(f"retraining.cost: {name}={value!r} must be more than 0.")
    return found


def rollout_problems(declared: object) -> list[str]:
    """What is wrong with the declared `Rollout`."""
    if not isinstance(declared, Rollout):
        return [f"rollout: {declared!r} is none. Use Rollout(step_rows=1_000)."]
    found = []
    for item in fields(Rollout):
        value = getattr(declared, item.name)
        if item.name in {"step_rows", "rows_max"}:
            if not (_whole(value) and value >= 1):
                found.append(f"rollout: {item.name}={value!r} must be a number of at least 1.")
        elif item.name == "stage_s_min":
            if not (_number(value) and value >= 0):
                found.append(f"rollout: stage_s_min={value!r} must be a number of at least 0.")
        elif not (_number(value) and 0 < value < 1):
            found.append(f"rollout: {item.name}={value!r} must lie between 0 and 1.")
    if not found and declared.step_rows > declared.rows_max:
        found.append(
            f"rollout: step_rows={declared.step_rows} is more than rows_max={declared.rows_max}."
        )
    return found


def model_age_problems(declared: object) -> list[str]:
    """What is wrong with the declared `ModelAge`."""
    if declared is None:
        return []
    if not isinstance(declared, ModelAge):
        return [f"model_age: {declared!r} is none. Use ModelAge(limit='30d', then='alarm')."]
    found = duration_problem("model_age.limit", declared.limit)
    if declared.then not in {"alarm", "prior"}:
        found.append(f"model_age: then={declared.then!r} must be 'alarm' or 'prior'.")
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
