"""The figures that are questions to the store: the same text for the runner and for people."""

import shlex
from typing import Final

from schemas.alerts import AlertRule

_TRUTHS_MIN: Final = 200
"""Fewer truths than this in a day say nothing about skill or coverage."""
_LANDED_MIN: Final = 100
"""Fewer records than this in ten minutes say nothing about the share that was rejected."""

_MODEL_AGE = """\
SELECT date_diff('second', predicted_at, now64(3)) + model_age_ms / 1000 AS model_age_s,
    concat('version ', model_version) AS detail
FROM scored
WHERE pipeline = '{name}' AND model_version != 'prior'
ORDER BY topic_partition DESC, topic_offset DESC
LIMIT 1"""

_LABEL_COVERAGE = f"""\
SELECT if(ended < {_TRUTHS_MIN}, NULL, labelled / ended) AS label_coverage,
    concat(toString(labelled), ' of ', toString(ended), ' predictions got a truth') AS detail
FROM
(
    SELECT countIf(kind = 'final') AS labelled,
        countIf(kind IN ('final', 'provisional', 'expired', 'evicted')) AS ended
    FROM examples
    WHERE pipeline = '{{name}}' AND produced_at > now() - INTERVAL 1 DAY
)"""

_SKILL = f"""\
SELECT if(truths < {_TRUTHS_MIN} OR NOT baseline > 0, NULL, 1 - served / baseline) AS skill,
    concat('squared error ', toString(round(served, 5)), ', of the better baseline ',
        toString(round(baseline, 5)), ', over ', toString(truths), ' truths') AS detail
FROM
(
    SELECT sumIf(labels, subject = 'served') AS truths,
        sumIf(toFloat64(squared_error), subject = 'served') / truths AS served,
        sumIf(labels, subject = 'prior') AS priors,
        sumIf(labels, subject = 'no_change') AS repeats,
        least(if(priors > 0, sumIf(toFloat64(squared_error), subject = 'prior') / priors, inf),
            if(repeats > 0, sumIf(toFloat64(squared_error), subject = 'no_change') / repeats, inf))
            AS baseline
    FROM evaluations
    WHERE pipeline = '{{name}}' AND subject_kind = 'score' AND landed_at > now() - INTERVAL 1 DAY
        AND subject IN ('served', 'prior', 'no_change')
)"""

_DRIFT_ALARMS = """\
SELECT count() AS drift_alarms,
    arrayStringConcat(groupUniqArray(5)(concat(detector, ' of ', subject)), ', ') AS detail
FROM alarms
WHERE pipeline = '{name}' AND landed_at > now() - INTERVAL 1 HOUR"""

_DEAD_LETTER_SHARE = f"""\
SELECT if(rejected + good < {_LANDED_MIN}, NULL, rejected / (rejected + good))
        AS dead_letter_share,
    concat(toString(rejected), ' rejected, ', toString(good), ' good ones; ', reasons) AS detail
FROM
(
    SELECT count() AS rejected, arrayStringConcat(groupUniqArray(5)(reason), ', ') AS reasons
    FROM dead_letters
    WHERE pipeline = '{{name}}' AND landed_at > now() - INTERVAL 10 MINUTE
) AS bad,
(
    SELECT count() AS good
    FROM scored
    WHERE pipeline = '{{name}}' AND landed_at > now() - INTERVAL 10 MINUTE
        AND predicted_at > now() - INTERVAL 1 DAY
) AS fine"""

QUESTIONS: Final[dict[str, str]] = {
    "model_age_s": _MODEL_AGE,
    "label_coverage": _LABEL_COVERAGE,
    "skill": _SKILL,
    "drift_alarms": _DRIFT_ALARMS,
    "dead_letter_share": _DEAD_LETTER_SHARE,
}
"""By figure; ``{name}`` is the pipeline."""

_COMMANDS: Final = {
    "missing": "tidemill reconcile {name}",
    "doubled": "tidemill reconcile {name}",
    "exact_check_age_s": "tidemill reconcile {name}",
    "unchecked": "tidemill reconcile {name}",
    "failing_rules": "tidemill alerts list",
    "failing_channels": "tidemill alerts test --to all",
    "store_down_s": "tidemill doctor",
    "kafka_down_s": "tidemill doctor",
}
RUNBOOK: Final = "docs/alerts.md"


def question(rule: AlertRule, pipeline: str) -> str:
    """What ``rule`` asks the store; empty if its number comes from elsewhere."""
    # A pipeline's name is lower-case letters, digits and underscores; it needs no escaping.
    return rule.sql or QUESTIONS.get(rule.figure, "").format(name=pipeline)


def look(rule: AlertRule, pipeline: str) -> str:
    """The command that shows the number of ``rule``."""
    if sql := question(rule, pipeline):
        return f"tidemill sql {shlex.quote(' '.join(sql.split()))}"
    return _COMMANDS.get(rule.figure, "tidemill status").format(name=pipeline)
