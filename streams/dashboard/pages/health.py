"""What needs a person, what runs, what is behind, what was rejected, and the books."""

from schemas.pipeline import Pipeline
from streams.dashboard.figures import Figure, Page

REJECTED = """\
SELECT reason, source_topic, count() AS records, max(landed_at) AS newest,
    any(detail) AS for_example
FROM dead_letters
WHERE pipeline = '{name}'
GROUP BY reason, source_topic
ORDER BY records DESC
LIMIT 20"""

ALERTS = """\
WITH (
    SELECT groupArray((pipeline, rule))
    FROM (SELECT * FROM silences ORDER BY at DESC LIMIT 1 BY id)
    WHERE until > now64(3)
) AS quiet
SELECT if(state = 'firing' AND silenced, 'silenced', state) AS now, severity, pipeline, rule, since,
    value, bound, summary, detail,
    arrayExists(s -> s.1 IN ('*', pipeline) AND s.2 IN ('*', rule), quiet) AS silenced
FROM
(
    SELECT * FROM alerts WHERE pipeline IN ('{name}', '_stack')
    ORDER BY sequence DESC LIMIT 1 BY pipeline, rule
)
WHERE state IN ('pending', 'firing') OR (state = 'resolved' AND since > now() - INTERVAL 1 HOUR)
ORDER BY state = 'firing' DESC, severity = 'critical' DESC, since
LIMIT 50"""

SILENCES = """\
SELECT id, pipeline, rule, until, reason, author
FROM (SELECT * FROM silences ORDER BY at DESC LIMIT 1 BY id)
WHERE until > now64(3) AND pipeline IN ('*', '{name}', '_stack')
ORDER BY until
LIMIT 50"""

CHECKED = """\
SELECT if(exact, 'exact', 'not exact') AS books, missing, doubled, unchecked AS `to check`,
    date_diff('second', exact_at, now64(3)) AS `exact, s ago`,
    date_diff('second', at, now64(3)) AS `checked, s ago`, took_ms / 1000 AS `round took, s`
FROM reconciliations
WHERE pipeline = '{name}'
ORDER BY at DESC
LIMIT 1"""

STORE = """\
SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts,
    max(modification_time) AS last_write
FROM system.parts
WHERE active AND database = currentDatabase()
GROUP BY table
ORDER BY bytes DESC"""


def page(pipeline: Pipeline) -> Page:
    """Alerts, processes, partitions, dead letters, reconciliation."""
    name = pipeline.name
    states = {"running": "good", "failed": "bad", "silent": "bad", "waiting": "warn",
              "starting": "warn"}  # fmt: skip
    return Page(
        name="health",
        title="Health",
        about="Every process and every partition, as they last spoke of themselves.",
        body=_books() + _channels(),
        figures=(
            *_alerts(name),
            Figure(
                name="processes",
                title="Processes",
                kind="table",
                source="processes",
                command="tidemill status",
                drawn={
                    "styles": {"process": "code", "state": "tag", "for": "duration"},
                    "tags": states,
                },
                empty="No process of this home speaks. Start `tidemill up`.",
                every_s=1.0,
                wide=True,
            ),
            Figure(
                name="partitions",
                title="Partitions",
                kind="table",
                about="Records that wait; p0, p1, ... are partitions. Standing still: since when "
                "no commit came although records wait, as far as was seen from here.",
                source="partitions",
                command=f"tidemill status --json | jq .lag.{name}",
                drawn={"styles": {"topic": "code", "stands still": "duration"}},
                every_s=2.0,
                wide=True,
            ),
            Figure(
                name="rejected",
                title="Dead letters",
                kind="table",
                about="Records that could not be used. Each is kept whole, with its reason.",
                sql=REJECTED.format(name=name),
                drawn={"styles": {"newest": "minute", "source_topic": "code"}},
                empty="No record was rejected.",
                every_s=5.0,
                wide=True,
            ),
            Figure(
                name="store",
                title="Tables",
                kind="table",
                sql=STORE,
                drawn={
                    "styles": {"table": "code", "last_write": "minute", "bytes": "bytes"},
                    "titles": {"bytes": "on disk", "last_write": "last write (UTC)"},
                },
                empty="The database has no rows yet.",
                every_s=10.0,
                wide=True,
            ),
        ),
    )


def _alerts(name: str) -> tuple[Figure, ...]:
    states = {"firing": "bad", "pending": "warn", "silenced": "warn", "resolved": "good"}
    return (
        Figure(
            name="alerts",
            title="Alerts",
            kind="table",
            about="What fires, what may fire soon, and what was over within the last hour.",
            sql=ALERTS.format(name=name),
            command=f"tidemill alerts list {name}",
            drawn={
                "styles": {"now": "tag", "since": "minute", "rule": "code", "pipeline": "code"},
                "tags": states,
                "titles": {"now": "state"},
                "hide": ["silenced"],
            },
            empty="Nothing fires.",
            every_s=2.0,
            wide=True,
        ),
        Figure(
            name="silences",
            title="Silences",
            kind="table",
            about="What people asked not to be told about. It is shown all the same.",
            sql=SILENCES.format(name=name),
            drawn={"styles": {"id": "code", "pipeline": "code", "rule": "code", "until": "minute"}},
            empty="None. `tidemill alerts silence PIPELINE RULE --for 2h --reason ...` makes one.",
            every_s=5.0,
        ),
        Figure(
            name="checked",
            title="Books, checked for ever",
            kind="tiles",
            about="A bounded check of what is new, once a minute; what was found is looked at "
            "again until it heals.",
            sql=CHECKED.format(name=name),
            drawn={"bad": ["missing", "doubled"]},
            empty="The first round has not ended. `tidemill alerts run` checks; `up` starts it.",
            every_s=5.0,
        ),
    )


def _channels() -> str:
    options = "".join(
        f'<option value="{name}">{words}</option>'
        for name, words in (
            ("all", "every channel"), ("log", "the log"), ("topic", "the topic"),
            ("webhook", "the webhook"), ("email", "mail"),
        )
    )  # fmt: skip
    return f"""<section class="panel" aria-labelledby="title-channels">
<h2 id="title-channels">Does an alert arrive?</h2>
<p class="about">Sends a notice that says it is a test, and what became of it.</p>
<p class="row spaced"><label>To <select id="channel">{options}</select></label>
<button type="button" class="primary" id="try-channel">Send a test</button>
<code>tidemill alerts test --to all</code></p>
<div id="channels" role="status"></div>
</section>"""


def _books() -> str:
    return """<section class="panel" aria-labelledby="title-books" data-script="books">
<h2 id="title-books">Books</h2>
<p class="about">Reads the topics as a consumer does, counts the rows, compares record by record.
It takes seconds to minutes, so it runs when you ask.</p>
<p class="row spaced"><button type="button" class="primary" id="reconcile">Check the books</button>
<code>tidemill reconcile</code></p>
<div id="books" role="status"></div>
</section>"""
