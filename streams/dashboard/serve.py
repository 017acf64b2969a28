"""The process: listens on 127.0.0.1 and reports like a worker; the pages are in `web`."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from aiohttp import web

from schemas.errors import SetupError
from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.dashboard.web import Dashboard, Shown
from streams.metrics.endpoint import Endpoint
from streams.telemetry import Reporter, configure_logging

HOST = "127.0.0.1"
REPORT_S = 1.0


def serve(settings: Settings, references: Sequence[str], *, port: int, name: str) -> None:
    """Serve the pages of these pipelines until SIGTERM or SIGINT.

    Raises:
        SetupError: a pipeline cannot be loaded, or the port is taken.
    """
    configure_logging(settings.log_format, worker=name)
    shown = [Shown(load_pipeline(reference), reference) for reference in references]
    reporter = Reporter(settings.run_folder, name, "dashboard")
    with Endpoint(reporter, settings):
        asyncio.run(_serve(Dashboard(settings, shown), reporter, port))


async def _serve(dashboard: Dashboard, reporter: Reporter, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(dashboard.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as cause:
            raise SetupError(
                f"could not listen on {HOST}:{port}: {cause}. Set TIDEMILL_DASHBOARD_PORT."
            ) from cause
        reporter.change("running", f"listens on http://{HOST}:{port}")
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REPORT_S)
            reporter.counters["viewers"] = dashboard.live.viewers
            reporter.write()
        reporter.change("stopping")
    finally:
        await runner.cleanup()
        reporter.remove()
