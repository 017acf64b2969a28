"""What runs, what is behind, what was rejected, and whether the books are exact."""

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

STORE = """\
SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts,
    max(modification_time) AS last_write
FROM system.parts
WHERE active AND database = currentDatabase()
GROUP BY table
ORDER BY bytes DESC"""


def page(pipeline: Pipeline) -> Page:
    """Processes, partitions, dead letters, reconciliation."""
    name = pipeline.name
    states = {"running": "good", "failed": "bad", "silent": "bad", "waiting": "warn",
              "starting": "warn"}  # fmt: skip
    return Page(
        name="health",
        title="Health",
        about="Every process and every partition, as they last spoke of themselves.",
        body=_books(),
        figures=(
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


def _books() -> str:
    return """<section class="panel" aria-labelledby="title-books" data-script="books">
<h2 id="title-books">Books</h2>
<p class="about">Reads the topics as a consumer does, counts the rows, compares record by record.
It takes seconds to minutes, so it runs when you ask.</p>
<p class="row spaced"><button type="button" class="primary" id="reconcile">Check the books</button>
<code>tidemill reconcile</code></p>
<div id="books" role="status"></div>
</section>"""
