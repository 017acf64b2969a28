"""What the store knows about a champion: the SQL behind `streams.rollout.triggers`."""

from typing import Any

from schemas.pipeline import Pipeline
from schemas.retraining import Retraining
from streams.rollout.triggers import Facts, Quality, last_training_ms
from streams.store.client import Client, mapped_errors

HOUR_S = 3600

_SINCE = """
SELECT
    (SELECT countIf(kind IN ('final', 'provisional') AND label IS NOT NULL) FROM examples
     WHERE pipeline = {pipeline:String}
       AND produced_at > fromUnixTimestamp64Milli({since:Int64})),
    (SELECT count() FROM alarms
     WHERE pipeline = {pipeline:String}
       AND produced_at > fromUnixTimestamp64Milli({since:Int64})),
    (SELECT count() FROM scored
     WHERE pipeline = {pipeline:String}
       AND predicted_at > fromUnixTimestamp64Milli({hour_ago:Int64}))
"""
_TRAINED = """
SELECT toUnixTimestamp64Milli(predicted_at) - model_age_ms FROM scored
WHERE pipeline = {pipeline:String} AND model_version = {version:String} LIMIT 1
"""
_ATTEMPTED = """
SELECT toUnixTimestamp64Milli(max(at)) FROM decisions
WHERE pipeline = {pipeline:String} AND kind = 'trigger' AND decision = 'train'
"""
_QUALITY = """
SELECT sum(n), sum(correct), sum(loss) FROM
(
    SELECT n, correct, loss, sum(n) OVER (ORDER BY window_start {order} ROWS UNBOUNDED PRECEDING)
        AS so_far
    FROM
    (
        SELECT window_start, toInt64(sum({rows})) AS n, toFloat64(sum({correct})) AS correct,
            toFloat64(sum({loss})) AS loss
        FROM evaluations
        WHERE pipeline = {{pipeline:String}} AND subject_kind = 'score' AND subject = 'served'
          AND model_version = {{version:String}}
        GROUP BY window_start HAVING n > 0
    )
)
WHERE so_far - n < {{rows:Int64}}
"""
_OBSERVED = {"rows": "labels", "correct": "correct", "loss": "log_loss"}
_ESTIMATED = {
    "rows": "predictions",
    "correct": "estimated_correct",
    "loss": "estimated_log_loss",
}


def read_facts(
    client: Client,
    pipeline: Pipeline,
    declared: Retraining,
    *,
    champion: str,
    announced_ms: int,
    rollout: str,
    held: bool,
    now_ms: int,
) -> Facts:
    """Everything that the rules look at, in a handful of short queries.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("look whether to train again"):
        given = {"pipeline": pipeline.name, "version": champion, "rows": declared.quality_rows}
        attempted_ms = int(_one(client, _ATTEMPTED, given)[0] or 0) or None
        trained = _one(client, _TRAINED, given)
        trained_ms = int(trained[0]) if trained else None
        since_ms = last_training_ms(announced_ms, trained_ms, attempted_ms)
        since = {"since": since_ms, "hour_ago": now_ms - HOUR_S * 1000}
        examples, alarms, hour = _one(client, _SINCE, given | since)
        binary = pipeline.target.kind == "binary"
        return Facts(
            now_ms=now_ms,
            champion=champion,
            announced_ms=announced_ms,
            trained_ms=trained_ms,
            attempted_ms=attempted_ms,
            rollout=rollout,
            held=held,
            examples=int(examples),
            alarms=int(alarms),
            newest=_quality(client, given, "DESC", _OBSERVED) if binary else None,
            first=_quality(client, given, "ASC", _OBSERVED) if binary else None,
            estimated=_quality(client, given, "DESC", _ESTIMATED) if binary else None,
            predictions_per_s=int(hour) / HOUR_S,
        )


def _one(client: Client, query: str, given: dict[str, Any]) -> tuple[Any, ...]:
    rows = client.query(query, parameters=given).result_rows
    return tuple(rows[0]) if rows else ()


def _quality(
    client: Client, given: dict[str, Any], order: str, columns: dict[str, str]
) -> Quality | None:
    """Over whole windows of event time until there are enough rows; None: there are not."""
    rows, correct, loss = _one(client, _QUALITY.format(order=order, **columns), given)
    if int(rows or 0) < given["rows"]:
        return None
    return Quality(rows=int(rows), accuracy=correct / rows, log_loss=loss / rows)
