"""A question of one's own, read-only and bounded."""

from html import escape

from schemas.features import Category
from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page
from streams.store.asking import ANSWER_ROWS_MAX, ANSWER_S_MAX, SQL_BYTES_MAX

SCHEMA = """\
SELECT table, arrayStringConcat(groupArray(name), ', ') AS columns
FROM (SELECT table, name FROM system.columns WHERE database = currentDatabase()
    ORDER BY table, position)
GROUP BY table
ORDER BY table"""


def page(pipeline: Pipeline) -> Page:
    """An editor with examples, the answer as table or chart, export."""
    examples = _examples(pipeline)
    first = next(iter(examples.values()))
    buttons = "".join(
        f'<button type="button" class="quiet example" data-sql="{escape(sql)}">{title}</button>'
        for title, sql in examples.items()
    )
    return Page(
        name="sql",
        title="SQL",
        about=f"Ask what you like: questions only, {ANSWER_S_MAX} s and {ANSWER_ROWS_MAX:,} rows "
        "at most.",
        body=f"""<section class="panel" aria-label="Editor">
<div class="row" role="group" aria-label="Examples">{buttons}</div>
<form id="ask"><label for="sql" class="hidden">SQL</label>
<textarea id="sql" name="sql" spellcheck="false" autocapitalize="off" maxlength="{SQL_BYTES_MAX}"
aria-describedby="sql-keys">{escape(first)}</textarea>
<p class="row"><button class="primary" id="run">Run</button>
<span class="about" id="sql-keys">Ctrl+Enter runs it.</span>
<span id="asked" class="about" role="status"></span></p></form>
<div id="answer"></div></section>""",
        figures=(
            Figure(
                name="schema",
                title="Tables, views and their columns",
                kind="table",
                sql=SCHEMA,
                drawn={"styles": {"table": "code"}},
                empty="The database is empty.",
                every_s=60.0,
                wide=True,
            ),
        ),
    )


def _examples(pipeline: Pipeline) -> dict[str, str]:
    name, target = pipeline.name, pipeline.target.name
    words = [one.name for one in pipeline.features if isinstance(one, Category)]
    by = words[0] if words else "model_version"
    measure = "accuracy" if pipeline.target.kind == "binary" else "mae"
    return {
        "Who is at risk": f"SELECT {by}, count() AS events, round(avg(score), 3) AS score\n"
        f"FROM {name}\nGROUP BY {by}\nORDER BY score DESC\nLIMIT 20",
        "How right it was": f"SELECT round(score, 1) AS said, round(avg({target}), 3) AS "
        f"came_true, count() AS events\nFROM {name}_outcomes\nGROUP BY said\nORDER BY said",
        "How fast it was": "SELECT toStartOfMinute(predicted_at) AS at, count() AS predictions,\n"
        "    quantile(0.5)(date_diff('ms', produced_at, predicted_at)) AS median_ms,\n"
        "    quantile(0.99)(date_diff('ms', produced_at, predicted_at)) AS p99_ms\n"
        f"FROM {name}\nGROUP BY at\nORDER BY at DESC\nLIMIT 60",
        "Quality per window": f"SELECT window_start, {measure}, coverage\n"
        f"FROM {name}_quality\nWHERE subject = 'served'\nORDER BY window_start DESC\nLIMIT 100",
        "What was decided": "SELECT at, kind, decision, version, reason\nFROM decisions\n"
        f"WHERE pipeline = '{name}'\nORDER BY at DESC\nLIMIT 50",
    }
