"""A rollout on real Kafka: steps, refusals, and a rollback that loads nothing."""

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from models import rollout
from models.registry import open_registry
from models.signing import load_keyring
from schemas.errors import KafkaUnavailable
from schemas.loading import load_pipeline
from schemas.manifest import ANNOUNCEMENT_SIGNATURE, Announcement, NamedVersion
from schemas.settings import Settings
from schemas.topics import MODELS
from streams.control import announce as announcing
from streams.rollout.promotion import existing
from streams.telemetry import Reporter
from streams.workers.updates import ModelUpdates
from tests.connected.test_announce import make_models_topic
from tests.connected.test_bad_input import DECLARATION, constant


async def send(kafka: str, pipeline: str, *records: tuple[bytes, bytes | None]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        for value, signature in records:
            headers = [] if signature is None else [(ANNOUNCEMENT_SIGNATURE, signature)]
            await producer.send_and_wait(
                MODELS, key=pipeline.encode(), value=value, headers=headers
            )
    finally:
        await producer.stop()


@pytest.fixture
def world(
    kafka: str, unique: Callable[[str], str], tmp_path: Path
) -> tuple[Settings, str, list[NamedVersion], ModelUpdates, Reporter]:
    asyncio.run(make_models_topic(kafka))
    name = unique("ships")
    file = tmp_path / f"{name}.py"
    file.write_text(DECLARATION.format(name=name))
    pipeline = load_pipeline(str(file))
    settings = Settings(kafka=kafka, home=tmp_path)
    manifest, weights = constant(pipeline)
    versions = [
        NamedVersion(version=version, digest=digest)
        for version, digest in (
            open_registry(settings).publish(msgspec.structs.replace(manifest, seed=seed), weights)
            for seed in (1, 2)
        )
    ]
    reporter = Reporter(tmp_path, "w", "score", name)
    return settings, name, versions, ModelUpdates(pipeline, settings, reporter), reporter


def test_refused_records_change_nothing_and_a_rollback_loads_nothing(world) -> None:
    """Old, replayed, unsigned, changed, broken: each is counted, and the champion stays."""
    settings, name, (old, new), updates, reporter = world
    keyring = load_keyring(settings.signing_key_file)

    def step(how: Callable[..., Announcement], *more: object) -> Announcement:
        return announcing.change(
            settings, name, lambda before: how(existing(before, name), *more, at_ms=2)
        )

    first = announcing.announce(
        settings, pipeline=name, version=old.version, digest=old.digest, now_ms=1
    )
    step(rollout.try_out, new)

    async def run() -> None:
        engine = await updates.first()
        assert engine.arms.shadow is not None
        following = asyncio.create_task(updates.follow(engine))
        try:
            evil = rollout.seal(keyring, replace_epoch(first, 99))
            await send(
                settings.kafka,
                name,
                rollout.seal(keyring, first),
                (evil[0], None),
                (evil[0].replace(b"99", b"98"), evil[1]),
                (b"{", keyring.sign("announcement", b"{")),
                (b"", None),
            )
            await until(lambda: reporter.counters["announcements_refused"] >= 5)
            assert engine.arms.epoch == 2
            await asyncio.to_thread(step, rollout.widen)
            await until(lambda: engine.arms.epoch == 3)
            assert engine.arms.canary is not None
            assert (engine.arms.canary.version, engine.arms.share) == (new.version, 1)
            before = engine.arms
            open_registry(settings).remove(name, new.version)  # what is resident needs no registry
            open_registry(settings).remove(name, old.version)
            await asyncio.to_thread(step, rollout.roll_back)
            await until(lambda: engine.arms.epoch == 4)
            assert engine.arms.canary is None
            assert engine.serving.module is before.champion.module
            assert reporter.counters["models_refused"] == 0
        finally:
            following.cancel()
            await updates.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_of_two_writers_at_once_one_is_refused(world, caplog) -> None:
    """Epochs grow by one and none is used twice: the later writer fences the earlier one.

    What the refused one sees is one error, and no trace backs of a library beside it.
    """
    settings, name, (old, new), _updates, _reporter = world
    announcing.announce(settings, pipeline=name, version=old.version, digest=old.digest, now_ms=1)

    def slow(before: Announcement | None) -> Announcement:
        import threading

        inner = threading.Thread(
            target=announcing.change,
            args=(settings, name, lambda b: rollout.hold(existing(b, name), at_ms=3)),
        )
        inner.start()  # another writer, from its beginning to its end
        inner.join(30)
        return rollout.try_out(existing(before, name), new, at_ms=2)

    with pytest.raises(KafkaUnavailable):
        announcing.change(settings, name, slow)
    gc.collect()  # a future that nobody read tells so when it goes
    assert "never retrieved" not in caplog.text
    found = asyncio.run(announcing.champion(settings, name))
    assert found is not None
    assert (found.epoch, found.action) == (2, "hold")


def replace_epoch(announcement: Announcement, epoch: int) -> Announcement:
    return msgspec.structs.replace(announcement, epoch=epoch)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.05)
