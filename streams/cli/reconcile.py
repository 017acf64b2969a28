"""`tidemill reconcile`: are the books exact, and if not, which record is it."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import console, count, pipelines_or_running, print_json, running, watched
from streams.cli.numbers import NumberRange
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from schemas.pipeline import Pipeline
    from schemas.settings import Settings
    from streams.books.balance import LedgerBooks
    from streams.books.reconcile import Reconciliation

POLL_S = 0.5


@click.command("reconcile")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option(
    "--wait",
    default=0.0,
    show_default=True,
    type=NumberRange(min=0),
    help="Seconds to look again while records are on their way and nothing is wrong.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(pipelines: tuple[str, ...], wait: float, as_json: bool) -> None:
    """Compare, record by record, the topics as a read_committed consumer reads them and the tables.

    Exit code 0: every event is one prediction or one dead letter, each of those one row, and the
    label ledger misses no prediction, no label and no example. 1: it is not so, or not yet.
    While events still come, some record is always on its way: stop the producers, or read "not
    finished" as "nothing wrong so far".

    \b
    Example:
      tidemill reconcile flights --wait 30
    """  # noqa: D301
    settings = running()
    from schemas.loading import load_pipeline

    loaded = [load_pipeline(reference) for reference in pipelines_or_running(pipelines)]
    books = [closed_books(pipeline, settings, wait_s_max=wait) for pipeline in loaded]
    if as_json:
        print_json([_builtins(book) for book in books])
    else:
        for book in books:
            print_books(book)
    sys.exit(0 if all(book.exact for book in books) else 1)


def _builtins(book: "Reconciliation") -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(book) | {"exact": book.exact}
    if book.ledger is not None:
        found["ledger"] |= {"exact": book.ledger.exact, "missing": book.ledger.missing}
    return found


def run_reconcile(pipeline: "Pipeline", settings: "Settings") -> "Reconciliation":
    """Do it, with a line that says what is being read."""
    from schemas.arrow import spare_pandas
    from streams.books.reconcile import StoreRows, reconcile
    from streams.store.client import connect

    spare_pandas()
    client = connect(settings)
    try:
        rows = StoreRows(client)
        if not watched():
            return asyncio.run(reconcile(pipeline, settings, rows))
        with console().status("reconciling") as status:
            return asyncio.run(reconcile(pipeline, settings, rows, status.update))
    finally:
        client.close()


def closed_books(
    pipeline: "Pipeline", settings: "Settings", *, wait_s_max: float, ledger: bool = False
) -> "Reconciliation":
    """The books once nothing is on its way, or something is wrong, or `wait_s_max` have passed.

    Each look reads everything again. With `ledger` a pipeline whose joiner has not run yet is
    waited for, too.
    """
    deadline = time.monotonic() + wait_s_max
    while True:
        books = run_reconcile(pipeline, settings)
        moving = books.waiting > 0 or (ledger and books.ledger is None)
        if books.findings or not moving or time.monotonic() >= deadline:
            return books
        time.sleep(POLL_S)


def print_books(book: "Reconciliation") -> None:
    """The equation, the labels, and every finding."""
    from rich.table import Table

    table = Table(title=f"books of {book.pipeline}", title_justify="left", box=None, pad_edge=False)
    for name in ("", "in Kafka", "in ClickHouse", "still waiting"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("events", count(book.events), "", count(book.waiting_to_score))
    table.add_row("predictions", count(book.predictions), count(book.rows), "")
    table.add_row(
        "dead letters",
        count(book.dead_letters),
        count(book.dead_letter_rows),
        count(book.waiting_to_land),
    )
    table.add_row("labels", count(book.labels), count(book.label_rows), count(book.labels_waiting))
    if book.label_dead_letters:
        table.add_row("  rejected", "", count(book.label_dead_letters), "")
    if book.ledger:
        ledger = book.ledger
        waiting = count(ledger.rows_waiting)
        table.add_row("examples", count(ledger.steps), count(ledger.step_rows), waiting)
    out = console()
    out.print(table)
    if book.ledger:
        _print_ledger(book.ledger)
    for finding in book.findings:
        offsets = ", ".join(map(str, finding.offsets))
        more = ", ..." if finding.count > len(finding.offsets) else ""
        out.print(
            f"[red]{finding.what}[/red]: {count(finding.count)} of source partition "
            f"{finding.partition}, offsets {offsets}{more}"
        )
    if book.repeated:
        out.print(f"[dim]{count(book.repeated)} predictions came again (at-least-once)[/dim]")
    for note in book.notes:
        out.print(f"[dim]{note}[/dim]")
    equation = (
        f"{count(book.events)} events = {count(book.predictions)} predictions + "
        f"{count(book.dead_letters)} dead letters = {count(book.rows + book.dead_letter_rows)} rows"
    )
    if book.exact:
        out.print(f"[green]exact[/green]  {equation}")
    elif book.findings:
        out.print(f"[red]not exact[/red]  {equation.replace('=', '<>')}")
    else:
        out.print(f"[yellow]not finished[/yellow]  {count(book.waiting)} records are on their way")


def _print_ledger(ledger: "LedgerBooks") -> None:
    """Where every prediction and every label is."""
    from streams.ledger.rows import STATES

    counts = ledger.counts
    opened = sum(counts.get(f"open_{state}", 0) for state in STATES)
    orphans = counts.get("orphans_expired", 0) + counts.get("orphans_evicted", 0)
    predictions = [(opened, "open"), *((counts.get(n, 0), n) for n in PREDICTIONS_IN)]
    labels = [*((counts.get(n, 0), n) for n in LABELS_IN), (orphans, "without an event")]
    out = console()
    for what, places in (("predictions", predictions), ("labels", labels)):
        shown = " + ".join(f"{count(number)} {place}" for number, place in places)
        out.print(f"ledger  {count(counts.get(what, 0))} {what} = {shown}")
    colour = "red" if ledger.missing else "green"
    on_the_way = ledger.predictions_waiting + ledger.labels_waiting
    more = f", {count(on_the_way)} not read yet" if on_the_way else ""
    out.print(f"ledger  [{colour}]{count(ledger.missing)} missing[/{colour}]{more}")


PREDICTIONS_IN = ("closed", "evicted", "repeated")
LABELS_IN = ("joined", "confirmed", "duplicates", "late", "waiting")
