"""Quality, stability and alarms as people query them; what each number means is in docs/quality.md.

SELECT window_start, subject, accuracy, auc FROM flights_quality ORDER BY window_start, subject

The expressions are those of `models.measures`; a test compares the two.
"""

from typing import Final

from models.sketches import DELAY_BINS_PER_DOUBLING
from schemas.evaluations import EVALUATIONS, SUM
from schemas.pipeline import Pipeline

_SUMMED: Final = (
    "predictions", "labels", "provisional", "corrected", "expired", "evicted", "correct",
    "positives", "predicted_positives", "log_loss", "squared_error", "absolute_error",
    "estimated_correct", "estimated_log_loss", "estimated_squared_error",
    "checked", "checked_correct", "checked_estimated_correct",
)  # fmt: skip
_SUMS: Final = {field.name for field in EVALUATIONS if field.type == SUM}

_BINARY: Final = """
    if(labels > 0, s_correct / labels, NULL) AS accuracy,
    if(labels > 0, (s_positives * s_predicted_positives + (labels - s_positives)
        * (labels - s_predicted_positives)) / (labels * labels), NULL) AS chance,
    if(chance < 1, (accuracy - chance) / (1 - chance), NULL) AS kappa,
    toFloat64(arraySum(bins.2)) * arraySum(bins.3) AS pairs,
    if(pairs > 0, arraySum((p, n, c) -> p * (c - n / 2), bins.2, bins.3, arrayCumSum(bins.3))
        / pairs, NULL) AS auc,
    if(pairs > 0, arraySum((p, n) -> p * n / 2, bins.2, bins.3) / pairs, NULL) AS auc_error_max,
    if(labels > 0 AND subject != 'no_change', s_log_loss / labels, NULL) AS log_loss,
    if(labels > 0, s_squared_error / labels, NULL) AS brier,
    if(labels > 0, s_positives / labels, NULL) AS share_of_ones,
    if(subject = 'served' AND predictions > 0, s_estimated_correct / predictions, NULL)
        AS estimated_accuracy,
    if(subject = 'served' AND predictions > 0, s_estimated_log_loss / predictions, NULL)
        AS estimated_log_loss,
    if(subject = 'served' AND predictions > 0, s_estimated_squared_error / predictions, NULL)
        AS estimated_brier,
    if(s_checked > 0, (s_checked_estimated_correct - s_checked_correct) / s_checked, NULL)
        AS estimate_error"""

_NUMBER: Final = """
    if(labels > 0, s_absolute_error / labels, NULL) AS mae,
    if(labels > 0, sqrt(greatest(0, s_squared_error / labels)), NULL) AS rmse"""


def _delay_s(share: float) -> str:
    bin_ = f"delays.1[arrayFirstIndex(c -> c >= {share} * arraySum(delays.2), cumulated)]"
    millis = f"if({bin_} = 0, 0, exp2(({bin_} - 0.5) / {DELAY_BINS_PER_DOUBLING}))"
    return f"if(notEmpty(delays.1), {millis} / 1000, NULL)"


def quality_view_statements(pipeline: Pipeline) -> dict[str, str]:
    """The ``CREATE OR REPLACE VIEW`` of ``<name>_quality``, ``_stability`` and ``_alarms``."""
    name = pipeline.name
    sums = ",\n        ".join(
        f"toFloat64(sum({column})) AS s_{column}" if column in _SUMS
        else f"sum({column}) AS s_{column}"
        for column in _SUMMED
    )  # fmt: skip
    measures = _BINARY if pipeline.target.kind == "binary" else _NUMBER
    counts = ", ".join(
        f"s_{column} AS {column}"
        for column in ("predictions", "labels", "provisional", "corrected", "expired", "evicted")
    )
    quality = f"""CREATE OR REPLACE VIEW `{name}_quality` AS
SELECT
    window_start, window_ms, subject, model_version,
    {counts},
    if(predictions > 0, labels / predictions, NULL) AS coverage,{measures},
    arrayCumSum(delays.2) AS cumulated,
    {_delay_s(0.5)} AS delay_s_p50,
    {_delay_s(0.95)} AS delay_s_p95
FROM
(
    SELECT
        window_start, window_ms, subject, model_version,
        {sums},
        sumMap(arrayMap(b -> toUInt64(b), score_bins), bin_positives, bin_negatives) AS bins,
        sumMap(arrayMap(b -> toUInt64(b), delay_bins), delay_counts) AS delays
    FROM evaluations
    WHERE pipeline = '{name}' AND subject_kind = 'score'
    GROUP BY window_start, window_ms, subject, model_version
)"""
    stability = f"""CREATE OR REPLACE VIEW `{name}_stability` AS
SELECT window_start, subject AS feature, predictions AS rows, stability, model_version,
    topic_partition AS shard
FROM evaluations
WHERE pipeline = '{name}' AND subject_kind = 'feature'"""
    alarms = f"""CREATE OR REPLACE VIEW `{name}_alarms` AS
SELECT produced_at AS raised_at, detector, subject, before, after, rows_before, rows_after,
    statistic, threshold, false_alarm_every, model_version, event_time, shard,
    source_partition, source_offset, alarm_id
FROM alarms
WHERE pipeline = '{name}'"""
    return {
        f"{name}_quality": quality,
        f"{name}_stability": stability,
        f"{name}_alarms": alarms,
    }
