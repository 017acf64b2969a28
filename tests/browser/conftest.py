"""One `tidemill up` and one Chromium for all tests; both are looked for before anything starts."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from streams.local.kafka import EmbeddedKafka
from streams.local.ports import free_port
from streams.local.store import EmbeddedStore
from streams.telemetry import read_reports

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the group tidemill[browser] is not installed"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "screenshots"
EVENTS = 600
START_S_MAX = 600.0
"""On a machine that is busy with other things a start takes minutes; alone it takes 15 s."""
PIPELINE = '''
import random

import pyarrow as pa

from schemas.drift import drift
from schemas.pipeline import Pipeline, category, label, numeric, online


def history() -> pa.Table:
    """Sixty days; large amounts from abroad are fraud."""
    chance = random.Random(7)
    rows = []
    for i in range(3_000):
        amount, country = chance.lognormvariate(3, 1), chance.choice(["DE", "FR", "XX"])
        fraud = chance.random() < (0.6 if country == "XX" and amount > 20 else 0.02)
        time_ms = 1_700_000_000_000 + i * 1_728_000
        rows.append((f"e{i}", time_ms, f"a{i % 97}", amount, country, float(fraud), time_ms + 5_000_000))
    names = ["event_id", "event_time_ms", "account_id", "amount", "country", "label", "label_time_ms"]
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows))})


watched = Pipeline(
    name="watched",
    key="account_id",
    features=[numeric("amount", missing=0.0), category("country")],
    target=label("fraud", prior=0.1),
    partitions=2,
    history=history,
    first_training_days=40,
    learner=online("logistic_regression"),
)
'''


@dataclass(slots=True)
class Watched:
    """The running stack with its dashboard."""

    folder: Path
    kafka: str
    clickhouse: str
    url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    sent: int = 0

    @property
    def pipeline(self) -> str:
        """The file that declares it."""
        return str(self.folder / "watched.py")

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """One of our commands, in the background."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "streams.cli.main", *arguments],
            env=self.environment,
            stdout=(self.folder / f"{arguments[0]}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def tidemill(self, *arguments: str, check: bool = True) -> str:
        """One of our commands, to its end; what it printed."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "streams.cli.main", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=300, check=check,
        ).stdout  # fmt: skip

    def send(self, count: int, *, labels: bool = True) -> None:
        """Events with ids e0, e1, ..., each with its label."""
        producer = Producer({"bootstrap.servers": self.kafka, "enable.idempotence": True})
        now_ms = int(time.time() * 1000) - 60_000
        for i in range(self.sent, self.sent + count):
            key, country = f"a{i % 97}", ["DE", "FR", "XX"][i % 3]
            event = {"event_id": f"e{i}", "event_time_ms": now_ms, "account_id": key,
                     "amount": 5.0 + i % 60, "country": country}  # fmt: skip
            producer.produce("watched.events", json.dumps(event), key=key)
            if labels:
                truth = {"event_id": f"e{i}", "value": int(country == "XX" and i % 60 > 15),
                         "label_time_ms": now_ms + 5_000}  # fmt: skip
                producer.produce("watched.labels", json.dumps(truth), key=key)
        self.sent += count
        assert producer.flush(30) == 0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Until it is so; fails with ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A browser that is installed here; Playwright's own is not downloaded."""
    if not CHROMIUM:
        pytest.skip("no Chromium is found: apt-get install chromium, and these tests run")
    with playwright.sync_playwright() as driver:
        # Containers have no user namespaces; the pages are ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def watched(
    chromium: Any, broker: EmbeddedKafka, store: str, tmp_path_factory: Any
) -> Iterator[Watched]:
    """`tidemill up` on the servers of this run, with events, labels and a dashboard."""
    folder = tmp_path_factory.mktemp("watched")
    stack = Watched(folder, broker.address, store)
    Path(stack.pipeline).write_text(PIPELINE, encoding="utf-8")
    stack.environment = {
        **os.environ,
        "TIDEMILL_HOME": str(folder / "home"),
        "TIDEMILL_KAFKA": stack.kafka,
        "TIDEMILL_CLICKHOUSE": stack.clickhouse,
        "TIDEMILL_DATABASE": "watched",
        "TIDEMILL_DASHBOARD_PORT": str(free_port()),
    }
    process = stack.start("up", stack.pipeline)
    try:
        deadline = time.monotonic() + START_S_MAX
        while _dashboard(folder) == "":
            late = time.monotonic() > deadline
            assert process.poll() is None and not late, (folder / "up.log").read_text()  # noqa: PT018
            time.sleep(0.1)
        stack.url = _dashboard(folder)
        stack.send(EVENTS)
        yield stack
    finally:
        process.terminate()
        process.wait(60)


def _dashboard(folder: Path) -> str:
    """Its address, from its own report, once it listens."""
    reports = read_reports(folder / "home" / "run")
    return next((r.detail.split()[-1] for r in reports if r.name == "dashboard" and r.detail), "")


@pytest.fixture
def browse(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens an address; whatever a page logs as an error fails the test, and a failure is pictured."""
    opened: list[Any] = []
    errors: list[str] = []

    def open_(url: str, *, scheme: str = "light", width: int = 1280, allowed: str = "") -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda told: errors.append(told.text)
            if told.type == "error" and not (allowed and allowed in told.text) else None,
        )  # fmt: skip
        page.goto(url)
        opened.append(page)
        return page

    yield open_
    for page in opened:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name.replace('/', '-')}.png", full_page=True)
        page.context.close()
    assert errors == []


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store of the test's own, which may be stopped."""
    with EmbeddedStore(tmp_path / "store") as process:
        yield process
