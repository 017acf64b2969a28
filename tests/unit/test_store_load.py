"""What keeps the store's memory, threads and connections from being used up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest
from aiohttp import web
from structlog.testing import CapturingLogger

from streams.store.gateway import intake as intake_module
from streams.store.gateway import server
from streams.store.gateway.errors import EngineError
from streams.store.gateway.guard import Connections, Guard, Malformed
from streams.store.gateway.intake import Intake
from streams.store.gateway.limits import Limits, Shares
from streams.store.gateway.queueing import FairQueue
from streams.store.gateway.refusals import Refusals
from streams.store.gateway.responses import error_response

WAIT_S_MAX = 60.0


def test_one_alone_gets_two_thirds_and_others_always_find_some() -> None:
    shares = Shares(18)
    assert [shares.take("a") for _ in range(13)] == [True] * 12 + [False]
    assert [shares.take("b") for _ in range(5)] == [True] * 4 + [False]
    assert shares.take("c")
    assert shares.take("d")
    assert shares.free == 0
    assert not shares.take("e")
    for _ in range(12):
        shares.give_back("a")
    assert shares.take("e")
    assert (shares.held("a"), shares.held("b"), shares.free) == (0, 4, 11)


async def test_turns_go_to_whoever_has_fewest() -> None:
    """A user's many queries wait for each other, not others for them."""
    queue, order = FairQueue(3), list[str]()
    release = asyncio.Event()

    async def work(user: str) -> None:
        async with queue.turn(user):
            order.append(user)
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for user in ["a"] * 6:
            group.create_task(work(user))
            await asyncio.sleep(0)
        assert (order, queue.waiting) == (["a", "a"], 4), "the third is for somebody else"
        group.create_task(work("b"))
        await asyncio.sleep(0)
        assert order == ["a", "a", "b"]
        for user in ("b", "c"):
            group.create_task(work(user))
            await asyncio.sleep(0)
        release.set()
    assert sorted(order) == ["a"] * 6 + ["b"] * 2 + ["c"]
    assert order.index("c") <= 5
    assert (queue.waiting, queue.running) == (0, 0)


async def test_who_leaves_the_queue_takes_no_turn() -> None:
    queue = FairQueue(1)

    async def work() -> None:
        async with queue.turn("a"):
            pass

    async with queue.turn("a"):
        waiting = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting[0]
        with pytest.raises(EngineError) as caught:
            async with queue.turn("a", wait_s_max=0.01):
                raise AssertionError
        assert caught.value.code == 202
    await asyncio.gather(*waiting[1:])
    assert (queue.waiting, queue.running) == (0, 0)


def test_limits_are_read_strictly() -> None:
    base = Limits.read({"seconds_max": 5})
    assert Limits.read({"queries_max": 2}, base=base).settings() == {"max_execution_time": "5"}
    for table in (
        {"secons_max": 1},
        {"seconds_max": -1},
        {"seconds_max": True},
        {"queries_max": 0},
    ):
        with pytest.raises(ValueError, match="limit"):
            Limits.read(table)


@contextlib.asynccontextmanager
async def _served(connections: Connections, intake: Intake) -> AsyncIterator[tuple[str, int]]:
    """A server that answers with the size of the body, guarded as the store is."""

    async def handler(request: web.Request) -> web.StreamResponse:
        size = 0
        try:
            with intake.allowance("a") as allowed:
                async with intake.pace(allowed) as pace:
                    async for piece in request.content.iter_any():
                        pace.add(len(piece))
                        size += len(piece)
        except EngineError as error:
            return error_response(error, "", version="", timezone="")
        return web.Response(text=str(size))

    application = web.Application(middlewares=[connections.watch])
    application.router.add_route("*", "/", handler)
    runner = web.AppRunner(
        application, logger=Malformed(connections.refusals), access_log=None, lingering_time=0.1
    )
    await runner.setup()
    inner = runner.server
    assert inner is not None
    listener = await asyncio.get_running_loop().create_server(
        lambda: Guard(inner(), connections), "127.0.0.1", 0
    )
    try:
        yield "127.0.0.1", listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await runner.cleanup()
        intake.close()


@pytest.fixture
def connections() -> Connections:
    return Connections(Refusals(), head_s_max=0.2, idle_s_max=0.2, most=5)


async def _sweeping(connections: Connections) -> None:
    while True:
        await asyncio.sleep(0.02)
        connections.sweep()


async def _end(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    async with asyncio.timeout(WAIT_S_MAX):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                found += piece
    return bytes(found)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_a_head_must_come_in_time(connections: Connections, head: bytes) -> None:
    """Also when nothing comes at all, and behind a request that was complete."""
    sweep = asyncio.create_task(_sweeping(connections))
    async with _served(connections, Intake()) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(head)
        answer = await _end(reader)
        assert answer.count(b"200 OK") == head.count(b"\r\n\r\n")
        writer.close()
        assert connections.open == 0
    sweep.cancel()


async def test_trickling_does_not_help(connections: Connections) -> None:
    sweep = asyncio.create_task(_sweeping(connections))
    async with _served(connections, Intake()) as place:
        reader, writer = await asyncio.open_connection(*place)
        gone = asyncio.create_task(_end(reader))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        with contextlib.suppress(ConnectionError):
            while not gone.done():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        assert await gone == b""
        writer.close()
    sweep.cancel()


async def test_a_body_must_come_in_time(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both when it stalls and when it trickles; the answer is a server's."""
    monkeypatch.setattr(intake_module, "STALL_S_MAX", 0.3)
    monkeypatch.setattr(intake_module, "GRACE_S", 0.6)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    async with _served(connections, Intake()) as place:
        for step_s in (WAIT_S_MAX, 0.01):
            reader, writer = await asyncio.open_connection(*place)
            gone = asyncio.create_task(_end(reader))
            writer.write(head)
            with contextlib.suppress(ConnectionError):
                while not gone.done():
                    writer.write(b"x")
                    await asyncio.wait((gone,), timeout=step_s)
            answer = await gone
            assert b"408 Request Timeout" in answer
            assert b"Code: 209" in answer
            writer.close()


async def test_bodies_share_a_stock_of_memory(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Intake(_stock=Shares(3 << 20))
    async with _served(connections, intake) as place:
        for size, wanted in ((1 << 20, b"200"), (8 << 20, b"503"), (1 << 20, b"200")):
            reader, writer = await asyncio.open_connection(*place)
            head = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {size}\r\n"
            writer.write(head.encode() + b"\r\n" + b"x" * size)
            assert (await _end(reader)).split(b" ")[1] == wanted
            writer.close()
    assert intake._stock.free == 3 << 20


async def test_the_most_useless_connection_makes_room(connections: Connections) -> None:
    async with _served(connections, Intake()) as place:
        opened = [await asyncio.open_connection(*place) for _ in range(5)]
        busy = opened[0]
        busy[1].write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n12")
        while not any(guard.active for guard in connections._open):
            await asyncio.sleep(0.01)
        more = [await asyncio.open_connection(*place) for _ in range(3)]
        for reader, _writer in opened[1:4]:
            assert await _end(reader) == b""
        assert connections.open == 5
        busy[1].write(b"3")
        async with asyncio.timeout(WAIT_S_MAX):
            assert (await busy[0].readline()).startswith(b"HTTP/1.1 200")
        for _reader, writer in opened + more:
            writer.close()


async def test_what_cannot_be_read_is_noted_without_its_text(
    connections: Connections, capsys: pytest.CaptureFixture[str]
) -> None:
    async with _served(connections, Intake()) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"GET / HTTP/1.1\r\nBroken s3cret\r\n\r\n")
        assert b"400" in await _end(reader)
        writer.close()
    assert connections.refusals.count == 1
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err


def test_the_log_of_refusals_cannot_fill_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], CapturingLogger()
    monkeypatch.setattr("streams.store.gateway.refusals.log", lines)
    refusals = Refusals(clock=lambda: now[0])
    for _ in range(1000):
        refusals.cut_off("x", address="127.0.0.1")
    assert [call.args for call in lines.calls] == [("request refused",)] * 200
    now[0] = 1.0
    refusals.cut_off("x", address="127.0.0.1")
    assert lines.calls[-1].kwargs["lines_left_out"] == 800
    assert refusals.count == 1001


async def test_a_session_that_cannot_be_closed_ends_no_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sweeps also end connections that send no request; without them all could be taken."""
    monkeypatch.setattr(server, "SWEEP_S", 0.0)
    sweeps, closed = [], []

    class Session:
        def close(self) -> None:
            closed.append(self)
            raise EngineError(1000, "the engine is busy")

    async def on(_lane: object, call: Callable[[], None]) -> None:
        call()

    gateway = SimpleNamespace(
        connections=SimpleNamespace(sweep=lambda: sweeps.append(1)),
        sessions=SimpleNamespace(expired=lambda: [Session(), Session()]),
        _readers=None,
        _on=on,
    )
    sweeping = server.Gateway._sweeping(gateway, web.Application())
    await anext(sweeping)
    async with asyncio.timeout(WAIT_S_MAX):
        while len(sweeps) < 3:
            await asyncio.sleep(0)
    with contextlib.suppress(StopAsyncIteration):
        await anext(sweeping)
    assert len(closed) >= 4
