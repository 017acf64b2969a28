"""Pictures of every page of a dashboard that runs, and how soon each was painted.

tidemill demo &
python -m tests.browser.pictures http://127.0.0.1:8200 build/pictures --id EVENT
"""

import json
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import CHROMIUM
from tests.browser.test_pages import ANSWERED, PAGES

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SETTLE_MS = 2_500
"""Curves need two answers."""
VISITS = 5
PAINTS = "() => Object.fromEntries(performance.getEntriesByType('paint').map(e => [e.name, e.startTime]))"


@click.command()
@click.argument("url")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--id", "event_id", default="", help="The event that the Decision page shows.")
def main(url: str, folder: Path, event_id: str) -> None:
    """Look at every page, light, dark and as a phone shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in PAGES:
            address = f"{url}/{name}" + (f"?id={event_id}" if name == "decision" else "")
            painted = sorted(_painted(browser, address) for _ in range(VISITS))
            click.echo(json.dumps({"page": name, "first_paint_ms": [round(ms) for ms in painted]}))
            for kind, scheme, size in (
                ("light", "light", WIDE),
                ("dark", "dark", WIDE),
                ("phone", "light", PHONE),
            ):
                context = browser.new_context(viewport=size, color_scheme=scheme)
                page = context.new_page()
                _open(page, address)
                page.wait_for_timeout(SETTLE_MS)
                page.screenshot(path=folder / f"{name}-{kind}.png", full_page=True)
                context.close()
        browser.close()


def _painted(browser: Any, address: str) -> float:
    """Milliseconds from the request to the first contents, with nothing cached."""
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    _open(page, address)
    found: dict[str, float] = page.evaluate(PAINTS)
    context.close()
    return found["first-contentful-paint"]


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_function(ANSWERED)
    page.wait_for_timeout(200)


if __name__ == "__main__":
    main()
