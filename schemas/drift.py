"""How a pipeline declares what its drift detectors watch, and how often they may be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

FALSE_ALARM_EVERY_MIN = 1_000
FALSE_ALARM_EVERY_MAX = 1_000_000_000_000
SETTLE_EXAMPLES_MAX = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What is watched for change.

    Attributes:
        false_alarm_every: The budget: while nothing changes, the detectors of one shard together
            raise at most one alarm in this many examples, on average. A larger number is quieter
            and slower: the delay until a change is seen grows with its logarithm.
        features: Features of which a changed distribution is an alarm. The stability of the others
            is measured all the same. Name none that changes by nature, such as the hour of day.
        settle_examples: Labelled examples after a swap of the model version in which no alarm is
            raised and what is normal is learned anew.
    """

    false_alarm_every: int = 1_000_000
    features: tuple[str, ...] = ()
    settle_examples: int = 500


def drift(
    *,
    false_alarm_every: int = 1_000_000,
    features: Sequence[str] = (),
    settle_examples: int = 500,
) -> Drift:
    """What to watch for change, within a budget of false alarms; see `Drift`."""
    names = features if isinstance(features, str) else tuple(features)
    return Drift(
        false_alarm_every=false_alarm_every,
        features=names,  # type: ignore[arg-type]  # a text is refused with the other problems
        settle_examples=settle_examples,
    )


def drift_problems(declared: object, numeric: Sequence[str], category: Sequence[str]) -> list[str]:
    """What is wrong with ``declared`` in a pipeline with these features; field, fact and fix."""
    if not isinstance(declared, Drift):
        return [f"drift: {declared!r} is no budget. Use drift(false_alarm_every=1_000_000)."]
    found = []
    for name, value, lowest, highest in (
        (
            "false_alarm_every",
            declared.false_alarm_every,
            FALSE_ALARM_EVERY_MIN,
            FALSE_ALARM_EVERY_MAX,
        ),
        ("settle_examples", declared.settle_examples, 0, SETTLE_EXAMPLES_MAX),
    ):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not lowest <= value <= highest:
            found.append(
                f"drift: {name}={value!r} must be a whole number, {lowest} to {highest}, of "
                "examples."
            )
    if isinstance(declared.features, str):
        return [*found, f"drift: features={declared.features!r} must be a list. Use [...]."]
    known = [*numeric, *category]
    for position, feature in enumerate(declared.features):
        if feature not in known:
            names = ", ".join(known) or "none"
            found.append(
                f"drift: features[{position}]={feature!r} is no feature of this pipeline. "
                f"Take of: {names}."
            )
        elif feature in declared.features[:position]:
            found.append(f"drift: features[{position}]={feature!r} is there twice. Name it once.")
    return found
