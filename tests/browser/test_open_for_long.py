"""Pages that stay open: what they hold after an hour is what they held after minutes.

    pytest -m slow -s tests/browser -k open_for_long                 90 s, 400 events/s
    OPEN_S=3600 pytest -m slow -s tests/browser -k open_for_long     an hour, 50 events/s

All pages are open at once, each in a tab of its own that the browser takes for visible. What is
counted is what is left after a forced collection. The series are in ``build/open-for-long.json``.

The browser interprets the scripts and compiles nothing: as they get hot, V8 adds about 0.1 MB of code
over some thousand answers, which is an hour, and then no more. With the compiler a heap snapshot after
4,000 and after 8,500 answers differed by 13 kB of compiled code and by nothing that a page holds.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import pytest

from streams.telemetry import read_reports
from tests.browser.conftest import CHROMIUM, ROOT, Watched
from tests.browser.test_pages import ANSWERED, PAGES

OPEN_S = float(os.environ.get("OPEN_S", "90"))
EVENTS_PER_S = 50 if OPEN_S > 600 else 400
SAMPLES = 120
BLOCKS = 10
"""Neighbouring samples resemble each other; means of blocks hardly do, so their scatter is honest."""
T_MAX = 4.5
"""Student's t of a slope through `BLOCKS` means is larger by chance once in a thousand (8 degrees)."""
GROWN_SHARE_MAX = 0.01
"""Of what is held, over the half that is judged: less is no growth that anybody could notice."""


@pytest.fixture
def interpreting(chromium: Any) -> Iterator[Any]:
    """A browser that compiles no scripts."""
    args = ["--no-sandbox", "--js-flags=--jitless"]
    browser = chromium.browser_type.launch(executable_path=CHROMIUM, args=args)
    yield browser
    browser.close()


@pytest.mark.slow
@pytest.mark.timeout(int(OPEN_S * 1.5) + 240)
def test_pages_that_are_open_for_long_do_not_grow(watched: Watched, interpreting: Any) -> None:
    """Neither the heap nor the elements of any page, nor what the dashboard's process holds."""
    watched.tidemill("train", watched.pipeline, check=False)  # passed or not: it has curves
    pages = {name: interpreting.new_context().new_page() for name in PAGES}
    for name, page in pages.items():
        page.goto(f"{watched.url}/{name}?id=e17")
        page.wait_for_function(ANSWERED)
    sessions = {name: page.context.new_cdp_session(page) for name, page in pages.items()}
    for session in sessions.values():
        session.send("Performance.enable")
    [server] = [
        psutil.Process(report.pid)
        for report in read_reports(watched.folder / "home" / "run")
        if report.name == "dashboard"
    ]
    series: dict[str, list[float]] = {}
    begun = time.monotonic()
    sent = taken = 0
    while (elapsed := time.monotonic() - begun) < OPEN_S:
        count = int(elapsed * EVENTS_PER_S) - sent
        watched.send(count)
        sent += count
        if elapsed * SAMPLES / OPEN_S >= taken:
            taken += 1
            for name, session in sessions.items():
                for what, value in held(session).items():
                    series.setdefault(f"{name} {what}", []).append(value)
            series.setdefault("dashboard rss_bytes", []).append(server.memory_info().rss)
        pages["overview"].wait_for_timeout(500)
    growth = {name: slope(values[len(values) // 2 :]) for name, values in series.items()}
    keep(series, growth, sent)
    for name, (first, last, t) in growth.items():
        print(f"{name:28} {first:12,.0f} {last:12,.0f}  t={t:.1f}")
    assert taken >= SAMPLES // 3
    assert len(growth) == 3 * len(PAGES) + 1
    assert {
        name: found for name, found in growth.items() if grows(*found)
    } == {}, "see build/open-for-long.json"  # fmt: skip


def held(session: Any) -> dict[str, float]:
    """What a page holds after a collection."""
    session.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return {
        "heap_bytes": found["JSHeapUsedSize"],
        "nodes": found["Nodes"],
        "listeners": found["JSEventListeners"],
    }


def slope(values: Sequence[float]) -> tuple[float, float, float]:
    """The ends of the line through the means of `BLOCKS` parts, and Student's t of its slope."""
    size = len(values) // BLOCKS
    means = [statistics.fmean(values[i * size : (i + 1) * size]) for i in range(BLOCKS)]
    line = statistics.linear_regression(range(BLOCKS), means)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in enumerate(means))
    error = math.sqrt(rest / (BLOCKS - 2) / sum((x - (BLOCKS - 1) / 2) ** 2 for x in range(BLOCKS)))
    t = 0.0 if line.slope == 0 else line.slope / max(error, 1e-12)
    return line.intercept, line.intercept + (BLOCKS - 1) * line.slope, t


def grows(first: float, last: float, t: float) -> bool:
    """Whether a line rises beyond chance, and by more than nothing."""
    return t > T_MAX and last - first > GROWN_SHARE_MAX * first


def test_a_page_that_grows_would_be_found() -> None:
    """A test that cannot fail shows nothing: 2 % in the judged half are found in 1 % of noise."""
    noise = [math.sin(i * 12.9898) * 43758.5453 % 1 - 0.5 for i in range(60)]
    steady = [1e6 * (1 + 0.01 * one) for one in noise]
    leaking = [value + 2e4 * i / 60 for i, value in enumerate(steady)]
    assert not grows(*slope(steady))
    assert grows(*slope(leaking))
    assert not grows(*slope([700.0] * 60))


def keep(
    series: dict[str, list[float]], growth: dict[str, tuple[float, float, float]], sent: int
) -> None:
    """The figures, for whoever wants to look at them."""
    found = {"seconds": OPEN_S, "events": sent, "series": series, "second_half": growth}
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "open-for-long.json").write_text(json.dumps(found), encoding="utf-8")
