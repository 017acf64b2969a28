"""A snapshot on the real topic reaches the answers between two batches, or is refused and counted."""

import asyncio
import time
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaProducer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.hybrid import OnlineModel
from models.signing import Keyring, load_keyring
from schemas.learners import LearnerHeader
from streams.telemetry import Reporter
from streams.transport.administration import create_topics
from streams.workers.learn import ExampleReader
from streams.workers.learners import MODEL, OBSERVER, OFFER, fingerprint, follow_learners, pack
from tests.connected.learning import declare, message, settings_of


def served_position(champion, probe) -> int:
    """Of the snapshot that answers; it says something else than the deep model."""
    scores = np.full(probe.num_rows, 0.5, np.float32)
    served, [found] = champion.answer([(0, probe.num_rows)], probe, scores, "v1")
    assert found < 0 or not np.array_equal(served, scores)
    return found


async def test_snapshots_are_taken_up_and_foreign_ones_are_not(kafka, tmp_path: Path, unique):
    """
    Goal: what is published is served within a moment; nothing unsigned, old or foreign ever is.

    Method: the real topic, written by hand; the follower as a scorer runs it.
    """
    settings = settings_of(kafka, tmp_path)
    _, pipeline = declare(tmp_path, unique("shop"))
    create_topics(settings, [pipeline.topics.learners])
    reporter = Reporter(tmp_path, "w", "score")
    champion, updates = follow_learners(pipeline, settings, reporter)
    own = load_keyring(settings.signing_key_file)
    stranger = Keyring(Ed25519PrivateKey.from_private_bytes(b"9" * 32))
    reader = ExampleReader(pipeline)
    model = OnlineModel(pipeline)
    named = fingerprint(pipeline.learner, pipeline.target)
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()

    def learn(number: int) -> None:
        examples = reader.read(message(number, rows=200))
        model.take(
            reader.columns, examples["model_score"].to_numpy(),
            examples["model_version"].to_pylist(), reader.labels, reader.weights,
        )  # fmt: skip

    async def publish(epoch: int, *, keyring=own, of=named, whole=True, spoil=False) -> None:
        header = LearnerHeader(
            pipeline=pipeline.name, shard=0, epoch=epoch, position=100 * epoch, fingerprint=of,
            rows_learned=1, taken_at_ms=1, parts={},
        )  # fmt: skip
        parts = {MODEL: model.snapshot(), OBSERVER: b"watched"}
        parts = parts if whole else {OFFER: model.snapshot()}
        records, _ = pack(pipeline.topics.learners.name, header, parts, keyring)
        for key, value in zip(records.keys, records.values, strict=True):
            spoiled = value[:-1] + b"\0" if spoil and b"/model/" in key else value
            await producer.send_and_wait(records.topic, spoiled, key=key, partition=0)

    async def until(wanted: int) -> None:
        started = time.monotonic()
        while (found := served_position(champion, reader.columns)) != wanted:
            assert time.monotonic() - started < 60, (found, wanted, dict(reporter.counters))
            await asyncio.sleep(0.01)

    learn(1)
    await publish(1)  # before anybody follows
    following = asyncio.create_task(updates.follow(champion))
    try:
        await until(100)
        learn(2)
        await publish(2)
        await until(200)
        await publish(7, keyring=stranger)
        await publish(7, spoil=True)
        await publish(7, of="another learner")
        await publish(1)  # sent again
        await publish(8)
        await until(800)
        learn(3)
        await publish(9, whole=False)
        await until(900)
        assert reporter.counters["learner_swaps"] == 4
        assert reporter.counters["learners_refused"] == 1  # the other declaration's
    finally:
        following.cancel()
        await updates.stop()
        await producer.stop()
