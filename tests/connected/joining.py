"""Feeds a real join worker with scored rows and labels, and reads what it says of them."""

import asyncio
import time
from pathlib import Path

from aiokafka import AIOKafkaProducer

from schemas.arrow import write_batch
from schemas.examples import read_examples
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.transport.administration import create_topics
from tests.connected.copying import read_all
from tests.unit.ledger_rows import scored

DECLARATION = """
from schemas.pipeline import Pipeline, category, label, numeric

shop = Pipeline(
    name="{name}", key="user", features=[numeric("a"), numeric("b"), category("c")],
    target=label("bought"), partitions=2, horizon="10m", silence=0, corrections="20m",
)
"""


def declare(folder: Path, name: str) -> tuple[Path, Pipeline]:
    """A pipeline file, and what it declares."""
    file = folder / f"{name}.py"
    file.write_text(DECLARATION.format(name=name), encoding="utf-8")
    return file, load_pipeline(str(file))


def settings_of(kafka: str, home: Path) -> Settings:
    """A worker's settings; a joiner needs no store, so nothing answers there."""
    return Settings(
        kafka=kafka,
        home=home,
        clickhouse="http://127.0.0.1:1",
        session_timeout_ms=3000,
        transaction_timeout_ms=5000,
    )


async def send(kafka: str, topic: str, values, *, partition: int, timestamp_ms: int | None = None):
    """Values to one partition, acknowledged."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        sent = [
            await producer.send(
                topic, value, key=b"k", partition=partition, timestamp_ms=timestamp_ms
            )
            for value in values
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def scored_message(rows, *, offset: int = 0, partition: int = 0) -> bytes:
    return write_batch(scored(rows, offset=offset, partition=partition))


async def examples(kafka: str, pipeline: Pipeline):
    """Every example that is visible, by partition, in order."""
    topic = pipeline.topics.examples
    found = await read_all(kafka, topic.name, partitions=topic.partitions)
    return {
        p: [row for value in values for row in read_examples(value).to_pylist()]
        for p, values in found.items()
    }


async def examples_when(
    kafka: str, pipeline: Pipeline, count: int, worker, *, deadline_s: float = 90
):
    """`examples`, once there are ``count``."""
    deadline = time.monotonic() + deadline_s
    while True:
        found = await examples(kafka, pipeline)
        if sum(map(len, found.values())) >= count:
            return found
        assert worker.alive, (found, worker.log)
        assert time.monotonic() < deadline, (found, worker.log)
        await asyncio.sleep(0.3)


def make_topics(settings: Settings, pipeline: Pipeline) -> None:
    create_topics(settings, list(pipeline.topics.all()))
