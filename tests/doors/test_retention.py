"""How long things are kept: as the settings say, where it was asked for, and written down."""

import json

import pytest

from schemas.settings import Settings
from schemas.topics import DAY_MS, FOREVER_MS, audit_topic, models_topic
from streams.store.client import connect
from streams.transport.administration import present_retention_ms, retention_ms
from tests.doors.conftest import NAME, Vault


def test_each_topic_keeps_what_its_setting_says(vault: Vault) -> None:
    settings = Settings(topic_retention_days=3, dead_letter_retention_days=9)
    topics = vault.pipeline.topics
    assert retention_ms(topics.events, settings) == 3 * DAY_MS
    assert retention_ms(topics.dead_letters, settings) == 9 * DAY_MS
    assert retention_ms(topics.learners, settings) is None
    assert retention_ms(models_topic(), settings) is None
    assert retention_ms(audit_topic(), settings) == FOREVER_MS


@pytest.mark.slow
def test_the_command_shows_what_differs_and_sets_it(vault: Vault) -> None:
    """On the broker and in the store; not the audit log, and nothing without --apply."""
    wanted = {"TIDEMILL_TOPIC_RETENTION_DAYS": "3", "TIDEMILL_ROW_RETENTION_DAYS": "90"}
    line = ["retention", vault.named.reference, "--json"]
    shown = vault.tidemill("operator", *line, **wanted)
    assert shown.returncode == 0, shown.stderr
    found = {row["name"]: row for row in json.loads(shown.stdout)}
    assert (found[f"{NAME}.events"]["present"], found[f"{NAME}.events"]["wanted"]) == (
        "7 days",
        "3 days",
    )
    assert (found["scored"]["present"], found["scored"]["wanted"]) == ("400 days", "90 days")
    assert found["tidemill.audit"]["present"] == "for good"
    refused = vault.tidemill("dashboard", *line, "--apply", **wanted)
    assert (refused.returncode, "operator" in refused.stderr) == (2, True), refused.stderr
    done = vault.tidemill("operator", *line, "--apply", **wanted)
    assert done.returncode == 0, done.stderr
    assert [row for row in json.loads(done.stdout) if row["present"] != row["wanted"]] == []
    topics = [*vault.pipeline.topics.all(), audit_topic()]
    kept = present_retention_ms(vault.as_("operator"), topics)
    assert (kept[f"{NAME}.events"], kept[f"{NAME}.dead-letters"]) == (3 * DAY_MS, 30 * DAY_MS)
    assert kept["tidemill.audit"] == FOREVER_MS
    client = connect(vault.base)
    made = client.command("SHOW CREATE TABLE labels")
    client.close()
    assert "toIntervalDay(90)" in made
    listed = vault.tidemill("dashboard", "audit", "list", "--last", "1", "--json")
    [entry] = json.loads(listed.stdout)
    assert (entry["action"], entry["before"]["labels"]) == ("set retention", "400 days")
