"""`tidemill demo`: real events through everything, then a report and the books."""

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import console, count, watched
from streams.cli.numbers import NumberRange
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from schemas.pipeline import Pipeline
    from schemas.settings import Settings
    from streams.replay import Replay, Sent

LAND_S_MAX = 120.0
"""How long no row may arrive before the demo gives up waiting for the rest."""

POLL_S = 0.25


@click.command("demo")
@click.argument("pipeline", type=PIPELINE, default="flights")
@click.option("--events", "-n", default=20_000, show_default=True, type=click.IntRange(1))
@click.option(
    "--rate",
    default=2_000.0,
    show_default=True,
    type=NumberRange(0),
    help="Events per second; 0 is as fast as it goes.",
)
@click.option("--workers", "-w", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--dashboard/--no-dashboard", default=True, help="Pages at http://127.0.0.1:8200.")
@click.option("--exit", "leave", is_flag=True, help="End afterwards instead of staying up.")
def command(  # noqa: PLR0917  # click passes them by name
    pipeline: str, events: int, rate: float, workers: int, dashboard: bool, leave: bool
) -> None:
    """Start everything, send real events, wait until all is landed, report and check the books.

    Exit code 0 only if events = predictions + dead letters = rows.

    \b
    Examples:
      tidemill demo
      tidemill demo --events 50000 --rate 0 --exit
    """  # noqa: D301
    from schemas.arrow import spare_pandas
    from schemas.errors import PipelineError
    from schemas.settings import Settings
    from streams.cli.assembly import assembled, start_dashboard
    from streams.cli.named import Named
    from streams.cli.reconcile import closed_books, print_books
    from streams.cli.up import print_endpoints, print_next
    from streams.replay import Pace, Replay, history_slice

    spare_pandas()
    named = Named.load(pipeline)
    if named.pipeline.history is None:
        raise PipelineError(
            f"{named.pipeline.source}: pipeline {named.pipeline.name!r} has no history to show. "
            "Use `tidemill up` and send events yourself."
        )
    exact = False
    # Read while the servers start: it takes seconds.
    history = ThreadPoolExecutor(1).submit(
        history_slice, named.pipeline, events=events, skip=None, start_ms=None
    )
    with assembled(Settings.from_environment(), [named], workers=workers) as stack:
        table = history.result()
        replay = Replay(named.pipeline, stack.settings, table, Pace(rate or None))
        rows = Landed.connect(stack.settings, named.pipeline)
        started_ms = int(time.time() * 1000)
        pages = ""

        def show_pages() -> None:
            nonlocal pages
            if dashboard:
                pages = start_dashboard(stack)
            took = f"[dim]{_since_start(time.time() * 1000):.1f} s after the command[/dim]"
            watch = f"; watch at [bold]{pages}[/bold]" if pages else ""
            console().print(f"[green]ok[/green] first rows in SQL {took}{watch}")

        landed_all = asyncio.run(_drive(replay, rows, show_pages))
        print_report(rows, replay.sent, started_ms)
        print_answer(rows)
        books = closed_books(named.pipeline, stack.settings, wait_s_max=LAND_S_MAX, ledger=True)
        print_books(books)
        exact = landed_all and books.exact
        if leave:
            console().print("\nWithout --exit all of it stays up: `tidemill up`.")
        else:
            print_endpoints(stack.settings, [named], pages=pages)
            print_next(named)
            console().print("\n[bold]Still running.[/bold] Ctrl-C stops it.")
            stack.run_forever()
    sys.exit(0 if exact else 1)


@dataclass(slots=True)
class Landed:
    """Counts rows of one pipeline that came after `connect`."""

    client: Any
    pipeline: "Pipeline"
    rows_before: int = 0
    labels_before: int = 0

    @classmethod
    def connect(cls, settings: "Settings", pipeline: "Pipeline") -> "Landed":
        """A counter that starts now."""
        from streams.store.client import connect

        made = cls(connect(settings), pipeline)
        made.rows_before, made.labels_before = made.count()
        return made

    def count(self) -> tuple[int, int]:
        """Events and labels with a row, since `connect`; a dead letter is a row too."""
        topics = self.pipeline.topics

        def letters(topic: str) -> str:
            return (
                "(SELECT count() FROM dead_letters WHERE pipeline = {pipeline:String} "
                f"AND source_topic = '{topic}')"
            )

        found = self.client.query(
            "SELECT (SELECT count() FROM scored WHERE pipeline = {pipeline:String}) "
            f"+ {letters(topics.events.name)}, "
            "(SELECT count() FROM labels WHERE pipeline = {pipeline:String}) "
            f"+ {letters(topics.labels.name)}",
            parameters={"pipeline": self.pipeline.name},
        ).result_rows[0]
        return int(found[0]) - self.rows_before, int(found[1]) - self.labels_before

    def ask(self, sql: str, started_ms: int) -> dict[str, Any]:
        """One row of an answer, by column."""
        answer = self.client.query(
            sql, parameters={"pipeline": self.pipeline.name, "started_ms": started_ms}
        )
        row: dict[str, Any] = dict(zip(answer.column_names, answer.result_rows[0], strict=True))
        return row


async def _drive(replay: "Replay", rows: Landed, on_first: "Callable[[], None]") -> bool:
    """Send everything and wait until it has landed; False if it stopped landing.

    ``on_first`` is called when the first row is there.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:<7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(),
        transient=True,
        disable=not watched(),
    ) as bar:
        sending = bar.add_task("sent", total=replay.table.num_rows)
        waiting = asyncio.create_task(_wait_landed(replay, rows, bar, on_first))

        def show(sent: "Sent") -> None:
            bar.update(sending, completed=sent.events)

        try:
            await replay.run(show)
            return await waiting
        finally:
            waiting.cancel()


async def _wait_landed(
    replay: "Replay", rows: Landed, bar: "Progress", on_first: "Callable[[], None]"
) -> bool:
    from schemas.errors import StoreUnavailable

    events, labels = replay.table.num_rows, replay.num_labels
    task = bar.add_task("landed", total=events)
    last, moved_at = (-1, -1), time.monotonic()
    while True:
        try:
            now = await asyncio.to_thread(rows.count)
        except (OSError, StoreUnavailable):
            now = last
        if now != last:
            if now[0] > 0 >= last[0]:
                on_first()
            last, moved_at = now, time.monotonic()
            bar.update(task, completed=now[0])
        if now[0] >= events and now[1] >= labels:
            return True
        if time.monotonic() - moved_at > LAND_S_MAX:
            return False
        await asyncio.sleep(POLL_S)


def print_report(rows: Landed, sent: "Sent", started_ms: int) -> None:
    """What happened to the events of this run."""
    from streams.cli.replay import print_sent

    out = console()
    out.print()
    print_sent(sent)
    mine = (
        "pipeline = {pipeline:String} "
        "AND predicted_at >= fromUnixTimestamp64Milli({started_ms:Int64}, 'UTC')"
    )
    run = rows.ask(
        "SELECT count() AS predictions, "
        "quantiles(0.5, 0.99)(date_diff('ms', produced_at, predicted_at)) AS answer_ms, "
        "quantiles(0.5, 0.99)(date_diff('ms', produced_at, landed_at)) AS sql_ms, "
        "1000 * count() / greatest(1, date_diff('ms', min(produced_at), max(landed_at))) AS rate, "
        "toUnixTimestamp64Milli(min(predicted_at)) AS first_ms "
        f"FROM scored WHERE {mine}",
        started_ms,
    )
    if not run["predictions"]:
        out.print("[red]no prediction has landed[/red]")
        return
    quality = rows.ask(
        "SELECT count() AS labelled, arrayROCAUC(groupArray(s.score), groupArray(l.value)) AS auc "
        f"FROM (SELECT event_id, score FROM scored WHERE {mine}) AS s INNER JOIN "
        "(SELECT event_id, argMax(value, revision) AS value FROM labels "
        "WHERE pipeline = {pipeline:String} GROUP BY event_id) AS l ON s.event_id = l.event_id",
        started_ms,
    )
    out.print(
        f"{count(run['predictions'])} predictions are in ClickHouse, {count(run['rate'])} events/s "
        "from the first event to the last row\n"
        f"answered after {_pair(run['answer_ms'])} ms (p50 / p99), in SQL after "
        f"{_pair(run['sql_ms'])} ms; first prediction {_since_start(run['first_ms']):.1f} s after "
        "the command was started"
    )
    if quality["labelled"]:
        out.print(f"AUC {quality['auc']:.4f} on {count(quality['labelled'])} labels so far")
    out.print()


def print_answer(rows: Landed) -> None:
    """A question in SQL and what the store says, as `tidemill sql` would show it."""
    from streams.cli.sql_table import print_table
    from streams.cli.up import queries

    out = console()
    query = queries(rows.pipeline)[0]
    began = time.perf_counter()
    answer = rows.client.query(query)
    took_ms = 1000 * (time.perf_counter() - began)
    out.out(f'$ tidemill sql "{query}"', highlight=False)
    print_table(answer.column_names, answer.result_rows)
    out.print(f"[dim]answered in {took_ms:.0f} ms[/dim]\n")


def _pair(quantiles: Any) -> str:
    return f"{quantiles[0]:,.0f} / {quantiles[1]:,.0f}"


def _since_start(time_ms: float) -> float:
    """Seconds from the start of this process to ``time_ms``."""
    import psutil

    return float(time_ms / 1000 - psutil.Process().create_time())
