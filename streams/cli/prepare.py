"""`tidemill prepare`: what workers need before they start, where `tidemill up` does not run."""

from typing import TYPE_CHECKING

import click

from streams.cli.console import console, running
from streams.cli.numbers import NumberRange
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from schemas.settings import Settings
    from streams.cli.named import Named


@click.command("prepare")
@click.argument("pipelines", type=PIPELINE, nargs=-1, required=True, metavar="PIPELINE...")
@click.option(
    "--first-model/--no-first-model",
    default=True,
    help="Train and announce one where none was ever announced.",
)
@click.option(
    "--wait",
    default=60.0,
    show_default=True,
    type=NumberRange(min=0),
    help="Seconds to wait for servers that do not answer yet.",
)
def command(pipelines: tuple[str, ...], first_model: bool, wait: float) -> None:
    """Create topics, tables and views, and a first model; `tidemill up` does it by itself.

    For workers that a cluster, systemd or Kubernetes starts. What is there stays as it is, so it
    may run at every deployment, and must before a new release is started. Exit code 0: workers
    find what they need.

    \b
    Example:
      TIDEMILL_KAFKA=k1:9092 TIDEMILL_CLICKHOUSE=http://user:password@ch:8123 \\
        tidemill prepare flights
    """  # noqa: D301
    settings = running()
    from schemas.arrow import spare_pandas
    from streams.cli.console import step
    from streams.cli.named import Named
    from streams.cli.training import first_model as see_to_first_model

    spare_pandas()
    named = [Named.load(reference) for reference in pipelines]
    with step("topics and tables"):
        _prepare(settings, named, wait_s=wait)
    if first_model:
        for item in named:
            see_to_first_model(settings, item, None)
    names = ", ".join(item.pipeline.name for item in named)
    console().print(f"[green]ready[/green] workers of {names} can start")


def _prepare(settings: "Settings", named: "list[Named]", *, wait_s: float) -> None:
    """Do it, again and again while a server does not answer.

    Raises:
        TransientError: it still does not after ``wait_s``.
        SetupError: a person must change something.
    """
    import time

    from schemas.errors import TransientError
    from streams.cli.assembly import prepare

    deadline = time.monotonic() + wait_s
    while True:
        try:
            prepare(settings, named)
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)
        else:
            return
