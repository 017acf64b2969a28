"""Log lines as machines read them."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from streams.telemetry import configure_logging


@pytest.fixture
def as_json(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Logging as a worker has it; what the test run itself had comes back."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging("json", worker="shop-score-0")
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("as_json")
def test_every_line_is_one_object_that_names_its_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours and those of libraries; a traceback is one text, without local variables."""
    secret = "hunter2"  # a local variable that must not be printed
    structlog.get_logger("a").info("state changed", state="running")
    logging.getLogger("somebody").warning("of a %s", "library")
    try:
        raise ValueError("so it is")
    except ValueError as error:
        structlog.get_logger("b").error("worker ends itself", exc_info=error)
    logging.getLogger("streams.transport.driver").info("[^-AppConsumer]: Starting...")
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["event"]) for one in told] == [
        ("info", "state changed"),
        ("warning", "of a library"),
        ("error", "worker ends itself"),
    ]
    assert {one["worker"] for one in told} == {"shop-score-0"}
    assert "ValueError: so it is" in told[2]["exception"]
    assert secret not in json.dumps(told)
