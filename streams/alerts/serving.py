"""Everything that `tidemill alerts run` does, put together."""

import asyncio
from collections.abc import Mapping, Sequence

from schemas.arrow import spare_pandas
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.alerts.books import Books
from streams.alerts.channels import channels
from streams.alerts.core import Key, Reading
from streams.alerts.runner import Runner, stop_on_signals
from streams.metrics.endpoint import Endpoint
from streams.telemetry import Reporter, configure_logging


def serve(settings: Settings, pipelines: Sequence[Pipeline], *, name: str) -> None:
    """Watch ``pipelines`` and check their books until SIGTERM or SIGINT.

    Raises:
        SettingsError: a channel cannot be used.
    """
    configure_logging(settings.log_format, worker=name)
    spare_pandas()
    reporter = Reporter(settings.run_folder, name, "alerts")
    books = [Books(settings, one) for one in pipelines]

    def given() -> Mapping[Key, Reading]:
        return {key: reading for one in books for key, reading in one.readings().items()}

    runner = Runner(settings, pipelines, channels(settings), reporter, given=given)

    async def run() -> None:
        checks = [asyncio.create_task(one.run()) for one in books]
        watching = asyncio.create_task(runner.run(stop_on_signals()))
        try:
            # Whatever ends first by a mistake ends all: the process is started again.
            done, _ = await asyncio.wait([watching, *checks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (watching, *checks):
                task.cancel()
            await asyncio.gather(watching, *checks, return_exceptions=True)

    try:
        with Endpoint(reporter, settings):
            asyncio.run(run())
    finally:
        reporter.remove()
