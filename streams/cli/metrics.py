"""`tidemill metrics`: how far each step is, for Prometheus; as `up` starts it."""

import asyncio
import contextlib
import signal

import click

from streams.cli.console import pipelines_or_running, running
from streams.cli.reference import PIPELINE


@click.command("metrics")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option("--name", default="metrics", help="Unique among the processes of one home.")
def command(pipelines: tuple[str, ...], name: str) -> None:
    """Serve what no worker can say of itself: lag, commit ages, label coverage, rollouts.

    For Prometheus, at TIDEMILL_METRICS_PORT (8210) or the next port that is free, until Ctrl-C;
    `tidemill up` starts it by itself. Workers serve their own metrics.

    \b
    Example:
      tidemill metrics flights & curl -s http://127.0.0.1:8210/metrics | grep lag
    """  # noqa: D301
    settings = running()
    references = pipelines_or_running(pipelines)
    from schemas.loading import load_pipeline
    from streams.metrics.endpoint import Endpoint
    from streams.metrics.exposition import Exposition
    from streams.metrics.outside import Outside
    from streams.telemetry import Reporter, configure_logging

    configure_logging(settings.log_format, worker=name)
    reporter = Reporter(settings.run_folder, name, "metrics")
    outside = Outside(settings, [load_pipeline(reference) for reference in references], reporter)
    exposition = Exposition(reporter)
    exposition.add(outside)

    async def look() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        looking = asyncio.create_task(outside.look_forever())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({looking, stopped}, return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        reporter.change("stopping")

    try:
        with Endpoint(reporter, settings, text=exposition.text):
            asyncio.run(look())
    finally:
        reporter.remove()
