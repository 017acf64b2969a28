"""Trainings: how far, how good, how fast."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page

RUNS = """\
SELECT run, argMax(state, at) AS last_state, min(at) AS began,
    date_diff('second', min(at), max(at)) AS seconds,
    max(step) / greatest(1, max(steps_max)) AS progress,
    if(last_state IN ('done', 'failed'), NULL, argMax(seconds_left, at)) AS left_s,
    max(epoch) AS epochs, min(validation_loss) AS best_loss, max(examples_per_s) AS examples_s,
    max(ranks) AS processes, if(last_state = 'failed', argMax(detail, at), '') AS why
FROM runs
WHERE pipeline = '{name}'
GROUP BY run
ORDER BY began DESC
LIMIT 15"""

CURVE = """\
SELECT step, training_loss, validation_loss
FROM runs
WHERE pipeline = '{name}' AND step > 0
    AND run = (SELECT argMax(run, at) FROM runs WHERE pipeline = '{name}' AND step > 0)
ORDER BY step"""

SPEED = """\
SELECT step, examples_per_s
FROM runs
WHERE pipeline = '{name}' AND examples_per_s IS NOT NULL
    AND run = (SELECT argMax(run, at) FROM runs WHERE pipeline = '{name}' AND step > 0)
ORDER BY step"""

GATES = """\
SELECT at, version, champion, decision, reason
FROM decisions
WHERE pipeline = '{name}' AND kind IN ('gate', 'trigger')
ORDER BY at DESC
LIMIT 15"""

NONE = "Nothing has been trained from the stream yet. `tidemill train {name}` does it."


def page(pipeline: Pipeline) -> Page:
    """Runs, losses, what was judged."""
    name = pipeline.name
    empty = NONE.format(name=name)
    tags = {"done": "good", "failed": "bad", "passed": "good", "train": "good"}
    return Page(
        name="training",
        title="Training",
        about=f"New versions of {name}: what is being learned, and what the gate said.",
        figures=(
            Figure(
                name="runs",
                title="Runs",
                kind="table",
                about="The newest first. Losses are nats per row.",
                sql=RUNS.format(name=name),
                drawn={
                    "styles": {"run": "code", "last_state": "tag", "began": "minute",
                               "progress": "progress"},
                    "tags": tags,
                    "titles": {"last_state": "state", "left_s": "seconds left",
                               "best_loss": "best loss", "examples_s": "examples/s",
                               "began": "began (UTC)"},
                },
                empty=empty,
                wide=True,
            ),
            Figure(
                name="curve",
                title="Loss of the newest run",
                kind="line",
                about="Training: mean of the pass so far. Validation: the best so far.",
                sql=CURVE.format(name=name),
                drawn={"x": "step", "xTitle": "step",
                       "series": {"training_loss": "training", "validation_loss": "validation"}},
                empty=empty,
            ),
            Figure(
                name="speed",
                title="Speed of the newest run",
                kind="line",
                about="Examples a second over all processes.",
                sql=SPEED.format(name=name),
                drawn={"x": "step", "xTitle": "step", "zero": True, "area": True, "unit": "/s",
                       "series": {"examples_per_s": "examples"}},
                empty=empty,
            ),
            Figure(
                name="gates",
                title="What triggers and the gate said",
                kind="table",
                sql=GATES.format(name=name),
                drawn={
                    "styles": {"at": "minute", "version": "code", "champion": "code",
                               "decision": "tag"},
                    "tags": tags | {"failed": "bad", "wait": ""},
                },
                empty="No version has been judged yet.",
                every_s=5.0,
                wide=True,
            ),
        ),
    )  # fmt: skip
