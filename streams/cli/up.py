"""`tidemill up`: everything for one or more pipelines, until Ctrl-C."""

from typing import TYPE_CHECKING

import click

from streams.cli.console import console, without_password
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from schemas.pipeline import Pipeline
    from schemas.settings import Settings
    from streams.cli.named import Named

CONSUMER_OPTIONS = "--from-beginning --isolation-level read_committed --max-messages 3"


@click.command("up")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option(
    "--workers",
    "-w",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Scorers per pipeline; more than there are partitions stand by.",
)
@click.option("--dashboard/--no-dashboard", default=True, help="Pages at http://127.0.0.1:8200.")
@click.option(
    "--unattended/--by-hand",
    default=True,
    help="Train as the pipeline declares, and judge what is tried.",
)
@click.option("--alerts/--no-alerts", default=True, help="Watch it all, and tell people.")
def command(
    pipelines: tuple[str, ...], workers: int, dashboard: bool, unattended: bool, alerts: bool
) -> None:
    """Start Kafka, ClickHouse, the workers and, if there is none, a first model; then stay.

    PIPELINE is the name of a ready pipeline or a path that ends in .py; without one it is flights.
    Workers that die are started again. Ctrl-C stops everything; data stays under TIDEMILL_HOME
    (.tidemill). TIDEMILL_KAFKA and TIDEMILL_CLICKHOUSE name existing servers to use instead.

    \b
    Examples:
      tidemill up
      tidemill up my_pipeline.py --workers 2
    """  # noqa: D301
    from schemas.settings import Settings
    from streams.cli.assembly import (
        assembled,
        start_alerts,
        start_dashboard,
        start_delivery,
        start_metrics,
    )
    from streams.cli.named import Named

    named = [Named.load(reference) for reference in pipelines or ("flights",)]
    with assembled(Settings.from_environment(), named, workers=workers) as stack:
        if unattended:
            start_delivery(stack, named)
        if alerts:
            start_alerts(stack, named)
        pages = start_dashboard(stack) if dashboard else ""
        start_metrics(stack)
        print_endpoints(stack.settings, named, pages=pages)
        print_next(named[0])
        console().print("\n[bold]Running.[/bold] Ctrl-C stops it.")
        stack.run_forever()


def print_endpoints(settings: "Settings", named: "list[Named]", *, pages: str) -> None:
    """Where everything is; ``pages`` is the address of the dashboard, if it runs."""
    topics = ", ".join(item.pipeline.topics.events.name for item in named)
    console().print(
        (f"\n  Dashboard   [bold]{pages}[/bold]   open it in a browser" if pages else "")
        + f"\n  Kafka       {settings.kafka}   events go to {topics}\n"
        f"  ClickHouse  {without_password(settings.clickhouse)}   database {settings.database}\n"
        f"  data, logs  {settings.home}"
    )


def print_next(item: "Named") -> None:
    """What a person may try now, each line as it is typed."""
    name, reference = item.pipeline.name, item.reference
    console().print("\nIn another terminal:")
    for title, lines in (
        ("Send real events", [f"tidemill replay {reference} --events 20000 --rate 2000"]),
        (
            "Read predictions, as any Kafka consumer does",
            [f"tidemill kafka console-consumer --topic {name}.predictions {CONSUMER_OPTIONS}"],
        ),
        ("Ask in SQL", [f'tidemill sql "{query}"' for query in queries(item.pipeline)]),
        ("See how it goes", ["tidemill status"]),
        ("Check the books", [f"tidemill reconcile {reference}"]),
        ("Start a pipeline of your own", ["tidemill init payments"]),
    ):
        console().print(f"[dim]# {title}[/dim]")
        for line in lines:
            console().out(line, highlight=False)


def queries(pipeline: "Pipeline") -> list[str]:
    """Three questions to the store: who is at risk, how fast it was, how right it was."""
    from schemas.features import Category

    words = [f.name for f in pipeline.features if isinstance(f, Category)]
    by, name = (words[0] if words else "model_version"), pipeline.name
    risk = (
        f"SELECT {by}, count() AS events, round(avg(score), 3) AS risk FROM {name} "
        f"GROUP BY {by} ORDER BY risk DESC LIMIT 5"
    )
    latency = (
        "SELECT quantiles(0.5, 0.99)(date_diff('ms', produced_at, predicted_at)) AS ms_p50_p99 "
        f"FROM {name}"
    )
    truth = (
        f"SELECT round(score, 1) AS said, round(avg({pipeline.target.name}), 2) AS came_true, "
        f"count() AS events FROM {name}_outcomes GROUP BY said ORDER BY said"
    )
    return [risk, latency, truth]
