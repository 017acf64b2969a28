"""`tidemill status`: what runs, how far it is, what it waits for; also when half of it is down."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import console, count, print_json, running_if_any, without_password
from streams.cli.reference import PIPELINE
from streams.cli.trend import TREND_S, trend

if TYPE_CHECKING:
    from rich.console import RenderableType

    from schemas.pipeline import Pipeline
    from schemas.settings import Settings

DEADLINE_S = 7.0
"""How long one server may take to answer before it counts as down."""


@click.command("status")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--watch", is_flag=True, help="Once a second until Ctrl-C.")
def command(pipelines: tuple[str, ...], as_json: bool, watch: bool) -> None:
    """Show servers, workers, models, lag and rows. Exit code 1 if nothing runs.

    Workers are those of this home. PIPELINE is needed where `tidemill up` does not run, to know
    whose lag and models to ask for.

    \b
    Examples:
      tidemill status --json | jq '.workers[] | {name, state, detail}'
      TIDEMILL_KAFKA=k1:9092 TIDEMILL_CLICKHOUSE=http://ch:8123 tidemill status flights
    """  # noqa: D301
    if watch and not as_json:
        from rich.live import Live

        with Live(console=console(), auto_refresh=False, screen=False) as live:
            while True:
                live.update(_renderable(gather(pipelines)), refresh=True)
                time.sleep(1.0)
    while True:
        found = gather(pipelines)
        if as_json:
            print_json(found)
        else:
            console().print(_renderable(found))
        if not watch:
            sys.exit(0 if found["running"] else 1)
        time.sleep(1.0)


def gather(references: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that `--json` prints, of ``references`` or what `tidemill up` runs here.

    Takes at most a little more than `DEADLINE_S`.
    """
    from schemas.loading import load_pipeline

    settings, stack = running_if_any()
    named = references or (stack.pipelines if stack else [])
    pipelines = [load_pipeline(reference) for reference in named]
    found: dict[str, Any] = {
        "running": stack is not None or bool(settings.kafka and settings.clickhouse),
        "home": str(settings.home),
        "kafka": settings.kafka,
        "kafka_state": "unknown: no address",
        "clickhouse": without_password(settings.clickhouse),
        "clickhouse_state": "unknown: no address",
        "database": settings.database,
        "pipelines": [pipeline.name for pipeline in pipelines],
        "workers": workers(settings),
        "models": {},
        "lag": {},
        "trend": {},
        "ledger": {},
        "delays_ms": {},
        "rows": {},
    }
    # Not left as a context manager: leaving would wait for a call that hangs.
    pool = ThreadPoolExecutor(2)
    asked: list[tuple[str, Any]] = []
    if settings.kafka:
        asked.append(("kafka_state", pool.submit(_ask_kafka, settings, pipelines)))
    if settings.clickhouse:
        asked.append(("clickhouse_state", pool.submit(_ask_store, settings)))
    deadline = time.monotonic() + DEADLINE_S
    for name, future in asked:
        try:
            found |= future.result(timeout=max(0.1, deadline - time.monotonic()))
            found[name] = "ok"
        except TimeoutError:
            found[name] = f"down: no answer within {DEADLINE_S:.0f} s"
        except Exception as error:
            found[name] = f"down: {str(error)[:200]}"
    pool.shutdown(wait=False, cancel_futures=True)
    return found


def workers(settings: "Settings") -> list[dict[str, Any]]:
    """What every process of this home last said of itself."""
    import msgspec

    from streams.telemetry import REPORT_AGE_S_MAX, read_reports

    now_ms = time.time() * 1000
    found = []
    for report in read_reports(settings.run_folder):
        age_s = (now_ms - report.updated_at_ms) / 1000
        entry: dict[str, Any] = msgspec.to_builtins(report)
        entry |= {"age_s": round(age_s, 1), "stale": age_s > REPORT_AGE_S_MAX}
        found.append(entry)
    return found


def _ask_kafka(settings: "Settings", pipelines: "list[Pipeline]") -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S - 0.2 - TREND_S - 1.0):
            lag, models, ledger = {}, {}, {}
            looked_at: dict[str, float] = {}
            for pipeline in pipelines:
                ledger[pipeline.name] = await _ledger(settings, pipeline)
                lag[pipeline.name] = await _lag(settings, pipeline)
                looked_at[pipeline.name] = time.monotonic()
                models[pipeline.name] = await _model(settings, pipeline.name)
            if not pipelines:
                await _reach(settings)
        trends: dict[str, Any] = {}
        with contextlib.suppress(TimeoutError):  # what is known already is worth more
            async with asyncio.timeout(TREND_S + 1.0):
                for pipeline in pipelines:
                    name = pipeline.name
                    trends[name] = await _trend(settings, pipeline, lag[name], looked_at[name])
        return {"lag": lag, "models": models, "ledger": ledger, "trend": trends}

    return asyncio.run(ask())


async def _trend(
    settings: "Settings", pipeline: "Pipeline", before: dict[str, int], looked_at: float
) -> dict[str, Any]:
    """A second look at the lag, if there is any, a second after the first."""
    if not any(before.values()):
        return trend(before, before, TREND_S)
    await asyncio.sleep(max(0.0, looked_at + TREND_S - time.monotonic()))
    after = await _lag(settings, pipeline)
    return trend(before, after, time.monotonic() - looked_at)


async def _reach(settings: "Settings") -> None:
    from streams.books.committed import CommittedReader

    async with CommittedReader(settings, deadline_s=DEADLINE_S):
        return


async def _model(settings: "Settings", pipeline: str) -> dict[str, Any] | None:
    from streams.control.announce import champion

    announced = await champion(settings, pipeline)
    if announced is None:
        return None
    return {
        "version": announced.version,
        "epoch": announced.epoch,
        "age_s": round(time.time() - announced.announced_at_ms / 1000),
    }


async def _ledger(settings: "Settings", pipeline: "Pipeline") -> dict[str, Any]:
    """The counts of the label ledgers, as their offset commits carry them, and the coverage."""
    from streams.books.balance import coverage, join_group, pointers, total
    from streams.books.committed import committed

    found = await committed(settings, join_group(pipeline.name), deadline_s=DEADLINE_S)
    counts = total(pointers(pipeline.topics.scored.name, found).values())
    return {**counts, "coverage": coverage(counts)}


async def _lag(settings: "Settings", pipeline: "Pipeline") -> dict[str, int]:
    """Records that each group has still before it, over its topics."""
    from streams.books.lag import LagReader

    async with LagReader(settings, deadline_s=DEADLINE_S) as reader:
        return {
            role: sum(one.lag for one in all_)
            for role, all_ in (await reader.read(pipeline)).items()
        }


def _ask_store(settings: "Settings") -> dict[str, Any]:
    from streams.store.client import connect

    client = connect(settings)
    try:
        rows = client.query(
            " UNION ALL ".join(
                f"SELECT pipeline, '{table}', count() FROM {table} GROUP BY pipeline"
                for table in ("scored", "labels", "examples", "dead_letters", "alarms")
            )
        ).result_rows
        delays = client.query(
            "SELECT pipeline, quantilesTDigest(0.5, 0.95)(delay_ms) FROM examples "
            "WHERE delay_ms IS NOT NULL AND produced_at > now() - INTERVAL 1 DAY GROUP BY pipeline"
        ).result_rows
    finally:
        client.close()
    found: dict[str, dict[str, int]] = {}
    for pipeline, table, number in rows:
        found.setdefault(pipeline, {})[table] = int(number)
    return {
        "rows": found,
        "delays_ms": {
            pipeline: {"p50": float(middle), "p95": float(high)}
            for pipeline, (middle, high) in delays
        },
    }


_COLOURS = {"running": "green", "waiting": "yellow", "starting": "yellow", "failed": "red"}


def _renderable(found: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    if not found["running"]:
        return (
            f"nothing runs on home={found['home']}. Start `tidemill up`, or set TIDEMILL_HOME to "
            "the folder of a running one."
        )
    servers = Table(box=None, pad_edge=False, show_header=False)
    for name, key in (("Kafka", "kafka"), ("ClickHouse", "clickhouse")):
        state = found[f"{key}_state"]
        colour = "green" if state == "ok" else "red"
        servers.add_row(name, found[key], f"[{colour}]{escape(state)}[/{colour}]")
    servers.add_row("database", found["database"], "")
    parts: list[RenderableType] = [servers]
    if found["pipelines"]:
        parts += ["", _pipelines_table(found)]
        if any(counts.get("predictions") for counts in found["ledger"].values()):
            parts += ["", _ledger_table(found)]
    if found["workers"]:
        parts += ["", _workers_table(found["workers"])]
    return Group(*parts)


def _pipelines_table(found: dict[str, Any]) -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("pipeline")
    table.add_column("model")
    for name in ("to score", "to land", "scored rows", "labels", "dead letters", "alarms"):
        table.add_column(name, justify="right")
    shown: Callable[[dict[str, int], str], str] = lambda numbers, key: (  # noqa: E731
        count(numbers[key]) if key in numbers else "?"
    )
    for name in found["pipelines"]:
        model = found["models"].get(name)
        lag, rows = found["lag"].get(name, {}), found["rows"].get(name, {})
        if found["clickhouse_state"] == "ok":
            rows = {"scored": 0, "labels": 0, "dead_letters": 0, "alarms": 0} | rows
        table.add_row(
            name,
            f"{model['version']} (epoch {model['epoch']})" if model else "?",
            shown(lag, "score") + _drained(found, name, "score"),
            shown(lag, "land") + _drained(found, name, "land"),
            shown(rows, "scored"),
            shown(rows, "labels"),
            shown(rows, "dead_letters"),
            shown(rows, "alarms"),
        )
    return table


def _drained(found: dict[str, Any], pipeline: str, role: str) -> str:
    """When a backlog will be gone, as people read it; nothing when there is none."""
    known = found["trend"].get(pipeline, {}).get(role)
    if not known or known["drained_in_s"] == 0:
        return ""
    if known["drained_in_s"] is None:
        return f" (+{count(known['lag_per_s'])}/s)"
    return f" (gone in {_duration(known['drained_in_s'])})"


def _ledger_table(found: dict[str, Any]) -> "RenderableType":
    """What waits for what, and what became of the rest."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("labels of")
    for name in (
        "to join", "open", "pending", "waiting", "labelled", "delay p50 / p95", "corrected",
        "expired", "orphans", "evicted",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for name, counts in found["ledger"].items():
        of: Callable[..., str] = lambda *keys: count(sum(counts.get(k, 0) for k in keys))  # noqa: B023, E731
        delays = found["delays_ms"].get(name)
        share = counts.get("coverage")
        table.add_row(
            name,
            count(found["lag"].get(name, {}).get("join", 0)),
            of(*(key for key in counts if key.startswith("open_"))),
            of("open_pending"),
            of("waiting"),
            "-" if share is None else f"{100 * share:.1f} %",
            f"{_duration(delays['p50'] / 1000)} / {_duration(delays['p95'] / 1000)}"
            if delays
            else "-",
            of("corrected"),
            of("expired", "provisional"),
            of("orphans_expired", "orphans_evicted"),
            of("evicted"),
        )
    return table


def _workers_table(reports: list[dict[str, Any]]) -> "RenderableType":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("process", "pid", "state", "for", "did", "why"):
        table.add_column(name, justify="right" if name in {"pid", "for"} else "left")
    for report in reports:
        counters = report["counters"]
        did = ", ".join(
            f"{count(counters[key])} {key.replace('_', ' ')}"
            for key in (
                "predictions",
                "dead_letters",
                "examples",
                "examples_learned",
                "alarms",
                "rows_scored",
                "rows_labels",
                "restarts",
            )
            if counters.get(key)
        )
        state = f"silent for {report['age_s']:.0f} s" if report["stale"] else report["state"]
        colour = "red" if report["stale"] else _COLOURS.get(report["state"], "white")
        table.add_row(
            report["name"],
            str(report["pid"]),
            f"[{colour}]{state}[/{colour}]",
            _duration(time.time() - report["since_ms"] / 1000),
            did,
            escape(report["detail"]),
        )
    return table


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
