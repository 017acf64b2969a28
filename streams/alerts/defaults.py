"""The rules that every pipeline has without asking, and those of the stack.

A pipeline replaces one by declaring a rule of the same name, and drops one by `no_alert`. What to
do when one fires stands in docs/alerts.md under its name.
"""

from typing import Final

from schemas.alerts import AlertRule, alert
from schemas.pipeline import Pipeline
from streams.alerts.core import STACK, Asked

OLD_MODEL_S: Final = 30 * 86_400.0
"""Where the pipeline does not declare `model_age`."""

STACK_RULES: Final = (
    alert(
        "processes", figure="failed_processes", above=0, lasting="30s", severity="critical",
        summary="A process of Tidemill keeps failing or has fallen silent.",
    ),
    alert(
        "store-down", figure="store_down_s", above=30, lasting="0s", severity="critical",
        summary="ClickHouse does not answer. Predictions go on; rows wait in Kafka.",
    ),
    alert(
        "kafka-down", figure="kafka_down_s", above=30, lasting="0s", severity="critical",
        summary="Kafka does not answer. Nothing is scored until it does.",
    ),
    alert(
        "alert-rules", figure="failing_rules", above=0, lasting="5m",
        summary="A rule cannot be checked, so nobody would be told.",
    ),
    alert(
        "alert-channels", figure="failing_channels", above=0, lasting="2m",
        summary="A channel does not deliver. The others do, or nobody would read this.",
    ),
)  # fmt: skip


def default_rules(pipeline: Pipeline) -> tuple[AlertRule, ...]:
    """The defaults of ``pipeline``."""
    declared = pipeline.model_age
    old_s = OLD_MODEL_S if declared is None else declared.limit_ms / 1000
    return (
        alert(
            "stalled", figure="commit_age_s", above=60, lasting="30s", severity="critical",
            summary="A step has committed nothing for a minute although records wait for it.",
        ),
        alert(
            "lag", figure="lag", above=100_000, lasting="5m",
            summary="A step is far behind: predictions, labels or rows come late.",
        ),
        alert(
            "model-age", figure="model_age_s", above=old_s, every="1m",
            summary="The version that serves was trained too long ago.",
        ),
        alert(
            "label-coverage", figure="label_coverage", below=0.5, lasting="30m", every="1m",
            summary="Most predictions get no truth, so quality is judged, and learned, from few.",
        ),
        alert(
            "quality", figure="skill", below=0.0, lasting="15m", every="1m", severity="critical",
            summary="The served score is worse than a baseline that knows nothing.",
        ),
        alert(
            "drift", figure="drift_alarms", above=0, lasting="0s", every="1m",
            summary="A detector found that scores, errors or a feature changed.",
        ),
        alert(
            "dead-letters", figure="dead_letter_share", above=0.05, lasting="2m", every="1m",
            summary="Many records cannot be used: a producer may have changed its format.",
        ),
        alert(
            "missing", figure="missing", above=0, lasting="0s", clearing="0s", severity="critical",
            summary="The books do not balance: records are missing.",
        ),
        alert(
            "doubled", figure="doubled", above=0, lasting="0s", clearing="0s", severity="critical",
            summary="The books do not balance: records are there twice, or came from nowhere.",
        ),
        alert(
            "unchecked-books", figure="exact_check_age_s", above=900, lasting="0s",
            summary="For a quarter of an hour nobody could say that the books are exact.",
        ),
    )  # fmt: skip


def rules_of(pipeline: Pipeline) -> list[Asked]:
    """What is asked about ``pipeline``: the defaults, then its own, by name."""
    chosen = {rule.name: rule for rule in (*default_rules(pipeline), *pipeline.alerts)}
    return [Asked(pipeline.name, rule) for rule in chosen.values() if rule.enabled]


def rules_of_stack() -> list[Asked]:
    """What is asked about everything together."""
    return [Asked(STACK, rule) for rule in STACK_RULES]
