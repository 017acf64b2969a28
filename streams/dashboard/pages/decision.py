"""One prediction: what was asked, what was answered by whom, and what turned out to be true."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page
from streams.dashboard.pages.pipeline import LATEST, LATEST_DRAWN
from streams.store.asking import Answer, Asker

ID_LENGTH_MAX = 512

PREDICTION = """\
SELECT *
FROM {name}
WHERE event_id = {id}
ORDER BY predicted_at DESC
LIMIT 3"""

HISTORY = """\
SELECT *
FROM {name}_history
WHERE event_id = {id}
ORDER BY step
LIMIT 50"""

LABELS = """\
SELECT value, revision, label_time, produced_at, landed_at
FROM labels
WHERE pipeline = '{name}' AND event_id = {id}
ORDER BY revision
LIMIT 50"""


def page(pipeline: Pipeline) -> Page:
    """A form, the answer, and predictions to begin with."""
    name = pipeline.name
    return Page(
        name="decision",
        title="Decision",
        about="One prediction: what was asked, what was answered, and what turned out to be true.",
        body=f"""<form class="panel row" id="find" method="get" action="/decision" role="search">
<input type="hidden" name="pipeline" value="{name}">
<label for="event-id">Event id</label>
<input id="event-id" name="id" class="grow code" required maxlength="{ID_LENGTH_MAX}"
autocomplete="off" spellcheck="false">
<button class="primary">Show</button></form>
<div id="decision" role="region" aria-label="The decision"></div>""",
        figures=(
            Figure(
                name="latest",
                title="Newest predictions",
                kind="table",
                about="Choose one.",
                sql=LATEST.format(name=name),
                drawn=LATEST_DRAWN,
                empty="No prediction in the last day. `tidemill replay` sends real events.",
                wide=True,
            ),
        ),
    )


async def decision(asker: Asker, pipeline: Pipeline, event_id: str) -> dict[str, object]:
    """Everything that the store has about one event, with the questions.

    Raises:
        StoreUnavailable: it does not answer.
    """
    found: dict[str, object] = {
        "target": pipeline.target.name,
        "kind": pipeline.target.kind,
        "features": [feature.name for feature in pipeline.features],
        "key": pipeline.key,
    }
    for what, question in (("prediction", PREDICTION), ("history", HISTORY), ("labels", LABELS)):
        sql = question.format(name=pipeline.name, id=literal(event_id))
        answer: Answer = await asker.ask(sql)
        shown = Figure(name=what, title=what, kind="table", sql=sql)
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        found[what] = {"rows": rows, "sql": sql, "command": shown.shown_command}
    return found


def literal(text: str) -> str:
    """``text`` as a string in ClickHouse's SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
