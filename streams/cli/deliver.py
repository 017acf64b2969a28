"""`tidemill deliver`: the slow loop of one pipeline, as `up` starts it and as a cluster would."""

import signal
import sys
from types import FrameType

import click

from streams.cli.console import running
from streams.cli.reference import PIPELINE


@click.command("deliver")
@click.argument("pipeline", type=PIPELINE, default="flights")
@click.option("--ranks", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--name", default="", help="Unique among the processes of one home.")
def command(pipeline: str, ranks: int, name: str) -> None:
    """Train, try and judge versions of PIPELINE without being asked; `tidemill up` does it.

    When to train is declared (`retraining=Retraining(...)`), and what a version must show to stay
    (`rollout=Rollout(...)`). A version that is tried is judged in any case. The gate has the word:
    what it refused is not tried. `tidemill models hold` stops all of it. One of these per pipeline.

    \b
    Example:
      tidemill deliver flights
    """  # noqa: D301
    import os

    # Arrow's own allocator keeps the most that a set of rows ever took. This one gives it back,
    # here and in what is started from here.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    settings = running()
    from schemas.loading import load_pipeline
    from streams.metrics.endpoint import Endpoint
    from streams.rollout.delivery import Delivery
    from streams.telemetry import Reporter, configure_logging

    declared = load_pipeline(pipeline)
    reporter = Reporter(
        folder=settings.run_folder,
        name=name or f"{declared.name}-deliver-0",
        role="deliver",
        pipeline=declared.name,
    )
    configure_logging(settings.log_format, worker=reporter.name)
    os.nice(NICE)  # what it starts, too: scoring comes first
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 1:
            raise KeyboardInterrupt  # out of whatever waits: a training has a checkpoint

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        with Endpoint(reporter, settings):
            Delivery(declared, pipeline, settings, reporter, ranks=ranks).run(lambda: bool(asked))
    except KeyboardInterrupt:
        reporter.change("stopping")
    reporter.remove()
    sys.exit(0)


NICE = 10
"""How much lower its priority is."""
