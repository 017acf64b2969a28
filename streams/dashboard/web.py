"""The routes: pages, what is new on them, one decision, a question, a wish of a person."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web

from schemas.errors import StoreUnavailable, TidemillError, TransientError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.dashboard import shell
from streams.dashboard.commands import Commands, Wish
from streams.dashboard.figures import Figure, Page
from streams.dashboard.guarding import Guard, harden
from streams.dashboard.live import Ask, Live, Result, TooManyViewers, as_event
from streams.dashboard.pages import decision, health, models, overview, pipeline, sql, training
from streams.dashboard.vitals import Vitals
from streams.store.asking import SQL_BYTES_MAX, Asker

SILENCE_S_MAX = 10.0
"""Without news a comment goes out, so that either side notices when the other is gone."""
BODY_BYTES_MAX = 4 * SQL_BYTES_MAX
STATIC = Path(__file__).with_name("static")

Body = TypeVar("Body")


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person wants to know whether an alert arrives."""

    to: Literal["all", "log", "topic", "webhook", "email"]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person's own SQL."""

    sql: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A pipeline, and how commands find it: its name or its file."""

    pipeline: Pipeline
    reference: str

    def pages(self) -> dict[str, Page]:
        """By name, in the order in which they are linked."""
        own = self.pipeline
        made = (
            overview.page(own),
            pipeline.page(own),
            models.page(own, self.reference),
            decision.page(own),
            training.page(own),
            sql.page(own),
            health.page(own),
        )
        return {page.name: page for page in made}


class Dashboard:
    """The pages and what they need; made once per process."""

    def __init__(self, settings: Settings, shown: Sequence[Shown]) -> None:
        """Nothing is connected yet."""
        self.guard = Guard()
        self._shown: Mapping[str, Shown] = {one.pipeline.name: one for one in shown}
        self._pages = {name: one.pages() for name, one in self._shown.items()}
        self._asker = Asker(settings)
        self._vitals = Vitals(settings)
        self._commands = Commands(settings)
        self.live = Live(lambda page, name: self._pages[name].get(page), self._ask_of)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self.guard.check], client_max_size=BODY_BYTES_MAX)
        app.on_response_prepare.append(harden)
        app.cleanup_ctx.append(self._connections)
        app.router.add_get("/", self.page)
        app.router.add_get("/live/{page}", self.stream)
        app.router.add_get("/api/decision", self.decision)
        app.router.add_get("/api/explain", self.explain)
        app.router.add_post("/api/sql", self.sql)
        app.router.add_post("/api/models", self.act)
        app.router.add_post("/api/reconcile", self.reconcile)
        app.router.add_post("/api/alerts/test", self.test_alerts)
        app.router.add_static("/static", STATIC)
        app.router.add_get("/{page:[a-z]+}", self.page)
        return app

    async def _connections(self, _app: web.Application) -> AsyncIterator[None]:
        async with self._asker:
            yield
        await self._commands.close()
        await self._vitals.close()

    async def page(self, request: web.Request) -> web.Response:
        """One page."""
        name = self._chosen(request).pipeline.name
        pages = self._pages[name]
        page = pages.get(request.match_info.get("page", "overview"))
        if page is None:
            raise web.HTTPNotFound(text="there is no such page; all are linked from /\n")
        text = shell.html(
            page,
            pages=list(pages.values()),
            pipeline=name,
            pipelines=list(self._shown),
            token=self.guard.token,
        )
        return web.Response(text=text, content_type="text/html")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The answers of a page's figures as they come: server-sent events."""
        name = self._chosen(request).pipeline.name
        try:
            opened = self.live.open(request.match_info["page"], name)
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

    async def decision(self, request: web.Request) -> web.Response:
        """Everything about one event."""
        own = self._chosen(request).pipeline
        with _told():
            return _json(await decision.decision(self._asker, own, _event_id(request)))

    async def explain(self, request: web.Request) -> web.Response:
        """What each feature added to one prediction."""
        reference = self._chosen(request).reference
        with _told():
            return _json(await self._commands.explain(reference, _event_id(request)))

    async def sql(self, request: web.Request) -> web.Response:
        """The answer to a person's own question."""
        question = await _body(request, Question)
        with _told():
            return _json(await self._asker.ask(question.sql.strip().rstrip(";"), exact=True))

    async def act(self, request: web.Request) -> web.Response:
        """Promote, try, hold, release or roll back, as the command does it."""
        wish = await _body(request, Wish)
        shown = self._chosen(request)
        with _told():
            said = await self._commands.act(wish, shown.reference)
        self._vitals.forget(shown.pipeline.name)
        return _json({"said": said})

    async def reconcile(self, request: web.Request) -> web.Response:
        """The books."""
        with _told():
            return _json(await self._commands.reconcile(self._chosen(request).reference))

    async def test_alerts(self, request: web.Request) -> web.Response:
        """A notice that says it is a test, by the command."""
        trial = await _body(request, Trial)
        name = self._chosen(request).pipeline.name
        with _told():
            return _json({"said": await self._commands.test_alerts(trial.to, name)})

    def _chosen(self, request: web.Request) -> Shown:
        name = request.query.get("pipeline") or next(iter(self._shown))
        if name not in self._shown:
            raise web.HTTPNotFound(text="there is no such pipeline here\n")
        return self._shown[name]

    def _ask_of(self, name: str) -> Ask:
        shown = self._shown[name]

        async def ask(figure: Figure) -> Result:
            if figure.sql:
                found = await self._asker.ask(figure.sql)
                return {"columns": found.columns, "rows": found.rows, "took_ms": found.took_ms}
            return await self._sourced(figure.source, shown)

        return ask

    async def _sourced(self, source: str, shown: Shown) -> Result:
        """What is not in the store."""
        own = shown.pipeline
        if source == "flow":
            return await self._vitals.flow(own)
        if source == "partitions":
            return as_table(await self._vitals.partitions(own))
        if source == "processes":
            return as_table(self._vitals.processes())
        announced = await self._vitals.announced(own.name)
        if source == "rollout":
            return {"announced": announced}
        assert source == "versions", source
        return {
            "versions": await self._commands.versions(own.name, shown.reference),
            "announced": announced,
        }


def as_table(rows: Sequence[Mapping[str, Any]]) -> Result:
    """Rows as the store would answer them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "rows": [[row.get(name) for name in columns] for row in rows]}


def _event_id(request: web.Request) -> str:
    event_id = request.query.get("id", "")
    if not 0 < len(event_id) <= decision.ID_LENGTH_MAX:
        raise web.HTTPBadRequest(text="id: name an event\n")
    return event_id


async def _body(request: web.Request, kind: type[Body]) -> Body:
    if request.content_type != "application/json":  # a form of another page could not send it
        raise web.HTTPUnsupportedMediaType(text="send JSON\n")
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as cause:
        raise web.HTTPBadRequest(text=f"could not read what was sent: {cause}\n") from cause


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


class _told:  # noqa: N801  # reads as a statement: with _told()
    """Turns what goes wrong on purpose into an answer that a person can read."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StoreUnavailable):
            raise web.HTTPServiceUnavailable(text=f"The store does not answer. {error}") from error
        if isinstance(error, TransientError):
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        if isinstance(error, TidemillError):
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
