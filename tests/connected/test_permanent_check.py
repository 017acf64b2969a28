"""The permanent check on real Kafka and the real store: piece by piece, and every fault by name."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.errors import KafkaUnavailable
from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.alerts.books import Books, read_checked
from streams.books import permanent_check
from streams.books.checked import Checked
from streams.books.permanent_check import check_round
from streams.books.reconcile import land_group, score_group
from streams.books.sources import Finding
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.store.client import Client, connect

DECLARATION = """
from schemas.pipeline import Pipeline, label, numeric

bills = Pipeline(
    name="{name}",
    key="account",
    features=[numeric("amount")],
    target=label("paid"),
    partitions=2,
)
"""


class World:
    """A pipeline whose scorers and landers are the test: it writes what they would."""

    def __init__(self, settings: Settings, file: Path) -> None:
        prepare(settings, [Named.load(str(file))])
        self.settings = settings
        self.pipeline = load_pipeline(str(file))
        self.client: Client = connect(settings)
        self.last: Checked | None = None
        self.rows_max = 1000
        self._producer = Producer({"bootstrap.servers": settings.kafka})
        self._admin = AdminClient({"bootstrap.servers": settings.kafka})

    def send(self, topic: str, values: Iterable[Any], partition: int = 0) -> None:
        for value in values:
            self._producer.produce(topic, json.dumps(value), key="k", partition=partition)
        assert self._producer.flush(30) == 0

    def events(self, count: int, partition: int = 0) -> None:
        self.send(self.pipeline.topics.events.name, ({} for _ in range(count)), partition)

    def labels(self, count: int) -> None:
        self.send(self.pipeline.topics.labels.name, ({} for _ in range(count)))

    def predictions(self, offsets: Iterable[int], partition: int = 0) -> None:
        values = ({"source_partition": partition, "source_offset": o} for o in offsets)
        self.send(self.pipeline.topics.predictions.name, values, partition)

    def rows(self, table: str, offsets: Iterable[int], partition: int = 0) -> None:
        name, topics = self.pipeline.name, self.pipeline.topics
        columns = ["pipeline", "topic_partition", "topic_offset"]
        made = [[name, partition, o] for o in offsets]
        now = datetime.now(UTC)  # rows of 1970 are past their time to live
        for column in ("produced_at", "predicted_at")[: 2 if table == "scored" else 1]:
            columns.append(column)
            made = [[*row, now] for row in made]
        if table != "labels":
            columns += ["source_partition", "source_offset"]
            made = [[*row, partition, row[2]] for row in made]
        if table == "dead_letters":
            columns += ["source_topic"]
            made = [[*row, topics.events.name] for row in made]
        self.client.insert(table, made, column_names=columns)

    def commit(self, group: str, **offsets: int) -> None:
        """Offsets of partition 0 of topics."""
        name = self.pipeline.name
        places = [TopicPartition(f"{name}.{topic}", 0, at) for topic, at in offsets.items()]
        [done] = self._admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, places)]
        ).values()
        done.result()

    def scored(self, **offsets: int) -> None:
        self.commit(score_group(self.pipeline.name), **offsets)

    def landed(self, **offsets: int) -> None:
        self.commit(land_group(self.pipeline.name), **offsets)

    def check(self) -> Checked:
        """One round; the first group of a new broker takes it a moment."""
        deadline = time.monotonic() + 60
        while True:
            coming = check_round(
                self.settings, self.pipeline, self.client, self.last, rows_max=self.rows_max
            )
            try:
                self.last = asyncio.run(coming)
            except KafkaUnavailable:
                assert time.monotonic() < deadline
            else:
                return self.last


@pytest.fixture
def world(settings: Settings, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[World]:
    name = unique("bills")
    file = tmp_path / f"{name}.py"
    file.write_text(DECLARATION.format(name=name))
    found = World(settings, file)
    yield found
    found.client.close()


def test_it_goes_on_from_where_it_was_and_looks_at_no_more_than_it_may(world: World) -> None:
    """Ten events in pieces of four; then nothing, and the cost of nothing; then two more."""
    world.events(10)
    world.predictions(range(9))
    world.rows("scored", range(9))
    world.rows("dead_letters", [9])
    assert world.check().events == 0, "nobody has committed anything"
    world.scored(events=10)
    world.rows_max = 4
    seen = [world.check() for _ in range(4)]
    assert [one.events for one in seen] == [4, 4, 2, 0]
    assert [one.unchecked for one in seen] == [6, 2, 0, 0]
    assert all(one.exact and one.exact_at_ms == one.at_ms for one in seen)
    assert seen[-1].cursor.events == {0: 10}
    world.events(2)
    world.predictions([10, 11])
    world.rows("scored", [10, 11])
    world.scored(events=12)
    assert (world.check().events, world.check().events) == (2, 0)


def test_each_fault_is_named_and_stays_until_it_heals(world: World) -> None:
    """
    Goal: a lost event, a lost row, a doubled row and a prediction that came twice are found with
    their offsets, counted as long as they last, and not one round longer.
    """
    world.events(10)
    world.predictions([0, 1, 2, 2, 4, 5, 6, 7, 8, 9])
    world.rows("scored", [0, 1, 2, 4, 5, 5, 7, 8, 9])
    world.scored(events=10)
    found = world.check()
    assert [(one.what, one.offsets) for one in found.findings] == [
        ("missing prediction or dead letter", [3]),
        ("doubled prediction or dead letter", [2]),
        ("missing row in scored", [6]),
        ("doubled row in scored", [5]),
    ]
    assert (found.missing, found.doubled, found.exact, found.exact_at_ms) == (2, 2, False, None)
    world.rows("scored", [6])
    world.rows("dead_letters", [3])
    found = world.check()
    assert (found.missing, found.doubled, found.events) == (0, 2, 0)
    world.client.command(
        "ALTER TABLE scored DELETE WHERE source_offset IN (2, 5) SETTINGS mutations_sync = 2"
    )
    world.rows("scored", [2, 5])
    found = world.check()
    assert found.findings == [
        Finding(what="doubled prediction or dead letter", partition=0, count=1, offsets=[2])
    ]
    assert not found.exact


def test_what_is_on_its_way_is_not_missing(world: World) -> None:
    """Scored and not landed: the check waits before it, and goes on when it is landed."""
    world.events(4)
    world.labels(6)
    world.predictions(range(4))
    world.rows("scored", range(4))
    world.rows("labels", range(3))
    world.scored(events=4, labels=6)
    world.landed(labels=3)
    found = world.check()
    assert (found.exact, found.labels, found.events) == (True, 3, 4)
    world.rows("labels", [3, 5])
    world.landed(labels=6)
    found = world.check()
    assert (found.labels, found.missing) == (3, 1)
    assert found.findings[0].what == "missing row in labels or dead_letters"
    assert found.findings[0].offsets == [4]


def test_with_many_suspects_nothing_new_is_checked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the store was lost, or the like: a person must look, and the cost stays bounded."""
    suspects_max = 3
    monkeypatch.setattr(permanent_check, "SUSPECTS_MAX", suspects_max)
    count = suspects_max + 4
    world.events(count)
    world.predictions(range(count))
    world.scored(events=count)
    world.rows_max = 1
    for _ in range(count):
        found = world.check()
    assert (len(found.cursor.suspects), found.missing) == (suspects_max, suspects_max)
    assert found.unchecked == 4
    world.rows("scored", range(count))
    for _ in range(suspects_max + 5):
        found = world.check()
    assert (found.exact, found.unchecked) == (True, 0)


def test_rounds_are_rows_and_a_restart_goes_on(world: World) -> None:
    """What the alerts read, and what the next process begins with."""
    world.events(3)
    world.predictions(range(3))
    world.rows("scored", [0, 2])
    world.scored(events=3)
    books = Books(world.settings, world.pipeline)
    asyncio.run(books.round())
    name = world.pipeline.name
    readings = books.readings()
    assert readings[name, "missing"].value == 1.0
    assert readings[name, "missing"].detail == "missing row in scored: 1 of partition 0, offsets 1"
    assert readings[name, "exact_check_age_s"].value is not None
    kept = read_checked(world.client, name)
    assert kept is not None
    assert (kept.missing, kept.exact, kept.cursor.events) == (1, False, {0: 3})
    world.rows("scored", [1])
    again = Books(world.settings, world.pipeline)
    asyncio.run(again.round())
    kept = read_checked(world.client, name)
    assert kept is not None
    assert (kept.missing, kept.exact, kept.events) == (0, True, 0)
    assert kept.exact_at_ms == kept.at_ms
    down = Books(replace(world.settings, clickhouse="http://127.0.0.1:9"), world.pipeline)
    asyncio.run(down.round())
    assert "could not" in down.readings()[name, "exact_check_age_s"].detail
    assert down.readings()[name, "missing"].value is None
