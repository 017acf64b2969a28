"""The Health page: what fires, who asked for silence, how the books are, and does an alert arrive."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer

from schemas.settings import Settings
from schemas.topics import ALERTS
from streams.alerts.core import AlertState
from streams.alerts.keeping import insert_states
from streams.store.client import connect
from tests.browser.conftest import Watched

pytestmark = [pytest.mark.connected, pytest.mark.timeout(600)]


def test_what_fires_is_shown_and_a_channel_is_tried(
    watched: Watched, browse: Callable[..., Any]
) -> None:
    """A firing alert, a silence beside it, the books once a round has ended, and the button."""
    now_ms = int(time.time() * 1000)
    client = connect(Settings(clickhouse=watched.clickhouse, database="watched"))
    fires = AlertState(
        pipeline="watched", rule="made-up", state="firing", since_ms=now_ms, started_ms=now_ms,
        severity="critical", value=7.0, bound="above 5", summary="Made up.", sequence=1,
    )  # fmt: skip
    insert_states(client, [fires], now_ms=now_ms)
    # A channel without an address answers 422, which the browser logs.
    page = browse(f"{watched.url}/health", allowed="422")
    row = page.locator("#figure-alerts tbody tr", has_text="made-up")
    row.wait_for()
    assert row.locator(".tag").inner_text() == "firing"
    watched.tidemill("alerts", "silence", "watched", "made-up", "--reason", "known since noon")
    page.locator("#figure-silences", has_text="known since noon").wait_for()
    page.locator("#figure-alerts .tag", has_text="silenced").wait_for()
    page.locator("#figure-checked dd", has_text="exact").first.wait_for(timeout=120_000)
    page.select_option("#channel", "topic")
    page.click("#try-channel")
    page.locator("#channels", has_text="delivered").wait_for(timeout=60_000)
    consumer = Consumer(
        {
            "bootstrap.servers": watched.kafka,
            "group.id": "alerts-page",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([ALERTS])
    try:
        while (message := consumer.poll(30)) is not None:
            notice = json.loads(message.value())
            if (notice["pipeline"], notice["status"]) == ("watched", "test"):
                break
        assert message is not None, "the test notice is not on the topic"
    finally:
        consumer.close()
    page.select_option("#channel", "webhook")
    page.click("#try-channel")
    page.locator("#channels", has_text="TIDEMILL_ALERT_WEBHOOK").wait_for(timeout=60_000)
