"""Announcing on real Kafka: the compacted topic counts epochs by pipeline."""

import asyncio

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from schemas.errors import KafkaUnavailable
from schemas.manifest import Announcement
from schemas.settings import Settings
from schemas.topics import MODELS, control_topics
from streams.control import announce as announcing
from streams.transport.administration import create_topics


async def make_models_topic(kafka: str) -> None:
    """And that of the audit log, which each announcement needs."""
    await asyncio.to_thread(create_topics, Settings(kafka=kafka), control_topics())


async def newest(kafka: str, pipeline: str) -> Announcement:
    consumer = AIOKafkaConsumer(MODELS, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        found = None
        while records := await consumer.getmany(timeout_ms=2000):
            for record in [r for batch in records.values() for r in batch]:
                if record.key == pipeline.encode():
                    found = msgspec.json.decode(record.value, type=Announcement)
        assert found is not None
        return found
    finally:
        await consumer.stop()


def test_every_announcement_of_a_pipeline_has_a_higher_epoch(kafka, unique, tmp_path) -> None:
    """So workers know the newest, whatever order they hear of them in."""
    asyncio.run(make_models_topic(kafka))
    settings, one, other = Settings(kafka=kafka, home=tmp_path), unique("one"), unique("other")

    def announce(pipeline: str, version: str) -> Announcement:
        return announcing.announce(
            settings, pipeline=pipeline, version=version, digest="d", now_ms=5
        )

    assert announce(one, "a").epoch == 1
    assert announce(one, "b").epoch == 2
    assert announce(other, "c").epoch == 1
    last = announce(one, "a")
    assert (last.epoch, last.version, last.announced_at_ms) == (3, "a", 5)
    assert asyncio.run(newest(kafka, one)) == last


def test_no_broker_is_said_in_time(tmp_path) -> None:
    """A training that cannot announce ends with a reason, not in silence."""
    with pytest.raises(KafkaUnavailable, match="could not announce"):
        announcing.announce(
            Settings(kafka="127.0.0.1:1", home=tmp_path),
            pipeline="p",
            version="v",
            digest="d",
            now_ms=5,
        )
