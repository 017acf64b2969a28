"""Everything that `tidemill alerts run` does, put together."""

import asyncio
from collections.abc import Sequence

from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.alerts.channels import channels
from streams.alerts.runner import Runner, stop_on_signals
from streams.telemetry import Reporter, configure_logging


def serve(settings: Settings, pipelines: Sequence[Pipeline], *, name: str) -> None:
    """Watch ``pipelines`` until SIGTERM or SIGINT.

    Raises:
        SettingsError: a channel cannot be used.
    """
    configure_logging(settings.log_format)
    reporter = Reporter(settings.run_folder, name, "alerts")
    runner = Runner(settings, pipelines, channels(settings), reporter)

    async def run() -> None:
        await runner.run(stop_on_signals())

    try:
        asyncio.run(run())
    finally:
        reporter.remove()
