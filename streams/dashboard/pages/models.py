"""Which version answers, which could, and the switches."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page

ARMS = """\
SELECT model_version AS version, count() AS predictions,
    predictions / sum(predictions) OVER () AS share, avg(score) AS mean_score,
    quantile(0.99)(date_diff('ms', produced_at, predicted_at)) AS answer_ms_p99,
    max(predicted_at) AS newest
FROM {name}
WHERE predicted_at > now() - INTERVAL 15 MINUTE
GROUP BY version
ORDER BY newest DESC"""

BY_VERSION = """\
SELECT model_version AS version, sum(q.labels) AS truths,
    {means},
    min(window_start) AS from_window, max(window_start) AS to_window
FROM {name}_quality AS q
WHERE subject = 'model' AND q.labels > 0
GROUP BY version
ORDER BY to_window DESC
LIMIT 20"""

AUDIT = """\
SELECT at, kind, decision, version, champion, reason
FROM decisions
WHERE pipeline = '{name}' AND kind IN ('promotion', 'rollout')
ORDER BY at DESC
LIMIT 20"""


def page(pipeline: Pipeline, reference: str) -> Page:
    """Rollout, versions, who decided what."""
    return Page(
        name="models",
        title="Models",
        about=f"Which version answers for {pipeline.name}, and what could take its place.",
        figures=(*_registry(reference), _arms(pipeline), _by_version(pipeline), _audit(pipeline)),
    )


def _registry(reference: str) -> tuple[Figure, ...]:
    return (
        Figure(
            name="rollout",
            title="What answers now",
            kind="rollout",
            about="A new version answers as a shadow first, then a growing share of the keys.",
            source="rollout",
            command=f"tidemill models show {reference}",
            empty="Nothing is announced yet.",
            wide=True,
            drawn={"reference": reference},
        ),
        Figure(
            name="versions",
            title="Versions",
            kind="versions",
            about="The newest first, with the gate's verdict. Measured on later rows than it "
            "learned from.",
            source="versions",
            command=f"tidemill models list {reference}",
            empty="The registry has no version yet.",
            every_s=3.0,
            wide=True,
            drawn={"reference": reference},
        ),
    )


def _arms(pipeline: Pipeline) -> Figure:
    return Figure(
        name="arms",
        title="Arms, last 15 minutes",
        kind="table",
        about="Who answered what share. A shadow answers beside the champion and is not here.",
        sql=ARMS.format(name=pipeline.name),
        drawn={
            "styles": {
                "version": "code",
                "share": "percent",
                "mean_score": "score",
                "newest": "clock",
            },
            "titles": {
                "mean_score": "mean score",
                "answer_ms_p99": "p99 (ms)",
                "newest": "newest (UTC)",
            },
        },
        empty="No prediction in the last 15 minutes.",
        wide=True,
    )


def _by_version(pipeline: Pipeline) -> Figure:
    measures = ("accuracy", "log_loss") if pipeline.target.kind == "binary" else ("mae",)
    means = ",\n    ".join(f"sum(q.{one} * q.labels) / truths AS {one}" for one in measures)
    return Figure(
        name="by-version",
        title="Quality by version",
        kind="table",
        about="Of the deep model alone, by the truths that came.",
        sql=BY_VERSION.format(name=pipeline.name, means=means),
        drawn={
            "styles": {
                "version": "code",
                "accuracy": "percent",
                "from_window": "minute",
                "to_window": "minute",
            },
            "titles": {
                "from_window": "from (event time)",
                "to_window": "to",
                "log_loss": "log-loss",
            },
        },
        empty=f"No truth has come yet. Labels go to the topic {pipeline.name}.labels.",
        every_s=5.0,
        wide=True,
    )


def _audit(pipeline: Pipeline) -> Figure:
    return Figure(
        name="audit",
        title="Who decided what",
        kind="table",
        about="Every change of what answers, by people and by rules, kept for good.",
        sql=AUDIT.format(name=pipeline.name),
        drawn={
            "styles": {"at": "minute", "version": "code", "champion": "code", "decision": "tag"},
            "tags": {"promoted": "good", "forced": "warn", "rollback": "bad"},
            "titles": {"at": "at (UTC)"},
        },
        empty="Nothing was decided yet: the first version was announced at the start.",
        wide=True,
    )
