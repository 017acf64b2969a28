"""What flows, how fast, and what waits."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page

QUIET = "No prediction in the last five minutes. `tidemill replay` sends real events."

TOTALS = """\
SELECT
    (SELECT count() FROM scored WHERE pipeline = '{name}') AS predictions,
    (SELECT count() FROM labels WHERE pipeline = '{name}') AS labels,
    (SELECT count() FROM dead_letters WHERE pipeline = '{name}') AS `dead letters`,
    (SELECT count() FROM alarms WHERE pipeline = '{name}'
        AND produced_at > now() - INTERVAL 1 DAY) AS `alarms, 24 h`,
    (SELECT argMax(model_version, predicted_at) FROM scored WHERE pipeline = '{name}'
        AND predicted_at > now() - INTERVAL 5 MINUTE) AS `answered by`"""

RATE = """\
SELECT toStartOfInterval(predicted_at, INTERVAL 2 SECOND) AS at, count() / 2 AS predictions
FROM {name}
WHERE predicted_at > now() - INTERVAL 5 MINUTE
    AND predicted_at < toStartOfInterval(now() - INTERVAL 2 SECOND, INTERVAL 2 SECOND)
GROUP BY at
ORDER BY at WITH FILL STEP toIntervalSecond(2)"""

LATENCY = """\
SELECT toStartOfInterval(predicted_at, INTERVAL 5 SECOND) AS at,
    quantile(0.5)(date_diff('ms', produced_at, predicted_at)) AS answered_p50,
    quantile(0.99)(date_diff('ms', produced_at, predicted_at)) AS answered_p99,
    quantile(0.5)(date_diff('ms', produced_at, landed_at)) AS in_sql_p50
FROM {name}
WHERE predicted_at > now() - INTERVAL 5 MINUTE
GROUP BY at
ORDER BY at"""


def page(pipeline: Pipeline) -> Page:
    """The page that a person sees first."""
    name = pipeline.name
    return Page(
        name="overview",
        title="Overview",
        about=f"Events of {name} become predictions, meet their truth, are learned, become rows.",
        figures=(
            Figure(
                name="flow",
                title="What flows now",
                kind="flow",
                source="flow",
                about="Records a second over the last five seconds, and records that wait.",
                command="tidemill status --watch",
                every_s=1.0,
                wide=True,
            ),
            Figure(
                name="totals",
                title="So far",
                kind="tiles",
                wide=True,
                sql=TOTALS.format(name=name),
                drawn={"bad": ["dead letters", "alarms, 24 h"]},
            ),
            Figure(
                name="rate",
                title="Predictions per second",
                kind="line",
                about="The last five minutes, by when the answer was given.",
                sql=RATE.format(name=name),
                drawn={
                    "x": "at",
                    "series": {"predictions": "predictions"},
                    "unit": "/s",
                    "area": True,
                    "zero": True,
                },
                empty=QUIET,
            ),
            Figure(
                name="latency",
                title="How long an answer takes",
                kind="line",
                about="From the moment Kafka had the event to the prediction, and to its row.",
                sql=LATENCY.format(name=name),
                drawn={
                    "x": "at",
                    "series": {
                        "answered_p50": "answer, median",
                        "answered_p99": "answer, p99",
                        "in_sql_p50": "in SQL, median",
                    },
                    "unit": " ms",
                    "log": True,
                },
                empty=QUIET,
            ),
        ),
    )
