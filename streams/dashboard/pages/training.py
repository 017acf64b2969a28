"""Trainings: how far, how good, how fast."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page

RUNS = """\
SELECT run, argMax(state, at) AS last_state, min(at) AS began,
    date_diff('second', min(at), max(at)) AS seconds,
    if(last_state = 'done', 1, max(step) / greatest(1, max(steps_max))) AS progress,
    if(last_state IN ('done', 'failed'), NULL, argMax(seconds_left, at)) AS left_s,
    max(epoch) AS epochs, min(validation_loss) AS best_loss, max(examples_per_s) AS examples_s,
    max(ranks) AS processes, if(last_state = 'failed', argMax(detail, at), '') AS why
FROM runs
WHERE pipeline = '{name}'
GROUP BY run
ORDER BY began DESC
LIMIT 15"""

OF_NEWEST = """\
SELECT step, {columns}
FROM runs
WHERE pipeline = '{name}' AND step > 0 AND state = 'training'
    AND run = (SELECT argMax(run, at) FROM runs WHERE pipeline = '{name}' AND step > 0)
ORDER BY step"""

_FROM_ZERO = {"zero": True, "area": True}
CURVES: tuple[tuple[str, str, str, str, dict[str, object]], ...] = (
    (
        "curve",
        "Loss",
        "Nats per row. Training: mean of the pass so far. Validation: the best so far.",
        "training_loss, validation_loss",
        {"series": {"training_loss": "training", "validation_loss": "validation"}},
    ),
    (
        "rate",
        "Learning rate",
        "Of each step. It falls along a cosine to a tenth of where it began.",
        "learning_rate",
        {"series": {"learning_rate": "learning rate"}, **_FROM_ZERO},
    ),
    (
        "gradient",
        "Gradient norm",
        "Length before a step, mean of every eighth. One that explodes or vanishes shows here.",
        "gradient_norm",
        {"series": {"gradient_norm": "gradient norm"}, "log": True},
    ),
    (
        "speed",
        "Speed",
        "Rows a second over all processes.",
        "examples_per_s",
        {"series": {"examples_per_s": "rows"}, "unit": "/s", **_FROM_ZERO},
    ),
    (
        "processor",
        "Processor",
        "Cores that all processes together keep busy.",
        "cpu_cores",
        {"series": {"cpu_cores": "cores"}, **_FROM_ZERO},
    ),
    (
        "memory",
        "Memory",
        "Resident in all processes together.",
        "memory_bytes / 1048576 AS memory_mib",
        {"series": {"memory_mib": "memory"}, "unit": " MiB", **_FROM_ZERO},
    ),
)
"""Word, title, explanation, columns, how they are drawn."""

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
                    "titles": {"last_state": "state", "left_s": "left (s)", "seconds": "took (s)",
                               "best_loss": "best loss", "examples_s": "rows/s",
                               "processes": "ranks", "began": "began (UTC)"},
                },
                empty=empty,
                wide=True,
            ),
            *_curves(name, empty),
            Figure(
                name="gates",
                title="What triggers and the gate said",
                kind="table",
                sql=GATES.format(name=name),
                drawn={
                    "styles": {"at": "minute", "version": "code", "champion": "code",
                               "decision": "tag"},
                    "titles": {"at": "at (UTC)"},
                    "tags": tags | {"failed": "bad", "wait": ""},
                },
                empty="No version has been judged yet.",
                every_s=5.0,
                wide=True,
            ),
        ),
    )  # fmt: skip


def _curves(name: str, empty: str) -> tuple[Figure, ...]:
    """Of the newest run, by step: what it reached, how it went there, what it used."""
    return tuple(
        Figure(
            name=word,
            title=f"{title} of the newest run",
            kind="line",
            about=about,
            sql=OF_NEWEST.format(name=name, columns=columns),
            drawn={"x": "step", "xTitle": "step", **drawn},
            empty=empty,
        )
        for word, title, about, columns, drawn in CURVES
    )
