"""What a person sees when there is nothing yet, when the store is gone, and when the pages are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.settings import Settings
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.local.ports import free_port
from streams.local.store import EmbeddedStore
from streams.store.client import connect
from streams.telemetry import read_reports
from tests.browser.conftest import PIPELINE, Watched, wait_for
from tests.browser.test_pages import ANSWERED, BROKEN, PAGES, serious

pytestmark = [pytest.mark.connected, pytest.mark.embedded, pytest.mark.timeout(240, func_only=True)]

Browse = Callable[..., Any]


def test_empty_store_down_and_back(
    browse: Browse, kafka: str, own_store: EmbeddedStore, tmp_path: Path
) -> None:
    """Every page says what is missing and what to do; a store that comes back is found again."""
    file = tmp_path / "nothing_yet.py"
    file.write_text(PIPELINE.replace('name="watched"', 'name="nothing_yet"'), encoding="utf-8")
    settings = Settings(
        home=tmp_path, kafka=kafka, clickhouse=own_store.url, dashboard_port=free_port()
    )
    prepare(settings, [Named.load(str(file))])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "streams.cli.main", "dashboard", str(file)],
        env={**os.environ, **settings.environment()},
    )
    try:
        url = f"http://127.0.0.1:{settings.dashboard_port}"
        wait_for(lambda: bool(read_reports(settings.run_folder)), "no dashboard")
        page = browse(url, allowed="ERR_")
        for name in PAGES:
            page.goto(f"{url}/{name}")
            page.wait_for_function(ANSWERED)
            assert page.locator(BROKEN).all_inner_texts() == [], name
        page.goto(f"{url}/pipeline")
        page.locator("#figure-quality", has_text="Labels go to the topic").wait_for()
        own_store.stop()
        page.locator("#notices", has_text="The store is down").wait_for()
        page.locator("#figure-quality [data-state=down]").wait_for()
        assert serious(page) == []
        own_store.begin()
        own_store.wait_ready()
        page.locator("#notices", has_text="The store is down").wait_for(state="detached")
        page.locator("#figure-quality", has_text="Labels go to the topic").wait_for()
    finally:
        process.terminate()
        process.wait(30)


def test_a_dead_dashboard_stops_nothing_and_comes_back(watched: Watched, browse: Browse) -> None:
    """The stream goes on without it, and an open page is live again by itself."""
    page = browse(watched.url, allowed="ERR_")
    page.wait_for_function(ANSWERED)
    run = watched.folder / "home" / "run"
    [before] = [report.pid for report in read_reports(run) if report.name == "dashboard"]
    os.kill(before, signal.SIGKILL)
    page.wait_for_function("() => document.getElementById('pulse').dataset.state === 'lost'")
    client = connect(replace(Settings(), clickhouse=watched.clickhouse, database="watched"))
    rows = client.command("SELECT count() FROM watched")
    watched.send(50)
    wait_for(lambda: client.command("SELECT count() FROM watched") == int(rows) + 50, "it stopped")
    page.wait_for_function("() => document.getElementById('pulse').dataset.state === 'live'")
    [after] = [report.pid for report in read_reports(run) if report.name == "dashboard"]
    assert after != before


@pytest.mark.slow
def test_ten_thousand_predictions_a_second_do_not_freeze_the_page(
    watched: Watched, browse: Browse
) -> None:
    """Frames keep coming, numbers follow, and neither the page nor its server grows."""
    page = browse(watched.url)
    page.wait_for_function(ANSWERED)
    page.evaluate(
        """() => { window.tasks = []; new PerformanceObserver(
            (list) => window.tasks.push(...list.getEntries().map((one) => one.duration)),
        ).observe({type: 'longtask'});
        window.gaps = []; let last = performance.now();
        const frame = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(frame); };
        requestAnimationFrame(frame); }"""
    )
    begun, sent = time.monotonic(), 0
    heap = page.evaluate("performance.memory.usedJSHeapSize")
    while (elapsed := time.monotonic() - begun) < 40:
        count = min(10_000, int(elapsed * 10_000) - sent)
        if count > 500:
            watched.send(count, labels=False)
            sent += count
        page.wait_for_timeout(50)
    gaps = sorted(page.evaluate("window.gaps"))
    tasks = sorted(page.evaluate("window.tasks"))
    print(
        f"sent={sent} frames={len(gaps)} median_ms={gaps[len(gaps) // 2]:.0f} "
        f"p99_ms={gaps[int(len(gaps) * 0.99)]:.0f} max_ms={gaps[-1]:.0f} "
        f"long_tasks={len(tasks)} longest_task_ms={max(tasks, default=0):.0f}"
    )
    assert sent >= 300_000
    assert gaps[-1] < 2000, "it froze"
    assert gaps[int(len(gaps) * 0.99)] < 250
    grown = page.evaluate("performance.memory.usedJSHeapSize") - heap
    assert grown < 30 << 20, f"the page grew by {grown} bytes"
    rate = page.locator(".flow text.value").nth(2).text_content()
    assert "predictions/s" in rate, rate
