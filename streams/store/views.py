"""What people query: each pipeline under its own name, with its features as named columns.

SELECT carrier, avg(score) FROM flights GROUP BY carrier
SELECT carrier, avg(score), avg(late) FROM flights_outcomes GROUP BY carrier
SELECT kind, count() FROM flights_history GROUP BY kind
"""

from schemas.examples import KINDS
from schemas.features import split
from schemas.pipeline import Pipeline
from streams.store.client import Client, mapped_errors
from streams.store.quality_views import quality_view_statements

# The columns of `scored` that a view shows under their own name, in this order.
_BEFORE = ("event_id", "event_time")
_AFTER = (
    "score",
    "model_version",
    "model_age_ms",
    "produced_at",
    "predicted_at",
    "landed_at",
    "topic_partition",
    "topic_offset",
    "source_partition",
    "source_offset",
)
_OUTCOME = ("label_time", "label_revision", "label_kind")
_HISTORY = (
    "event_id", "known_at", "kind", "previous", "label_time", "label_revision", "delay_ms", "step",
    "source_partition", "source_offset", "topic_partition", "topic_offset", "landed_at",
)  # fmt: skip
# What held last is the step with the highest number: kinds in their order, and in one the revision.
NEWEST_STEP = f"(indexOf([{', '.join(map(repr, KINDS))}], kind), revision)"


def create_views(client: Client, pipeline: Pipeline) -> None:
    """Make or replace the views of ``pipeline`` in the client's database.

    ``<name>``: one row per prediction. ``<name>_outcomes``: those whose truth is known or assumed
    (``label_kind``), with what holds now under the target's name. ``<name>_history``: every step of
    every prediction, with what was held true ``known_at`` that moment; the highest ``step`` is the
    newest. A feature that is called like a column of ours appears as ``feature_<name>``.
    ``<name>_quality``, ``_stability`` and ``_alarms``: see `store.quality_views`.

    Raises:
        StoreUnavailable: the store does not answer.
        SetupError: the tables are missing, or the right to make views is.
    """
    for name, sql in (view_statements(pipeline) | quality_view_statements(pipeline)).items():
        with mapped_errors(f"make view {name}"):
            client.command(sql)


def view_statements(pipeline: Pipeline) -> dict[str, str]:
    """The ``CREATE OR REPLACE VIEW`` of each view, by its name."""
    name = pipeline.name
    # The declared name is lower-case letters, digits and underscores; it needs no escaping.
    predictions = (
        f"CREATE OR REPLACE VIEW `{name}` AS\nSELECT\n    {_columns(pipeline)}\n"
        f"FROM scored\nWHERE pipeline = '{name}'"
    )
    target = _free(pipeline.target.name, {*_BEFORE, *_AFTER, *_OUTCOME, *_taken(pipeline)})
    outcomes = (
        f"CREATE OR REPLACE VIEW `{name}_outcomes` AS\n"
        f"SELECT p.*, o.value AS `{target}`, o.label_time AS label_time, "
        "o.revision AS label_revision, o.kind AS label_kind\n"
        f"FROM `{name}` AS p\n"
        "INNER JOIN\n(\n"
        "    SELECT source_partition, source_offset, latest.1 AS value, latest.2 AS label_time,\n"
        "        latest.3 AS revision, latest.4 AS kind\n"
        "    FROM\n    (\n"
        "        SELECT source_partition, source_offset,\n"
        "            argMax((assumeNotNull(label), label_time, revision, kind),\n"
        f"                {NEWEST_STEP}) AS latest\n"
        f"        FROM examples WHERE pipeline = '{name}' AND label IS NOT NULL\n"
        "        GROUP BY source_partition, source_offset\n"
        "    )\n"
        ") AS o ON p.source_partition = o.source_partition AND p.source_offset = o.source_offset"
    )
    said = _free(pipeline.target.name, set(_HISTORY))
    history = (
        f"CREATE OR REPLACE VIEW `{name}_history` AS\n"
        f"SELECT event_id, produced_at AS known_at, kind, label AS `{said}`, previous,\n"
        f"    label_time, revision AS label_revision, delay_ms, {NEWEST_STEP} AS step,\n"
        "    source_partition, source_offset, topic_partition, topic_offset, landed_at\n"
        f"FROM examples WHERE pipeline = '{name}'"
    )
    return {name: predictions, f"{name}_outcomes": outcomes, f"{name}_history": history}


def _columns(pipeline: Pipeline) -> str:
    numeric, category = split(pipeline.features)
    own = {*_BEFORE, *_AFTER, *_OUTCOME}
    key = _free(pipeline.key, own)
    reserved = {*own, key}
    features = [
        f"numeric[{i}] AS `{_free(f.name, reserved)}`" for i, f in enumerate(numeric, start=1)
    ] + [f"category[{i}] AS `{_free(f.name, reserved)}`" for i, f in enumerate(category, start=1)]
    return ",\n    ".join([*_BEFORE, f"key AS `{key}`", *features, *_AFTER])


def _taken(pipeline: Pipeline) -> set[str]:
    own = {*_BEFORE, *_AFTER, *_OUTCOME}
    key = _free(pipeline.key, own)
    return {key} | {_free(f.name, {*own, key}) for f in pipeline.features}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"feature_{name}"
    return name
