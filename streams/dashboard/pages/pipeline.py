"""How good the answers are, whether they can be believed, and what has changed."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page

LATEST = """\
SELECT event_id, predicted_at, score, model_version,
    date_diff('ms', produced_at, predicted_at) AS answer_ms
FROM {name}
WHERE predicted_at > now() - INTERVAL 1 DAY
ORDER BY predicted_at DESC
LIMIT 10"""

LATEST_DRAWN = {
    "styles": {
        "event_id": "decision",
        "predicted_at": "clock",
        "score": "score",
        "model_version": "code",
    },
    "titles": {
        "event_id": "event",
        "predicted_at": "at (UTC)",
        "answer_ms": "answer (ms)",
        "model_version": "version",
    },
}

SCORES = """\
SELECT bin / 20 AS score_from, predictions
FROM
(
    SELECT toInt32(least(19, floor(score * 20))) AS bin, count() AS predictions
    FROM {name}
    WHERE predicted_at > now() - INTERVAL 1 DAY
    GROUP BY bin
    ORDER BY bin WITH FILL FROM 0 TO 20
)"""

QUALITY = """\
SELECT window_start, subject, labels, {measures}
FROM {name}_quality
WHERE labels >= 10 AND subject IN ({subjects})
    AND window_start > (SELECT max(window_start) FROM {name}_quality) - INTERVAL 4 DAY
ORDER BY window_start, subject"""

STANDING = """\
SELECT subject, sum(q.labels) AS truths,
    {means}
FROM {name}_quality AS q
WHERE q.labels > 0 AND subject IN ({subjects})
    AND window_start > (SELECT max(window_start) FROM {name}_quality) - INTERVAL 30 DAY
GROUP BY subject
ORDER BY {best}"""

CALIBRATION = """\
SELECT sum(centre * (p + n)) / sum(p + n) AS said, sum(p) / sum(p + n) AS came_true,
    sum(p + n) AS labels
FROM
(
    SELECT 1 / (1 + exp(8 - (bin + 0.5) / 32)) AS centre, p, n
    FROM evaluations
    ARRAY JOIN score_bins AS bin, bin_positives AS p, bin_negatives AS n
    WHERE pipeline = '{name}' AND subject_kind = 'score' AND subject = 'served'
)
GROUP BY least(9, floor(centre * 10))
HAVING labels > 0
ORDER BY said"""

EXPECTED = """\
SELECT window_start, estimated_accuracy, accuracy
FROM {name}_quality
WHERE subject = 'served' AND predictions >= 10
    AND window_start > (SELECT max(window_start) FROM {name}_quality) - INTERVAL 4 DAY
ORDER BY window_start"""

COVERAGE = """\
SELECT window_start, coverage, provisional / predictions AS assumed, expired / predictions AS never
FROM {name}_quality
WHERE subject = 'served' AND predictions > 0
    AND window_start > (SELECT max(window_start) FROM {name}_quality) - INTERVAL 4 DAY
ORDER BY window_start"""

DELAY = """\
SELECT window_start, delay_s_p50 AS median, delay_s_p95 AS slowest
FROM {name}_quality
WHERE subject = 'served' AND delay_s_p50 IS NOT NULL
    AND window_start > (SELECT max(window_start) FROM {name}_quality) - INTERVAL 4 DAY
ORDER BY window_start"""

DRIFT = """\
SELECT toStartOfInterval(window_start, INTERVAL 6 HOUR) AS at, feature,
    sum(stability * rows) / sum(rows) AS distance
FROM {name}_stability
WHERE window_start > (SELECT max(window_start) FROM {name}_stability) - INTERVAL 14 DAY
    AND stability IS NOT NULL
GROUP BY at, feature
ORDER BY feature, at"""

ALARMS = """\
SELECT raised_at, detector, subject, before, after, rows_after, model_version
FROM {name}_alarms
ORDER BY raised_at DESC
LIMIT 12"""

NO_TRUTH = "No truth has come yet. Labels go to the topic {name}.labels, with the event's id."

BINARY = {"accuracy": "Accuracy", "log_loss": "Log-loss", "auc": "AUC", "brier": "Brier score"}
NUMBER = {"mae": "Mean absolute error", "rmse": "Root of the mean squared error"}
SUBJECTS = {
    "served": "served",
    "prior": "baseline: prior",
    "no_change": "baseline: no change",
    "model": "deep model alone",
    "online": "online learner alone",
}


def page(pipeline: Pipeline) -> Page:
    """Predictions, quality against baselines, calibration, labels, drift."""
    binary = pipeline.target.kind == "binary"
    return Page(
        name="pipeline",
        title="Pipeline",
        about=f"How good the answers of {pipeline.name} are, by the truth that has come so far.",
        figures=(
            *_quality(pipeline, binary=binary),
            *((_calibration(pipeline), _expected(pipeline)) if binary else ()),
            *_labels(pipeline),
            _scores(pipeline),
            *_drift(pipeline),
            _latest(pipeline),
        ),
    )


def _quality(pipeline: Pipeline, *, binary: bool) -> tuple[Figure, ...]:
    name, measures = pipeline.name, BINARY if binary else NUMBER
    subjects = ", ".join(map(repr, SUBJECTS))
    averaged = [one for one in measures if one not in {"auc", "rmse"}]
    return (
        Figure(
            name="quality",
            title="Quality over time",
            kind="line",
            about="Per window of event time, beside the baselines that it must beat. "
            "The newest windows wait for labels.",
            sql=QUALITY.format(name=name, measures=", ".join(measures), subjects=subjects),
            drawn={
                "x": "window_start",
                "by": "subject",
                "choose": measures,
                "units": {"accuracy": "%"},
                "series": SUBJECTS,
            },
            empty=NO_TRUTH.format(name=name),
            every_s=5.0,
            wide=True,
        ),
        Figure(
            name="standing",
            title="Standing, last 30 days of events",
            kind="table",
            sql=STANDING.format(
                name=name,
                subjects=subjects,
                means=",\n    ".join(
                    f"sum(q.{one} * q.labels) / sumIf(q.labels, q.{one} IS NOT NULL) AS {one}"
                    for one in averaged
                ),
                best="accuracy DESC" if binary else "mae",
            ),
            drawn={"styles": {"accuracy": "percent"}, "titles": {"log_loss": "log-loss"}},
            empty=NO_TRUTH.format(name=name),
            every_s=5.0,
            wide=not binary,
        ),
    )


def _calibration(pipeline: Pipeline) -> Figure:
    return Figure(
        name="calibration",
        title="Calibration",
        kind="reliability",
        about="Across: what was said; up: what came true. On the dotted line a score of 30 % comes "
        "true in 30 of 100 cases. A larger disc is more labels.",
        sql=CALIBRATION.format(name=pipeline.name),
        empty=NO_TRUTH.format(name=pipeline.name),
        every_s=5.0,
    )


def _expected(pipeline: Pipeline) -> Figure:
    return Figure(
        name="expected",
        title="Expected and true accuracy",
        kind="line",
        about="Expected from confidence alone, before any label; true once labels are there. "
        "A gap is a change that confidence cannot see.",
        sql=EXPECTED.format(name=pipeline.name),
        drawn={
            "x": "window_start",
            "series": {"accuracy": "true", "estimated_accuracy": "expected"},
            "unit": "%",
        },
        every_s=5.0,
    )


def _labels(pipeline: Pipeline) -> tuple[Figure, ...]:
    name = pipeline.name
    return (
        Figure(
            name="coverage",
            title="Label coverage",
            kind="line",
            about="Share of each window's predictions whose truth is known, assumed from silence, "
            "or was not known in time.",
            sql=COVERAGE.format(name=name),
            drawn={
                "x": "window_start",
                "series": {"coverage": "known", "never": "expired", "assumed": "assumed"},
                "unit": "%",
                "zero": True,
                "high": 1,
            },
            every_s=5.0,
        ),
        Figure(
            name="delay",
            title="How late labels come",
            kind="line",
            about="From the event to its first truth, in event time.",
            sql=DELAY.format(name=name),
            drawn={
                "x": "window_start",
                "series": {"median": "median", "slowest": "p95"},
                "unit": "duration",
                "zero": True,
            },
            empty=NO_TRUTH.format(name=name),
            every_s=5.0,
        ),
    )


def _drift(pipeline: Pipeline) -> tuple[Figure, ...]:
    name = pipeline.name
    return (
        Figure(
            name="drift",
            title="Drift per feature",
            kind="heat",
            about="Population stability index against the reference: darker is further away, "
            "orange is above 0.25. What follows clock or season changes by nature.",
            sql=DRIFT.format(name=name),
            drawn={"x": "at", "by": "feature", "y": "distance", "limit": 0.25},
            empty="No window is full yet: each feature first gathers a reference.",
            every_s=10.0,
            wide=True,
        ),
        Figure(
            name="alarms",
            title="Alarms",
            kind="table",
            about="What changed, with means before and after.",
            sql=ALARMS.format(name=name),
            drawn={
                "styles": {"raised_at": "minute", "model_version": "code"},
                "titles": {
                    "raised_at": "raised (UTC)",
                    "rows_after": "rows since",
                    "model_version": "version",
                },
            },
            command="tidemill tail alarms --follow",
            empty="No alarm so far.",
            every_s=5.0,
            wide=True,
        ),
    )


def _scores(pipeline: Pipeline) -> Figure:
    return Figure(
        name="scores",
        title="What is answered",
        kind="bars",
        about="Predictions of the last day by score.",
        sql=SCORES.format(name=pipeline.name),
        drawn={"x": "score_from", "y": "predictions", "edges": True, "xTitle": "score"},
        empty="No prediction in the last day. `tidemill replay` sends real events.",
        every_s=5.0,
    )


def _latest(pipeline: Pipeline) -> Figure:
    return Figure(
        name="latest",
        title="Newest predictions",
        kind="table",
        about="Each leads to everything that is known about it.",
        sql=LATEST.format(name=pipeline.name),
        drawn=LATEST_DRAWN,
        empty="No prediction in the last day. `tidemill replay` sends real events.",
        wide=True,
    )
