"""`tidemill train`: a new version from what is known now, judged against the one that serves."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from streams.cli.console import console, print_json, running_if_any, watched
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from schemas.manifest import Announcement
    from schemas.settings import Settings
    from schemas.training import Progress as Line
    from schemas.training import RunResult
    from streams.store.client import Client

    Show = Callable[[Line], None]


@click.command("train")
@click.argument("pipeline", type=PIPELINE, default="flights")
@click.option("--days", type=click.IntRange(min=1), help="Of events before that moment; all.")
@click.option("--as-of", type=click.DateTime(), help="UTC; nothing known later is used.")
@click.option(
    "--source",
    type=click.Choice(["auto", "examples", "history"]),
    default="auto",
    show_default=True,
    help="Examples in the store, or the declared history; auto: examples once there are 1,000.",
)
@click.option("--warm", is_flag=True, help="Begin with the champion's weights.")
@click.option("--balanced", is_flag=True, help="Let both labels count alike.")
@click.option("--ranks", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--launcher",
    type=click.Choice(["torchrun", "ray"]),
    default="torchrun",
    show_default=True,
    help="ray: on the cluster of RAY_ADDRESS; needs tidemill[ray].",
)
@click.option("--sharded", is_flag=True, help="Each rank holds a part of the model (FSDP).")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--promote", is_flag=True, help="Make it serve if it passes the gate.")
@click.option("--prepare-only", is_flag=True, help="Write the job's folder and stop.")
@click.option("--resume", type=click.Path(path_type=Path, exists=True), help="Folder of a job.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(  # noqa: PLR0917  # click passes by name
    pipeline: str,
    days: int | None,
    as_of: datetime | None,
    source: Literal["auto", "examples", "history"],
    warm: bool,
    balanced: bool,
    ranks: int,
    launcher: Literal["torchrun", "ray"],
    sharded: bool,
    epochs: int | None,
    seed: int,
    promote: bool,
    prepare_only: bool,
    resume: Path | None,
    as_json: bool,
) -> None:
    """Train a new version, compare it with the one that serves, and say whether it may replace it.

    Exit code 0: the version is in the registry and passed the gate, and serves if --promote was
    given. 1: it did not pass, or there is none; the reason is printed. 2: a person must change
    something. A job that broke off is finished with --resume; one that is to run elsewhere is
    written with --prepare-only, and `python -P -m trainers.retrain --help` says how.

    \b
    Examples:
      tidemill train flights --days 90 --promote
      tidemill train flights --as-of 2013-07-01 --warm --ranks 2 --json
    """  # noqa: D301
    import msgspec

    from schemas.training import Recipe
    from streams.cli.named import Named
    from streams.rollout import retraining as jobs

    settings, _stack = running_if_any()
    named = Named.load(pipeline)
    name = named.pipeline.name
    client = store_if_any(settings)
    with jobs.only_training(settings, name):
        if resume is None:
            recipe = Recipe(balanced=balanced, layout="sharded" if sharded else "replicated")
            job = msgspec.structs.replace(
                jobs.new_job(
                    settings,
                    named.pipeline,
                    named.reference,
                    serving_now(settings, name),
                    now_ms=_now_ms(),
                ),
                as_of_ms=None if as_of is None else _utc_ms(as_of),
                days=days,
                seed=seed,
                recipe=msgspec.structs.replace(recipe, epochs_max=epochs or recipe.epochs_max),
                start="warm" if warm else "cold",
            )
            folder = jobs.write_job(settings, job)
            jobs.write_rows(client, named.pipeline, folder, source, job)
        else:
            folder = resume.absolute()
        if prepare_only:
            click.echo(folder)
            return
        with progress_shown(name, quiet=as_json) as show:
            program = (jobs.TRAINER, "--ranks", str(ranks), "--launcher", launcher)
            result = jobs.run_job(settings, folder, client=client, show=show, program=program)
    passed = result.verdict is not None and result.verdict.passed
    announced = _promoted(settings, name, result) if passed and promote else None
    print_result(result, folder, announced, as_json=as_json)
    sys.exit(0 if passed else 1)


def serving_now(settings: "Settings", pipeline: str) -> "Announcement | None":
    """What serves; nothing if there is no broker to ask."""
    from schemas.errors import PreflightError
    from streams.control.announce import champion

    if not settings.kafka:
        console().print("[dim]no broker is known here: the version is compared with nothing[/dim]")
        return None
    try:
        return asyncio.run(champion(settings, pipeline))
    except PreflightError:  # no topic yet, so nothing serves
        return None


def store_if_any(settings: "Settings") -> "Client | None":
    """The store, if there is one with our tables."""
    from schemas.errors import SetupError, StoreUnavailable
    from streams.store.client import connect
    from streams.store.migrations import migrate

    if not settings.clickhouse:
        return None
    try:
        migrate(settings)
        return connect(settings)
    except (StoreUnavailable, SetupError) as error:
        click.echo(f"note: this training leaves no rows in SQL: {error}", err=True)
        return None


def _promoted(settings: "Settings", name: str, result: "RunResult") -> "Announcement":
    from streams.rollout.promotion import promote

    return promote(settings, name, result.version, now_ms=_now_ms())


@contextmanager
def progress_shown(name: str, *, quiet: bool) -> "Iterator[Show]":
    """Yields what shows a line: a bar for people, lines for files, nothing for programs."""
    from streams.rollout.retraining import in_words

    if quiet:
        yield lambda _line: None
    elif not watched():
        yield lambda line: click.echo(in_words(line))
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console()) as bars:
            task = bars.add_task(name, total=None)

            def show(line: "Line") -> None:
                bars.update(
                    task,
                    total=line.steps_max or None,
                    completed=line.step,
                    description=in_words(line),
                )

            yield show


def print_result(
    result: "RunResult", folder: Path, announced: "Announcement | None", *, as_json: bool
) -> None:
    """How a job ended, for a person or a program."""
    import msgspec
    from rich.markup import escape
    from rich.table import Table

    if as_json:
        passed = result.verdict is not None and result.verdict.passed
        epoch = None if announced is None else announced.epoch
        more = {"passed": passed, "epoch": epoch, "folder": str(folder)}
        print_json({**msgspec.to_builtins(result), **more})
        return
    out = console()
    if result.verdict is None:
        out.print(f"[red]failed[/red] {escape(result.error)}")
        training = f"; `tidemill train --resume {folder}` goes on"
        hint = "" if list(folder.glob("model.*")) else training
        out.print(f"[dim]everything about it is in {folder}{hint}[/dim]")
        return
    verdict = result.verdict
    table = Table(
        title=f"version {result.version} against {verdict.champion or 'the base rate'}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("", "measured", "limit", "why"):
        table.add_column(name, justify="right" if name in {"measured", "limit"} else "left")
    for check in verdict.checks:
        colour = "green" if check.passed else "red"
        table.add_row(
            f"[{colour}]{check.name}[/{colour}]",
            f"{check.value:.6g}",
            f"{check.limit:.6g}",
            escape(check.why),
        )
    out.print(table)
    if announced is not None:
        out.print(f"[green]promoted[/green] it serves from now on, epoch {announced.epoch}")
    elif verdict.passed:
        out.print(
            f"[green]passed[/green] `tidemill models promote {verdict.pipeline} {result.version}` "
            "makes it serve"
        )
    else:
        out.print(f"[red]not passed[/red] {escape(verdict.reason)}")


def _utc_ms(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
