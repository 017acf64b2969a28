"""When to train again: from what is known now to train or wait, with the reason and the numbers.

Pure, so that every rule is a test without a clock. The rule of cost is that of Modyn (SIGMOD 2025):
train when the area of what the old model loses has grown larger than the price of a training.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from schemas.retraining import Cost, Retraining

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How a version did over some rows.

    Attributes:
        rows: With a truth, or of an estimate without.
        accuracy: Share of right answers.
        log_loss: Nats per row.
    """

    rows: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about a pipeline. Moments are Unix milliseconds.

    Attributes:
        now_ms: Now.
        champion: The version that serves.
        announced_ms: When anything was last announced about its models.
        trained_ms: When its training ended; None: it has answered nothing yet.
        attempted_ms: When the last training that a trigger asked for began; None: there was none.
        rollout: The version that is tried now; empty if none is.
        held: A person holds everything as it is.
        examples: Labelled examples since the last training.
        alarms: Drift alarms since then.
        newest: Of the champion's newest labelled rows; None: too few.
        first: Of its first ones since it serves.
        estimated: Of its newest predictions, without labels.
        predictions_per_s: Over the last hour.
    """

    now_ms: int
    champion: str
    announced_ms: int
    trained_ms: int | None = None
    attempted_ms: int | None = None
    rollout: str = ""
    held: bool = False
    examples: int = 0
    alarms: int = 0
    newest: Quality | None = None
    first: Quality | None = None
    estimated: Quality | None = None
    predictions_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What the rules say.

    Attributes:
        train: Whether to begin now.
        code: Which rule; a row is written when it changes.
        reason: For a person.
        numbers: What it rests on.
    """

    train: bool
    code: Literal["due", "quiet", "gap", "rollout", "held"]
    reason: str
    numbers: dict[str, object]


def decide(declared: Retraining, facts: Facts) -> Due:
    """Train now, or wait and why.

    A rule that is due still waits for a person who holds, for a rollout to end (its version would
    be compared with a champion that is about to go), and for the gap.
    """
    reasons = _reasons(declared, facts)
    code: Literal["due", "quiet", "gap", "rollout", "held"] = "due" if reasons else "quiet"
    said = "; ".join(reasons) or f"nothing calls for it: {_so_far(declared, facts)}"
    begun = max(facts.announced_ms, facts.attempted_ms or 0)
    if reasons and facts.held:
        code, said = "held", f"a person holds the models; otherwise: {said}"
    elif reasons and facts.rollout:
        code, said = "rollout", f"{facts.rollout} is being tried; otherwise: {said}"
    elif reasons and facts.now_ms - begun < declared.gap_ms:
        code, said = "gap", f"less than {declared.gap} since the last one; otherwise: {said}"
    return Due(train=code == "due", code=code, reason=said, numbers=asdict(facts))


def last_training_ms(announced_ms: int, trained_ms: int | None, attempted_ms: int | None) -> int:
    """When the last training was: of the champion, or of one that came to nothing."""
    return max(announced_ms if trained_ms is None else trained_ms, attempted_ms or 0)


def _reasons(declared: Retraining, facts: Facts) -> list[str]:
    """Every rule that is due, in words."""
    found = []
    since = last_training_ms(facts.announced_ms, facts.trained_ms, facts.attempted_ms)
    if declared.every_ms is not None and facts.now_ms - since >= declared.every_ms:
        found.append(f"schedule: {declared.every} since the last training")
    if declared.examples is not None and facts.examples >= declared.examples:
        found.append(f"volume: {facts.examples:,} new examples of {declared.examples:,}")
    if declared.drift and facts.alarms:
        found.append(f"drift: {facts.alarms} alarms since the last training")
    age_ms = None if facts.trained_ms is None else facts.now_ms - facts.trained_ms
    if declared.model_age_ms is not None and age_ms is not None and age_ms >= declared.model_age_ms:
        found.append(f"age: {facts.champion} is {age_ms / DAY_MS:.1f} days old")
    return found + _of_quality(declared, facts) + _of_cost(declared.cost, facts)


def _of_quality(declared: Retraining, facts: Facts) -> list[str]:
    found = []
    for words, quality in (("observed", facts.newest), ("estimated", facts.estimated)):
        if quality is None:
            continue
        least, most = declared.accuracy_min, declared.log_loss_max
        if least is not None and quality.accuracy < least:
            found.append(
                f"quality: {words} accuracy {quality.accuracy:.4f} is below {least:g} over "
                f"{quality.rows:,} rows"
            )
        if most is not None and quality.log_loss > most:
            found.append(
                f"quality: {words} log-loss {quality.log_loss:.4f} is above {most:g} over "
                f"{quality.rows:,} rows"
            )
    return found


def _of_cost(cost: Cost | None, facts: Facts) -> list[str]:
    if cost is None or facts.newest is None or facts.first is None:
        return []
    lost = facts.newest.log_loss - facts.first.log_loss
    predictions = facts.predictions_per_s * cost.horizon_ms / 1000
    gain = max(0.0, lost) * predictions * cost.per_nat
    if gain <= cost.per_training:
        return []
    said = (
        f"cost: {lost:.4f} nats lost since it serves, {predictions:,.0f} predictions in "
        f"{cost.horizon}: worth {gain:.4g}, a training costs {cost.per_training:g}"
    )
    return [said]


def _so_far(declared: Retraining, facts: Facts) -> str:
    """How far it is, for `tidemill status`."""
    said = []
    if declared.examples is not None:
        said.append(f"{facts.examples:,} of {declared.examples:,} examples")
    if declared.drift:
        said.append("no drift alarm")
    if declared.every is not None:
        said.append(f"every {declared.every}")
    if declared.model_age is not None:
        said.append(f"at an age of {declared.model_age}")
    if facts.newest is not None:
        said.append(f"accuracy {facts.newest.accuracy:.4f}, log-loss {facts.newest.log_loss:.4f}")
    return ", ".join(said) or "no rows to judge by yet"
