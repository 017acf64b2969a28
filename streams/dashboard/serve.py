"""The process: listens on 127.0.0.1, answers pages, sends what is new, reports like a worker."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from schemas.errors import SetupError
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.dashboard import shell
from streams.dashboard.asking import Asker
from streams.dashboard.figures import Figure
from streams.dashboard.guarding import Guard, harden
from streams.dashboard.live import Live, Result, TooManyViewers, as_event
from streams.dashboard.pages import overview
from streams.dashboard.vitals import Vitals
from streams.telemetry import Reporter, configure_logging

HOST = "127.0.0.1"
REPORT_S = 1.0
SILENCE_S_MAX = 10.0
"""Without news a comment goes out, so that either side notices when the other is gone."""
BODY_BYTES_MAX = 256 << 10
PAGES = (overview.page,)
"""In the order in which they are linked."""
STATIC = Path(__file__).with_name("static")

log = structlog.get_logger()


def serve(settings: Settings, references: Sequence[str], *, port: int, name: str) -> None:
    """Serve the pages of these pipelines until SIGTERM or SIGINT.

    Raises:
        SetupError: a pipeline cannot be loaded, or the port is taken.
    """
    configure_logging(settings.log_format)
    pipelines = {one.name: one for one in map(load_pipeline, references)}
    reporter = Reporter(settings.run_folder, name, "dashboard")
    asyncio.run(_serve(Dashboard(settings, pipelines), reporter, port))


async def _serve(dashboard: "Dashboard", reporter: Reporter, port: int) -> None:
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


class Dashboard:
    """The pages and what they need; made once per process."""

    def __init__(self, settings: Settings, pipelines: Mapping[str, Pipeline]) -> None:
        """Nothing is connected yet."""
        self.guard = Guard()
        self._pipelines = pipelines
        self._asker = Asker(settings)
        self._vitals = Vitals(settings)
        self._pages = {
            name: {page.name: page for page in (make(pipeline) for make in PAGES)}
            for name, pipeline in pipelines.items()
        }
        self.live = Live(lambda page, name: self._pages[name].get(page), self._ask_of)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self.guard.check], client_max_size=BODY_BYTES_MAX)
        app.on_response_prepare.append(harden)
        app.cleanup_ctx.append(self._connections)
        app.router.add_get("/", self.page)
        app.router.add_get("/live/{page}", self.stream)
        app.router.add_static("/static", STATIC)
        app.router.add_get("/{page:[a-z]+}", self.page)
        return app

    async def _connections(self, _app: web.Application) -> Any:
        async with self._asker:
            yield
        await self._vitals.close()

    async def page(self, request: web.Request) -> web.Response:
        """One page."""
        pipeline = self._chosen(request)
        pages = self._pages[pipeline]
        page = pages.get(request.match_info.get("page", "overview"))
        if page is None:
            raise web.HTTPNotFound(text="there is no such page; all are linked from /\n")
        text = shell.html(
            page,
            pages=list(pages.values()),
            pipeline=pipeline,
            pipelines=list(self._pipelines),
            token=self.guard.token,
        )
        return web.Response(text=text, content_type="text/html")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The answers of a page's figures as they come: server-sent events."""
        try:
            opened = self.live.open(request.match_info["page"], self._chosen(request))
        except TooManyViewers:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n") from None
        if opened is None:
            raise web.HTTPNotFound(text="there is no such page\n")
        channel, viewer = opened
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            while True:
                news = await viewer.next(SILENCE_S_MAX)
                await response.write(as_event(news) if news else b": still here\n\n")
        except ConnectionError:
            return response  # the page was closed
        finally:
            channel.close(viewer)

    def _chosen(self, request: web.Request) -> str:
        name = request.query.get("pipeline") or next(iter(self._pipelines))
        if name not in self._pipelines:
            raise web.HTTPNotFound(text="there is no such pipeline here\n")
        return name

    def _ask_of(self, name: str) -> Any:
        pipeline = self._pipelines[name]

        async def ask(figure: Figure) -> Result:
            if figure.sql:
                found = await self._asker.ask(figure.sql)
                return {"columns": found.columns, "rows": found.rows, "took_ms": found.took_ms}
            assert figure.source == "flow"
            return await self._vitals.flow(pipeline)

        return ask
