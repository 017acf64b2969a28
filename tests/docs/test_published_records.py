"""Real records of every topic are valid by the published schemas."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from aiokafka.structs import ConsumerRecord

from schemas.evaluations import read_evaluations
from schemas.examples import read_examples
from schemas.loading import load_pipeline
from schemas.published import documents
from schemas.scored import read_scored
from schemas.settings import Settings
from schemas.topics import control_topics
from streams.books.committed import CommittedReader
from tests.docs.conftest import Stack

FLIGHTS = load_pipeline("flights")
ARROW: dict[str, Callable[[bytes], Any]] = {
    "scored": read_scored,
    "examples": read_examples,
    "evaluations": read_evaluations,
}
NO_SCHEMA = {"learners"}
MAY_BE_EMPTY = {"alarms", "alerts"}
"""Nothing has changed in 3,000 events, so nothing is said to have, and nobody is told anything."""


def values(kind: str, record: ConsumerRecord) -> Iterator[Any]:
    """What the schema of ``kind`` is about."""
    if kind in ARROW:
        for row in ARROW[kind](record.value).to_pylist()[:50]:
            yield json.loads(json.dumps(row, default=_as_json))
    elif kind == "dead-letters":
        yield {name: value.decode() for name, value in record.headers}
    else:
        yield json.loads(record.value)


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    assert isinstance(value, Decimal)
    return f"{value:f}"


@pytest.mark.connected
async def test_real_records_are_valid(stack: Stack) -> None:
    """Of every topic of a stack that has answered, joined and learned; and changed ones are not."""
    sent = stack.shell(
        "printf 'k:{\"event_id\":1}\\n' | "
        "tidemill kafka console-producer --topic flights.events --property parse.key=true "
        "--property key.separator=:"
    )
    assert sent.returncode == 0, sent.stderr
    kafka = stack.addresses()["127.0.0.1:9092"]
    topics = {t.name.rpartition(".")[2]: t for t in (*FLIGHTS.topics.all(), *control_topics())}
    published = documents(FLIGHTS)
    assert set(published) - {"asyncapi"} == set(topics) - NO_SCHEMA
    seen: dict[str, int] = {}
    async with CommittedReader(Settings(kafka=kafka, home=stack.home)) as reader:
        letters, deadline = topics["dead-letters"].name, time.monotonic() + 30
        while not any(span.end for span in (await reader.spans(letters)).values()):
            assert time.monotonic() < deadline, "no dead letter came"
            await asyncio.sleep(0.1)
        for kind, topic in topics.items():
            if kind in NO_SCHEMA:
                continue
            valid = jsonschema.Draft7Validator(published[kind])
            async for _partition, records in reader.read(
                topic.name, await reader.spans(topic.name)
            ):
                for record in records[:200]:
                    for value in values(kind, record):
                        if value == {
                            "event_id": 1
                        }:  # the bad event, which the dead letter is about
                            continue
                        problems = [e.message for e in valid.iter_errors(value)]
                        assert problems == [], (kind, value)
                        assert not valid.is_valid({**value, published[kind]["required"][0]: []}), (
                            kind
                        )
                        seen[kind] = seen.get(kind, 0) + 1
    assert {kind for kind in topics if kind not in seen} <= NO_SCHEMA | MAY_BE_EMPTY, seen
