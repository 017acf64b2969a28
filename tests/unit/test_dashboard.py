"""The dashboard without a browser: who is let in, and who pays for a look."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from schemas.errors import PermanentError, StoreUnavailable
from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.dashboard.commands import EXPLAINING_MAX, Commands, Done
from streams.dashboard.figures import Figure, Page
from streams.dashboard.live import VIEWERS_MAX, Live, TooManyViewers
from streams.dashboard.web import Dashboard, Shown

NOBODY = "http://127.0.0.1:9"  # nothing listens on discard


@pytest.fixture
async def served(tmp_path: object) -> AsyncIterator[tuple[Dashboard, str, ClientSession]]:
    """A dashboard on a port of this machine, with a store that is down."""
    settings = replace(Settings(), clickhouse=NOBODY, kafka="127.0.0.1:9")
    dashboard = Dashboard(settings, [Shown(load_pipeline("flights"), "flights")])
    server = TestServer(dashboard.app(), host="127.0.0.1")
    await server.start_server()
    async with ClientSession() as session:
        yield dashboard, f"http://127.0.0.1:{server.port}", session
    await server.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),  # DNS rebinding: a page gives its own name our address
        ({"Host": "127.0.0.1.evil.example:8200"}, 403),
        ({"Host": "localhost:9000"}, 200),  # ssh -L 9000:127.0.0.1:8200
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        # A link that a person follows may lead here; a frame may not.
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
    ],
)  # fmt: skip
async def test_other_pages_are_refused(
    served: tuple[Dashboard, str, ClientSession], headers: dict[str, str], status: int
) -> None:
    """Whatever else is open in the browser can neither read nor drive the dashboard."""
    _dashboard, url, session = served
    async with session.get(f"{url}/overview", headers=headers) as reply:
        assert reply.status == status
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in reply.headers


async def test_whatever_does_something_needs_the_token(
    served: tuple[Dashboard, str, ClientSession],
) -> None:
    """It is in our own pages only, and new with every start."""
    dashboard, url, session = served
    for token, status in (("", 403), ("x" * 43, 403), (dashboard.guard.token, 405)):
        async with session.post(f"{url}/overview", headers={"X-Tidemill-Token": token}) as reply:
            assert reply.status == status  # 405: let through, but a page cannot be posted to
    async with session.get(f"{url}/overview") as reply:
        assert dashboard.guard.token in await reply.text()


async def test_every_figure_says_how_to_ask_it(
    served: tuple[Dashboard, str, ClientSession],
) -> None:
    """Nothing is shown that a person could not ask as well."""
    _dashboard, url, session = served
    async with session.get(url) as reply:
        text = await reply.text()
    assert text.count("<section") == text.count("<h3>Command</h3>") >= 4
    assert "SELECT toStartOfInterval(predicted_at" in text


FIGURE = Figure(name="one", title="One", kind="table", sql="SELECT 1", every_s=0.0)
PAGE = Page(name="page", title="Page", about="", figures=(FIGURE,))


class Asked:
    """Counts questions; answers once ``told`` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.down = False

    async def __call__(self, _figure: Figure) -> dict[str, object]:
        self.count += 1
        if self.down:
            raise StoreUnavailable("could not reach the store")
        return {"rows": [[self.count]], "took_ms": 20_000.0}


async def test_one_question_serves_all_viewers_and_none_is_asked_without_any() -> None:
    """Fifty open pages cost the store what one costs, and a closed browser nothing."""
    asked = Asked()
    live = Live(lambda _page, _pipeline: PAGE, lambda _pipeline: asked)
    opened = [live.open("page", "flights") for _ in range(50)]
    seen = [await one[1].next(5.0) for one in opened if one]
    assert {news["one"]["rows"][0][0] for news in seen} == {1}
    late = live.open("page", "flights")
    assert late
    assert (await late[1].next(5.0))["one"]["rows"] == [[1]], "a late viewer gets what is known"
    await asyncio.sleep(0.6)
    # The answer took 20 s, so the next question is minutes away.
    assert asked.count == 1
    for channel, viewer in [*filter(None, opened), late]:
        channel.close(viewer)
    assert live.viewers == 0
    again = live.open("page", "flights")
    assert again
    assert (await again[1].next(5.0))["one"]["rows"] == [[2]], "old answers are not shown as new"
    again[0].close(again[1])


async def test_a_store_that_is_down_is_told_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page says so, and heals by itself."""
    monkeypatch.setattr("streams.dashboard.live.RETRY_S", 0.0)
    asked = Asked()
    asked.down = True
    live = Live(lambda _page, _pipeline: PAGE, lambda _pipeline: asked)
    opened = live.open("page", "flights")
    assert opened
    channel, viewer = opened
    told = (await viewer.next(5.0))["one"]
    assert (told["state"], told["what"]) == ("down", "store")
    asked.down = False
    while (told := (await viewer.next(5.0))["one"])["state"] == "down":
        pass
    assert told["state"] == "ok"
    channel.close(viewer)


async def test_the_number_of_open_pages_is_bounded() -> None:
    """A script that opens pages for ever is refused, not served."""
    live = Live(lambda _page, _pipeline: PAGE, lambda _pipeline: Asked())
    opened = [live.open("page", "flights") for _ in range(VIEWERS_MAX)]
    with pytest.raises(TooManyViewers):
        live.open("page", "flights")
    for one in opened:
        assert one
        one[0].close(one[1])


async def test_an_explanation_is_made_once_however_often_the_page_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever leaves makes nobody else wait, and no more than a few processes can be asked for."""
    commands, go = Commands(Settings()), asyncio.Event()
    lines: list[list[str]] = []

    async def run(line: list[str], _seconds_max: float) -> Done:
        lines.append(line)
        await go.wait()
        return Done(0, '{"score": 1}', "") if "--id=e0" in line else Done(2, "", "there is none")

    monkeypatch.setattr(commands, "_run", run)
    left = asyncio.create_task(commands.explain("flights", "e0"))
    stayed = asyncio.create_task(commands.explain("flights", "e0"))
    others = [
        asyncio.create_task(commands.explain("flights", f"e{i}")) for i in range(1, EXPLAINING_MAX)
    ]
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(PermanentError, match="others wait"):
        await commands.explain("flights", "one too many")
    go.set()
    found = await stayed
    assert (found["score"], found["command"]) == (1, "tidemill explain flights --id=e0")
    for other in others:
        with pytest.raises(PermanentError, match="there is none"):
            await other
    assert len(lines) == EXPLAINING_MAX
    assert commands._explanations == {}
