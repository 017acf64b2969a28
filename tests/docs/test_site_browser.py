"""The site in a real Chromium, opened as files without any network: light, dark, on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the group tidemill[browser] is not installed"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PAGES = ("index", "reference/client", "reference/settings")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium is found: apt-get install chromium, and these tests run")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]
)
def test_pages_are_drawn_from_their_own_files(
    chromium: Any, site: Path, scheme: str, width: int
) -> None:
    """No request leaves the folder, nothing fails, and a phone scrolls in one direction only."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(30_000)
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda told: failed.append(told.text) if told.type == "error" else None)
    SHOTS.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_selector("h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
        assert shown == {"light": "default", "dark": "slate"}[scheme]
        page.screenshot(path=SHOTS / f"site-{name.replace('/', '-')}-{scheme}-{width}.png")
    context.close()
    assert failed == []
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_search_finds_a_setting(chromium: Any, site: Path) -> None:
    """Without a server: the index is a script beside the page."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto((site / "index.html").as_uri())
    page.fill(".md-search__input", "ledger_rows_max")
    found = page.wait_for_selector(".md-search-result__link")
    assert found is not None
    page.wait_for_selector(".md-search-result__link[href*='reference/settings.html']")
    page.screenshot(path=SHOTS / "site-search.png")
    context.close()
