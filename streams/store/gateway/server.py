"""The HTTP front: requests in, engine calls on threads, answers out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from aiohttp import HttpVersion11, web

from streams.store.gateway import responses
from streams.store.gateway.authentication import Doorkeeper, read_claim
from streams.store.gateway.compression import Packer, choose
from streams.store.gateway.engine import Engine
from streams.store.gateway.errors import (
    TOO_MANY_SIMULTANEOUS_QUERIES,
    EngineError,
    from_engine,
    refusal,
)
from streams.store.gateway.execution import Answer, run
from streams.store.gateway.guard import Connections
from streams.store.gateway.intake import BODY_BYTES_MAX, Intake
from streams.store.gateway.limits import Shares
from streams.store.gateway.metrics import (
    CONTENT_TYPE,
    SEEN,
    Metrics,
    engine_figures,
    observed,
    verb,
)
from streams.store.gateway.progress import shown
from streams.store.gateway.queueing import Lane
from streams.store.gateway.refusals import Refusals
from streams.store.gateway.request import (
    Call,
    check_origin,
    check_query_id,
    read_call,
)
from streams.store.gateway.running import Registry, Running
from streams.store.gateway.sessions import Session, Sessions
from streams.store.gateway.statement import first_word
from streams.store.gateway.users import User

QUERIES_MAX = 96
"""Requests that run or wait for a turn; more are told to come again. One user alone may have 64."""
READ_TURNS = 18
"""Calls of the engine at once; one user alone has 12."""
INSERT_TURNS = 6
"""Inserts have threads of their own, so that slow queries never hold up the landing."""
KILL_TURNS = 6
"""KILL QUERY has its own as well: it must work above all when all others are busy."""
SEND_S_MAX = 600.0
"""Longest wait for a client to take the next block of its answer."""
SWEEP_S = 1.0
REPLACE_S_MAX = 5.0
"""How long ``replace_running_query`` waits for the query that it replaces."""
REPLACE_STEP_S = 0.05
ABANDON_STEP_S = 0.2
"""A query whose client has gone is ended again after this time, until it has ended: the first time
it may not have begun."""

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(slots=True)
class Gateway:
    """Answers requests with one engine."""

    engine: Engine
    database: str
    doorkeeper: Doorkeeper = field(default_factory=Doorkeeper)
    sessions: Sessions = field(default_factory=Sessions)
    metrics: Metrics = field(default_factory=Metrics)
    refusals: Refusals = field(default_factory=Refusals)
    intake: Intake = field(default_factory=Intake)
    connections: Connections = field(init=False)
    _readers: Lane = field(default_factory=lambda: Lane("read", READ_TURNS))
    _writers: Lane = field(default_factory=lambda: Lane("insert", INSERT_TURNS))
    _killers: Lane = field(default_factory=lambda: Lane("kill", KILL_TURNS))
    _queries: Registry = field(default_factory=Registry)
    _admitted: Shares = field(default_factory=lambda: Shares(QUERIES_MAX))
    _stopping: bool = False

    def __post_init__(self) -> None:
        self.connections = Connections(self.refusals)

    @property
    def running(self) -> int:
        """Requests that run or wait for a turn."""
        return self._admitted.total - self._admitted.free

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(
            client_max_size=BODY_BYTES_MAX,
            middlewares=[self.connections.watch, observed(self.metrics)],
        )
        for name, about, value in (
            ("queries_running", "Requests that run or wait for a turn", lambda: self.running),
            (
                "queries_waiting",
                "Queries that wait for a turn",
                lambda: self._readers.queue.waiting,
            ),
            ("connections", "Connections of clients", lambda: self.connections.open),
            ("requests_refused", "Refusals since the start", lambda: self.refusals.count),
            ("sessions", "Names of sessions", self.sessions.__len__),
        ):
            self.metrics.watch(name, about, value)
        application.router.add_get("/metrics", self.figures)
        application.router.add_get("/ping", self.ping)
        application.router.add_get("/replicas_status", self.ping)
        application.router.add_get("/", self.query)
        application.router.add_post("/", self.query)
        application.cleanup_ctx.append(self._sweeping)
        return application

    async def ping(self, request: web.Request) -> web.StreamResponse:
        """``Ok.``, as soon as the engine runs."""
        try:
            check_origin(request, guarded=self.doorkeeper.guarded)
        except EngineError as error:
            return self._refused(error, request, "")
        return web.Response(text="Ok.\n")

    async def figures(self, request: web.Request) -> web.StreamResponse:
        """What the store does, for Prometheus."""
        try:
            check_origin(request, guarded=self.doorkeeper.guarded)
            if self.doorkeeper.guarded:
                claim = read_claim(request.headers, dict(request.query))
                await self.doorkeeper.let_in(claim, address=request.remote or "")
            figures = await self._on(self._killers, lambda: engine_figures(self.engine))
        except EngineError as error:
            return self._refused(error, request, "")
        return web.Response(
            body=self.metrics.exposition(figures), headers={"Content-Type": CONTENT_TYPE}
        )

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Run one statement."""
        if request.method != "POST" and not request.query_string:
            return await self.ping(request)
        query_id, user = "", None
        try:
            check_origin(request, guarded=self.doorkeeper.guarded)
            parameters = dict(request.query)
            query_id = check_query_id(parameters.get("query_id", ""))
            user = await self.doorkeeper.let_in(
                read_claim(request.headers, parameters), address=request.remote or ""
            )
            with self._admit(user), self.intake.allowance(user.name) as allowed:
                call = await read_call(
                    request, parameters, query_id=query_id, user=user, database=self.database,
                    intake=self.intake, allowed=allowed,
                )  # fmt: skip
                if call.replaces:
                    await self._replace(query_id, user.name)
                with contextlib.ExitStack() as taken:
                    running = taken.enter_context(self._queries.enter(query_id, user.name))
                    session = taken.enter_context(self._session(call))
                    return await self._answer(request, call, session, running, taken=taken)
        except EngineError as error:
            return self._refused(error, request, query_id, user)
        except (ConnectionError, asyncio.CancelledError, web.HTTPException):
            raise
        except Exception as cause:
            log.exception("request failed", query_id=query_id)
            return self._refused(from_engine(cause), request, query_id, user)

    @contextlib.contextmanager
    def _admit(self, user: User) -> Iterator[None]:
        full = self._admitted.held(user.name) >= user.limits.queries_max
        if self._stopping or full or not self._admitted.take(user.name):
            raise refusal(TOO_MANY_SIMULTANEOUS_QUERIES, "Too many simultaneous queries.")
        try:
            yield
        finally:
            self._admitted.give_back(user.name)

    def _refused(
        self, error: EngineError, request: web.Request, query_id: str, user: User | None = None
    ) -> web.Response:
        engine = self.engine
        self.refusals.note(error, request, query_id=query_id, user=user)
        return responses.error_response(
            error, query_id, version=engine.version, timezone=engine.timezone
        )

    async def _replace(self, query_id: str, user: str) -> None:
        """End the query of ``user`` that has this id; waits for its end, up to `REPLACE_S_MAX`."""
        deadline_s = time.monotonic() + REPLACE_S_MAX
        while (old := self._queries.find(query_id, user)) and time.monotonic() < deadline_s:
            old.left.set()
            await asyncio.to_thread(self.engine.kill_query, old.mark)
            await asyncio.sleep(REPLACE_STEP_S)

    @contextlib.contextmanager
    def _session(self, call: Call) -> Iterator[Session | None]:
        if not call.session:
            yield None
            return
        session = self.sessions.take(call.session, call.user, must_exist=call.session_must_exist)
        try:
            yield session
        finally:
            self.sessions.release(session, keep_s=call.session_s)

    async def _answer(
        self,
        request: web.Request,
        call: Call,
        session: Session | None,
        running: Running,
        *,
        taken: contextlib.ExitStack,
    ) -> web.StreamResponse:
        lane = self._lane(call)
        seen = request[SEEN]
        seen.running, seen.verb = running, verb(first_word(call.sql[:4096]))
        async with shown(request, running, call.progress_s):
            answer = await self._on(
                lane,
                lambda: run(self.engine, call, session, running),
                user=call.user.name,
                # A reader that left wants no answer; an insert is worth finishing.
                abandon=None if call.insert else running,
            )
        seen.counts = answer.counts
        head = responses.headers(
            call.query_id, timezone=self.engine.timezone, form=answer.format
        ) | responses.summary(answer.counts, began_s=answer.began_s)
        packer = None
        if answer.held:
            encoding, packer = choose(call.accepted, framed=call.framed)
            if encoding:
                head["Content-Encoding"] = encoding
        if answer.rows is not None:
            try:
                if request.method == "HEAD":
                    return web.Response(headers=head)
                return await self._stream(request, answer, head, packer, running, taken=taken)
            finally:
                await self._on(lane, answer.close)
        body = responses.joined(answer)
        if packer is not None:
            whole, pack = body, packer
            body = await self._on(lane, lambda: pack.pack(whole) + pack.end())
        return web.Response(body=body, headers=head)

    def _lane(self, call: Call) -> Lane:
        if call.insert is not None:
            return self._writers
        return self._killers if first_word(call.sql[:4096]) == b"kill" else self._readers

    async def _stream(
        self,
        request: web.Request,
        answer: Answer,
        head: dict[str, str],
        packer: Packer | None,
        running: Running,
        *,
        taken: contextlib.ExitStack,
    ) -> web.StreamResponse:
        """Send block by block; the next is fetched only when the client has taken the last.

        ``taken`` holds the query's id and its session.
        """
        rows = answer.rows
        assert rows is not None
        tag = responses.new_exception_tag()
        response = web.StreamResponse(headers={**head, "X-ClickHouse-Exception-Tag": tag})
        if request.version >= HttpVersion11:  # before, the end of the connection ends the answer
            response.enable_chunked_encoding()
        await response.prepare(request)

        def packed(block: bytes) -> bytes:
            return block if packer is None else packer.pack(block)

        def fetch() -> bytes | None:
            block = rows.fetch()
            return None if block is None else packed(block)

        blocks, answer.held = answer.held, []
        for block in blocks:
            await self._send(request, response, packed(block))
        del blocks
        try:
            while (
                piece := await self._on(self._readers, fetch, user=running.user, abandon=running)
            ) is not None:
                await self._send(request, response, piece)
        except EngineError as error:
            request[SEEN].code = error.code
            block = responses.exception_block(error, tag, version=self.engine.version)
            await response.write(packed(block))
        # Before the last bytes: who has those may send the next query with the same id or in the
        # same session.
        await self._on(self._readers, answer.close)
        taken.close()
        if packer is not None:
            await response.write(packer.end())
        await response.write_eof()
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, block: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_S_MAX):
                await response.write(block)
        except TimeoutError as cause:
            self.refusals.cut_off(
                "connection closed: its client does not read the answer",
                address=request.remote or "",
            )
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError from cause

    async def _on(
        self,
        lane: Lane,
        call: Callable[[], T],
        *,
        user: str | None = None,
        abandon: Running | None = None,
    ) -> T:
        """Run ``call`` on a thread and wait for its end even if the client leaves meanwhile.

        The query ``abandon`` is ended then. With a ``user`` it waits for that one's turn.
        """
        async with contextlib.AsyncExitStack() as turn:
            if user is not None:
                await turn.enter_async_context(lane.queue.turn(user))
            return await self._in_turn(lane.threads, call, abandon=abandon)

    async def _in_turn(
        self, threads: ThreadPoolExecutor, call: Callable[[], T], *, abandon: Running | None
    ) -> T:
        future = asyncio.get_running_loop().run_in_executor(threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if abandon is not None:
                abandon.left.set()
                while not future.done():
                    await asyncio.to_thread(self.engine.kill_query, abandon.mark)
                    await asyncio.wait((future,), timeout=ABANDON_STEP_S)
            with contextlib.suppress(Exception):
                result: Any = await future
                if isinstance(result, Answer):
                    result.close()
            raise

    async def _sweeping(self, _application: web.Application) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await asyncio.sleep(SWEEP_S)
                self.connections.sweep()
                for connection in self.sessions.expired():
                    try:
                        await self._on(self._readers, connection.close)
                    except Exception as cause:  # the next sweep matters more: it ends idlers
                        log.warning("session not closed", cause=str(cause))

        task = asyncio.create_task(sweep())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def finish(self, *, wait_s_max: float) -> None:
        """Take no more requests, and end those that still run after ``wait_s_max``."""
        self._stopping = True
        deadline_s = time.monotonic() + wait_s_max
        while self.running and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        if self.running:
            await asyncio.to_thread(self.engine.kill_queries)

    def close(self) -> None:
        """End what runs and close the engine; after this nothing may call it."""
        self.engine.kill_queries()
        for lane in (self._readers, self._writers, self._killers):
            lane.threads.shutdown(wait=True, cancel_futures=True)
        self.intake.close()
        for connection in self.sessions.drain():
            connection.close()
        self.doorkeeper.close()
        self.engine.close()
