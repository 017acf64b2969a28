"""What every command below `tidemill bench` takes, and how its measurements are run and shown."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from streams.bench import report
from streams.bench.result import Result
from streams.bench.stand import Stand, standing
from streams.cli.console import console, print_json

Measure = Callable[[Stand], Result]


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """What every benchmark takes."""
    for option in (
        click.option("--write", type=click.Path(path_type=Path), help="FILE.md; .json beside it."),
        click.option(
            "--set",
            "settings",
            default="",
            metavar="A=1,land.B=2",
            help="Settings of the workers; land.B is for that role alone.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON document."),
    ):
        command = option(command)
    return command


def measured(*measures: Measure, as_json: bool, write: Path | None, settings: str) -> list[Result]:
    """Run measurements on one stand; what it says on the way goes to standard error."""
    started = time.monotonic()

    def say(line: str) -> None:
        click.echo(line, err=True)

    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as home, standing(Path(home), say=say) as s:
        s.env = _environment(settings)
        for measure in measures:
            results.append(measure(s))
            say(f"{results[-1].name} done after {time.monotonic() - started:.0f} s")
    show(results, as_json=as_json, write=write)
    return results


def show(results: Sequence[Result], *, as_json: bool, write: Path | None) -> None:
    """Print tables and goals, or one JSON document; write the page if one is named."""
    found = report.document(results)
    if as_json:
        single = {**found["results"][0], "machine": found["machine"]}
        print_json(single if len(results) == 1 else found)
    else:
        for result in results:
            for table in report.tables(result):
                console().print(table)
        console().print(report.goals(results))
    if write is not None:
        report.write(found, results, write)


def _environment(text: str) -> dict[str, str]:
    """``land.x=1,y=2`` as variables; ``land.TIDEMILL_X`` is for that worker alone."""
    found = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        role, dot, setting = name.rpartition(".")
        found[f"{role}{dot}TIDEMILL_{setting.upper()}"] = value
    return found
