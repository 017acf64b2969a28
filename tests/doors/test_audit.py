"""The audit log on the real broker and in the real store: written with the action, and checked."""

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import UnknownTopicOrPartitionError

from models.registry import open_registry
from models.rollout import hold
from schemas.audit import decode_entry
from schemas.errors import KafkaUnavailable
from schemas.settings import Settings
from schemas.topics import AUDIT, audit_topic
from streams.control import announce as announcing
from streams.control.audit import append, copy_if_any, read_sealed, verify
from streams.rollout.promotion import existing, promote, steer
from streams.store.client import connect
from streams.transport.administration import administration, create_topics
from tests.doors.conftest import NAME, Vault, wait_for
from tests.doors.secured import ADMIN


@pytest.fixture
def fresh(vault: Vault) -> Iterator[Vault]:
    """The vault with an empty log, and again afterwards: nobody else's test shall see the damage."""
    empty(vault)
    yield vault
    empty(vault)


def empty(vault: Vault) -> None:
    """What no role may do: only an administrator deletes the topic."""
    gone = contextlib.suppress(UnknownTopicOrPartitionError)
    with administration(vault.as_(ADMIN)) as client, gone:
        client.delete_topics([AUDIT])
    wait_for("new topic", lambda: create_topics(vault.as_(ADMIN), [audit_topic()]), limit_s=30)
    client = connect(vault.base)
    client.command("TRUNCATE TABLE audit")
    client.close()


def act(vault: Vault) -> None:
    """Three actions: a promotion, a hold, and one by a command."""
    settings = vault.as_("deliver")
    served = asyncio.run(announcing.champion(settings, NAME))
    assert served is not None
    promote(settings, NAME, served.version, now_ms=10)
    steer(settings, NAME, lambda b: hold(existing(b, NAME), at_ms=11, reason="look"), now_ms=11)
    released = vault.tidemill("deliver", "models", "release", vault.named.reference)
    assert released.returncode == 0, released.stderr


def test_every_action_is_in_topic_and_table_with_before_and_after(fresh: Vault) -> None:
    """Who, what, before, after, when; and `list` and `verify` say so."""
    act(fresh)
    entries = [decode_entry(content) for content, _ in read_sealed(fresh.as_("dashboard"))]
    assert [(e.number, e.action, e.subject) for e in entries] == [
        (0, "promote", NAME), (1, "hold", NAME), (2, "release", NAME),
    ]  # fmt: skip
    held = entries[1]
    assert (held.before["held"], held.after["held"], held.reason) == (False, True, "look")
    assert held.after["epoch"] == held.before["epoch"] + 1
    assert held.at_ms == 11
    assert held.who.endswith(f"/{NAME}-deliver")
    listed = json.loads(fresh.tidemill("dashboard", "audit", "list", "--json").stdout)
    assert [e["action"] for e in listed] == ["promote", "hold", "release"]
    checked = fresh.tidemill("dashboard", "audit", "verify")
    assert (checked.returncode, "whole: 3 entries, 3 in SQL" in checked.stdout) == (0, True), (
        checked
    )
    client = connect(fresh.base)
    rows = client.query("SELECT number, action FROM audit ORDER BY number").result_rows
    client.close()
    assert rows == [(0, "promote"), (1, "hold"), (2, "release")]


def test_an_announcement_that_fails_leaves_no_entry(fresh: Vault) -> None:
    """They are one transaction: no record of what did not happen, nothing done without a record."""

    def refuse(_before: object) -> object:
        raise KafkaUnavailable("not now")

    with pytest.raises(KafkaUnavailable):
        announcing.change(fresh.as_("deliver"), NAME, refuse)
    assert read_sealed(fresh.as_("deliver")) == []
    with administration(fresh.as_(ADMIN)) as client:
        client.delete_topics([AUDIT])
    epoch = asyncio.run(announcing.champion(fresh.as_("deliver"), NAME)).epoch
    with pytest.raises(Exception, match=AUDIT):
        announcing.change(fresh.as_("deliver"), NAME, lambda b: hold(existing(b, NAME), at_ms=12))
    assert asyncio.run(announcing.champion(fresh.as_("deliver"), NAME)).epoch == epoch


def test_writers_at_once_make_one_chain(fresh: Vault) -> None:
    """They fence each other and try again; no entry is lost, no number is used twice."""
    settings = fresh.as_("operator")

    async def all_at_once() -> None:
        calls = [
            asyncio.to_thread(append, settings, action="test", subject=str(i), at_ms=i)
            for i in range(4)
        ]
        await asyncio.gather(*calls)

    asyncio.run(all_at_once())
    entries = [decode_entry(content) for content, _ in read_sealed(settings)]
    assert [e.number for e in entries] == [0, 1, 2, 3]
    assert {e.subject for e in entries} == {"0", "1", "2", "3"}
    assert verify(settings).broken is None


def test_a_record_that_somebody_slips_in_is_named(fresh: Vault) -> None:
    """Who may write to the topic but has no key: a copy of a true entry, and an invented one."""
    act(fresh)
    [(content, signature), *_] = read_sealed(fresh.as_("deliver"))
    producer = Producer(fresh.client("deliver"))
    producer.produce(AUDIT, content, key=b"0", headers=[("signature", signature)])
    assert producer.flush(30) == 0
    checked = fresh.tidemill("dashboard", "audit", "verify")
    assert checked.returncode == 1
    assert "broken at entry 3: it has number 0" in checked.stdout
    # The log goes on, and so does control: a broken record must not stop a roll-back.
    append(fresh.as_("deliver"), action="test", subject="after", at_ms=1)
    assert verify(fresh.as_("dashboard")).broken.number == 3


def test_a_changed_table_and_a_cut_off_topic_are_named(fresh: Vault) -> None:
    """Each of the two is held against the other."""
    act(fresh)
    settings = fresh.as_("dashboard")
    client = connect(fresh.base)
    client.command(
        "ALTER TABLE audit UPDATE entry = replaceOne(entry, 'look', 'took') WHERE number = 1",
        settings={"mutations_sync": 2},
    )
    found = verify(settings)
    assert (found.broken.number, "table" in found.broken.why) == (1, True)
    client.command("TRUNCATE TABLE audit")
    copy_if_any(fresh.as_("operator"))
    assert verify(settings).broken is None
    client.command("INSERT INTO audit (number, entry) VALUES (3, 'gone from the topic')")
    found = verify(settings)
    assert (found.broken.number, "cut off" in found.broken.why) == (3, True)
    client.close()


def test_it_is_kept_for_good(vault: Vault) -> None:
    """Neither time nor size nor compaction removes an entry."""
    with administration(vault.as_("operator")) as client:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, AUDIT)]
        found = client.describe_configs(wanted, config_filter="all")["topic"][AUDIT]
    kept = {
        name: found[name]["value"] for name in ("cleanup.policy", "retention.ms", "retention.bytes")
    }
    assert kept == {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def test_without_a_broker_nothing_is_written(tmp_path) -> None:
    """And what was done stays done."""
    from streams.control.audit import note

    assert "no broker" in note(Settings(home=tmp_path), action="a", subject="b", at_ms=1)
    assert open_registry(Settings(home=tmp_path)).versions(NAME) == []
