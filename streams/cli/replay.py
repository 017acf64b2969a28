"""`tidemill replay`: a pipeline's history again, at a chosen pace."""

import asyncio
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from streams.cli.console import console, count, print_json, running, watched
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from streams.replay import Replay, Sent

SPEED_HELP = "Speed-up of event time: 3600 sends an hour of history per second."


@click.command("replay")
@click.argument("pipeline", type=PIPELINE, default="flights")
@click.option("--events", "-n", default=20_000, show_default=True, type=click.IntRange(1))
@click.option("--rate", type=float, help="Events per second; without it, as fast as it goes.")
@click.option("--speed", type=float, help=SPEED_HELP)
@click.option("--skip", type=click.IntRange(0), help="Rows of the history to leave out first.")
@click.option(
    "--from",
    "start",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Event time (UTC) to begin at; by default the end of the first model's training.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was sent as JSON.")
def command(  # noqa: PLR0917  # click passes them by name
    pipeline: str,
    events: int,
    rate: float | None,
    speed: float | None,
    skip: int | None,
    start: datetime | None,
    as_json: bool,
) -> None:
    """Send a pipeline's history, in the order of event time, labels once they would be known.

    Returns when the brokers have acknowledged every record. Ctrl-C ends it early and says how far
    it came.

    \b
    Examples:
      tidemill replay --events 50000 --rate 2000
      tidemill replay flights --speed 3600 --from 2013-07-01
    """  # noqa: D301
    for name, value in (("--rate", rate), ("--speed", speed)):
        if value is not None and not 0 < value < float("inf"):
            raise click.BadParameter("must be above 0.", param_hint=name)
    if rate is not None and speed is not None:
        raise click.UsageError("give --rate or --speed, not both.")
    if skip is not None and start is not None:
        raise click.UsageError("give --skip or --from, not both.")
    settings = running()
    from schemas.arrow import spare_pandas
    from schemas.loading import load_pipeline
    from streams.replay import Pace, Replay, history_slice

    spare_pandas()
    loaded = load_pipeline(pipeline)
    start_ms = None if start is None else int(start.replace(tzinfo=UTC).timestamp() * 1000)
    table = history_slice(loaded, events=events, skip=skip, start_ms=start_ms)
    replay = Replay(loaded, settings, table, Pace(rate, speed))
    if table.num_rows == 0:
        raise click.UsageError("the history ends before that point: there is nothing to send.")
    if table.num_rows < events and not as_json:
        console().print(f"[yellow]the history has only {count(table.num_rows)} left[/yellow]")
    sent, complete = run_with_progress(replay)
    if as_json:
        print_json(sent)
    else:
        print_sent(sent)
    if not complete:
        raise click.exceptions.Exit(130)


def run_with_progress(replay: "Replay") -> "tuple[Sent, bool]":
    """Run it under a progress bar; False if Ctrl-C or SIGTERM ended it early."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        with Progress(
            TextColumn("sending"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=console(),
            transient=True,
            disable=not watched(),
        ) as bar:
            task = bar.add_task("", total=replay.table.num_rows, rate="-")

            def show(sent: "Sent") -> None:
                rate = sent.events / max(sent.seconds, 1e-3)
                bar.update(task, completed=sent.events, rate=count(rate))

            await replay.run(show, lambda: stopped)

    asyncio.run(run())
    return replay.sent, not stopped


def print_sent(sent: "Sent") -> None:
    """One line: how many, how fast, from when to when."""
    first, last = (
        f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"
        for ms in (sent.event_time_ms_first, sent.event_time_ms_last)
    )
    console().print(
        f"sent [bold]{count(sent.events)}[/bold] events ({first} to {last}) and "
        f"{count(sent.labels)} labels in {sent.seconds:.1f} s: "
        f"{count(sent.events / max(sent.seconds, 1e-3))} events/s, all acknowledged"
    )
