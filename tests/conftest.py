"""What tests share: one real broker and one real store per run, started when first asked for."""

import gc
import itertools
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis  # noqa: F401  # else imported at the end, see test_ratchets
import pytest

from schemas.settings import Settings
from streams.local.kafka import EmbeddedKafka
from streams.local.store import EmbeddedStore
from tests.connected.store_http import send

_numbers = itertools.count(1)
SERVER = os.environ.get("TIDEMILL_TEST_CLICKHOUSE", "")
"""A ClickHouse server, ``http://user:password@host:port``, that is asked in the place of the embedded
store. Tests marked ``embedded`` are about the latter and are skipped then."""
_CONNECTED_FIXTURES = {"kafka", "broker", "store", "store_process", "settings", "guarded"}


def pytest_configure() -> None:
    """No setting of the person who runs the tests may reach them."""
    for name in list(os.environ):
        if name.startswith("TIDEMILL_"):
            del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, object, object]:
    """A failed test must not end the whole run.

    Its trace back is made with `ast.parse`, and Python 3.11 fails in there when a collection begins
    meanwhile: "SystemError: AST constructor recursion depth mismatch".
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses a real server, so that ``-m 'not connected'`` is quick."""
    mine = pytest.mark.skip(reason="about the embedded store; TIDEMILL_TEST_CLICKHOUSE is set")
    for item in items:
        if SERVER and item.get_closest_marker("embedded"):
            item.add_marker(mine)
        if _CONNECTED_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.connected)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The broker of this run. Do not stop it: tests that kill brokers start their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def kafka(broker: EmbeddedKafka) -> str:
    """``host:port`` of the broker of this run."""
    return broker.address


@pytest.fixture(scope="session")
def store_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """The store of this run. Do not stop it: tests that kill stores start their own."""
    if SERVER:
        pytest.skip("needs the embedded store's process; TIDEMILL_TEST_CLICKHOUSE is set")
    with EmbeddedStore(tmp_path_factory.mktemp("store") / "clickhouse") as store:
        yield store


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest) -> str:
    """``http://host:port`` of the store of this run, or of the server that was named."""
    if SERVER:
        send(SERVER, "CREATE DATABASE IF NOT EXISTS tidemill")
        return SERVER
    process: EmbeddedStore = request.getfixturevalue("store_process")
    return process.url


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name nobody else in this run uses: ``unique("flights")`` -> ``flights_3_9f1c``."""

    def name(prefix: str) -> str:
        return f"{prefix}_{next(_numbers)}_{uuid.uuid4().hex[:4]}"

    return name


@pytest.fixture
def settings(kafka: str, store: str, tmp_path: Path, unique: Callable[[str], str]) -> Settings:
    """Settings for the servers of this run, with a home and a database of the test's own."""
    return Settings(
        home=tmp_path / "home", kafka=kafka, clickhouse=store, database=unique("tidemill")
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Length and seed of the fault schedules in `tests/chaos`."""
    parser.addoption("--rounds", default=3, type=int, help="rounds of kills")
    parser.addoption("--seed", default=20130101, type=int, help="seed of the fault schedule")
    parser.addoption("--outage-s", default=15, type=float, help="seconds a server stays away")
    parser.addoption(
        "--upgrade-from", default="5223a87", help="commit of tests/chaos/test_upgrade.py"
    )
