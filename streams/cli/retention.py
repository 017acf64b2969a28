"""`tidemill retention`: how long topics and tables keep what, and how long they should."""

import time
from typing import TYPE_CHECKING

import click

from streams.cli.console import console, print_json, running

if TYPE_CHECKING:
    from schemas.pipeline import Pipeline
    from schemas.settings import Settings

DAY_MS = 86_400_000


@click.command("retention")
@click.argument("pipeline", default="flights")
@click.option("--apply", "apply_", is_flag=True, help="Set what differs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(pipeline: str, apply_: bool, as_json: bool) -> None:
    """Show how long topics and tables of PIPELINE keep records and rows; with --apply set it.

    Wanted is what TIDEMILL_TOPIC_RETENTION_DAYS, TIDEMILL_DEAD_LETTER_RETENTION_DAYS and
    TIDEMILL_ROW_RETENTION_DAYS say. What is new gets it by itself; what is there changes only here.
    Exit code 0: shown, or set and written to the audit log.

    \b
    Example:
      TIDEMILL_ROW_RETENTION_DAYS=90 tidemill retention flights --apply
    """  # noqa: D301
    from schemas.loading import load_pipeline

    declared, settings = load_pipeline(pipeline), running()
    rows = _compared(declared, settings)
    if apply_:
        _apply(declared, settings, rows)
        rows = _compared(declared, settings)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        differs = "" if row["present"] == row["wanted"] else f"  should be {row['wanted']}"
        console().print(f"{row['kind']:<6} {row['name']:<28} {row['present']}{differs}")
    needed_ms = declared.horizon_ms + declared.corrections_ms
    if needed_ms > settings.topic_retention_days * DAY_MS:
        console().print(
            "note: horizon and corrections are longer than topics keep records: a joiner that was "
            "away could not catch up. Raise TIDEMILL_TOPIC_RETENTION_DAYS."
        )


def _compared(pipeline: "Pipeline", settings: "Settings") -> list[dict[str, str]]:
    """One row per topic and table: how long it keeps what, and how long it should."""
    from schemas.topics import control_topics
    from streams.store.client import connect
    from streams.store.expiry import EXPIRING, present_days
    from streams.transport.administration import present_retention_ms, retention_ms

    topics = [*pipeline.topics.all(), *control_topics()]
    found = present_retention_ms(settings, topics)
    rows = []
    for topic in topics:
        wanted, present = retention_ms(topic, settings), found.get(topic.name)
        told = "there is none" if present is None else _days(present)
        if wanted is None:
            told, expected = "newest of each key", "newest of each key"
        else:
            expected = _days(wanted)
        rows.append({"kind": "topic", "name": topic.name, "present": told, "wanted": expected})
    client = connect(settings)
    try:
        tables = present_days(client)
    finally:
        client.close()
    for name in EXPIRING:
        told = "there is none" if name not in tables else _days((tables[name] or 0) * DAY_MS or -1)
        expected = _days(settings.row_retention_days * DAY_MS)
        rows.append({"kind": "table", "name": name, "present": told, "wanted": expected})
    return rows


def _apply(pipeline: "Pipeline", settings: "Settings", rows: list[dict[str, str]]) -> None:
    from schemas.topics import control_topics
    from streams.control.audit import append
    from streams.store.client import connect
    from streams.store.expiry import set_days
    from streams.transport.administration import retention_ms, set_retention_ms

    wrong = {row["name"] for row in rows if row["present"] not in {row["wanted"], "there is none"}}
    if not wrong:
        return
    wanted = {
        topic.name: kept_ms
        for topic in (*pipeline.topics.all(), *control_topics())
        if topic.name in wrong and (kept_ms := retention_ms(topic, settings)) is not None
    }
    set_retention_ms(settings, wanted)
    tables = [row["name"] for row in rows if row["kind"] == "table" and row["name"] in wrong]
    client = connect(settings)
    try:
        days = settings.row_retention_days
        set_days(client, tables, days, cluster=settings.clickhouse_cluster)
    finally:
        client.close()
    changed = [row for row in rows if row["name"] in wrong]
    append(
        settings,
        action="set retention",
        subject=pipeline.name,
        at_ms=time.time_ns() // 1_000_000,
        before={row["name"]: row["present"] for row in changed},
        after={row["name"]: row["wanted"] for row in changed},
    )


def _days(kept_ms: int) -> str:
    return "for good" if kept_ms < 0 else f"{kept_ms / DAY_MS:g} days"
