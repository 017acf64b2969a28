"""Every kind of bad record among good ones, through real workers: each gets its one place."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Producer

from models.dense import CONSTANT, build
from models.registry import open_registry
from schemas.dead_letters import DeadLetter, Reason, read_dead_letter
from schemas.features import FeatureSpec, split
from schemas.manifest import Manifest
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.control.announce import announce
from streams.store.client import Client, connect
from streams.telemetry import read_reports

PARTITIONS = 2
FOREIGN = (b"foreign", b"not one of ours", None)
FOREIGN_HEADERS = [("partition", b"9" * 5000), ("offset", None), ("reason", b"\xff")]
"""Anybody may write to the dead letters, with headers that make no sense to the lander."""
DEADLINE_S = 240.0
DECLARATION = """
from schemas.pipeline import Pipeline, category, label, numeric

payments = Pipeline(
    name="{name}",
    key="card",
    features=[
        numeric("amount_eur"),
        numeric("age_days", missing=-1.0),
        category("country"),
        category("channel", missing="web"),
    ],
    target=label("fraud"),
    partitions=2,
)
"""


def event(now_ms: int, /, **changes: object) -> bytes:
    good = {
        "event_id": "e", "event_time_ms": now_ms, "card": "c-1", "amount_eur": 9.5, "age_days": 3,
        "country": "FI", "channel": "app",
    }  # fmt: skip
    return json.dumps({k: v for k, v in (good | changes).items() if v is not ...}).encode()


def events_of_every_kind(now_ms: int) -> list[tuple[bytes | None, bytes | None, Reason | None]]:
    """Key, value, and the reason of the dead letter; None where a prediction is due."""

    def raw(literal: bytes) -> bytes:
        return event(now_ms, amount_eur="@").replace(b'"@"', literal)

    year_ms = 365 * 86_400_000
    return [
        (b"c-1", event(now_ms, event_id="first"), None),
        (b"c-1", b'{"event_id": "cut', Reason.MALFORMED_JSON),
        (b"c-1", b"", Reason.MALFORMED_JSON),
        (b"c-1", b"\x00\xff\xfe", Reason.MALFORMED_JSON),
        (b"c-1", event(now_ms, country="@").replace(b"@", b"\xff"), Reason.MALFORMED_JSON),
        (b"c-1", event(now_ms, country="@").replace(b"@", b"\\ud800"), Reason.MALFORMED_JSON),
        (b"c-1", raw(b"NaN"), Reason.MALFORMED_JSON),
        (b"c-1", raw(b"Infinity"), Reason.MALFORMED_JSON),
        (None, event(now_ms, event_id="null key", card="from the event"), None),
        (b"c-1", raw(b'"12"'), Reason.SCHEMA),
        (b"c-1", raw(b"true"), Reason.SCHEMA),
        (b"c-1", raw(b"null"), Reason.SCHEMA),
        (b"c-1", event(now_ms, country=...), Reason.SCHEMA),
        (b"c-1", event(now_ms, event_id=...), Reason.SCHEMA),
        (None, b"[1, 2]", Reason.SCHEMA),
        (b"c-1", event(now_ms)[:-1] + b',"deep":' + b"[" * 60_000, Reason.SCHEMA),
        (b"c-1", event(now_ms, event_id="unknown category", country="Atlantis"), None),
        (b"c-1", raw(b"1e39"), Reason.NOT_FINITE),
        (b"c-1", raw(b"1e400"), Reason.NOT_FINITE),
        (b"c-1", raw(b"-1e39"), Reason.NOT_FINITE),
        (b"c-1", event(now_ms, note="x" * 65_536), Reason.TOO_LARGE),
        (b"c-1", event(now_ms, note="x" * 1_000_000), Reason.TOO_LARGE),
        (b"c-1", event(now_ms, event_id="nulls", age_days=None, channel=None), None),
        (b"c-1", event(now_ms, event_id="absent", age_days=..., channel=...), None),
        (b"c-1", event(now_ms, event_time_ms=-1), Reason.TIME),
        (b"c-1", event(now_ms, event_time_ms=now_ms + year_ms), Reason.TIME),
        (b"c-1", event(now_ms, event_time_ms=10**25), Reason.TIME),
        (b"c-1", event(now_ms, event_id="long ago", event_time_ms=0), None),
        (b"c-1", None, Reason.NULL_VALUE),
        (None, None, Reason.NULL_VALUE),
        (b"\xff\x00", event(now_ms, event_id="key of bytes", more={"than": ["needed"]}), None),
        (b"c-1", event(now_ms, event_id='quote " and \u0000 and 😀'), None),
        (b"c-1", event(now_ms, event_id="last"), None),
    ]


def labels_of_every_kind(now_ms: int) -> list[tuple[bytes | None, bytes | None, Reason | None]]:
    def label(**changes: object) -> bytes:
        return json.dumps({"event_id": "x", "value": 1, "label_time_ms": now_ms} | changes).encode()

    return [
        (b"c-1", label(event_id="first"), None),
        (b"c-1", label(event_id="nobody knows this event", value=False), None),
        (None, label(event_id="null key", revision=3), None),
        (b"c-1", label(value=0.5), Reason.SCHEMA),
        (b"c-1", label(label_time_ms=now_ms * 2), Reason.TIME),
        (b"c-1", label(note="x" * 1_000_000), Reason.TOO_LARGE),
        (b"c-1", b"{", Reason.MALFORMED_JSON),
        (None, None, Reason.NULL_VALUE),
        (b"c-1", label(event_id="first", value=0, revision=1), None),
    ]


def declare(settings: Settings, folder: Path, name: str) -> Named:
    """A pipeline of this test's own, its topics and tables, and a model that says 0.25."""
    file = folder / f"{name}.py"
    file.write_text(DECLARATION.format(name=name))
    named = Named.load(str(file))
    prepare(settings, [named])
    version, digest = open_registry(settings).publish(*constant(named.pipeline))
    announce(settings, pipeline=name, version=version, digest=digest, now_ms=1)
    return named


def constant(pipeline: Pipeline) -> tuple[Manifest, dict]:
    numeric, category = split(pipeline.features)
    spec = FeatureSpec(numeric=numeric, category=category, vocabularies=(("FI",), ("app",)))
    manifest = Manifest(
        pipeline=pipeline.name,
        architecture=CONSTANT,
        parameters={"probability": 0.25},
        features=spec,
        weights_sha256="",
        trained_at_ms=0,
        seed=0,
    )
    return manifest, build(CONSTANT, manifest.parameters).state_dict()


@contextlib.contextmanager
def workers(
    settings: Settings, named: Named, logs: Path, roles: Sequence[str] = ("score", "land")
) -> Iterator[dict[str, subprocess.Popen]]:
    """Processes as `tidemill up` starts them, but nobody starts them again."""
    running = {}
    with contextlib.ExitStack() as stack:
        for role in roles:
            beside = {"metrics": ["metrics"], "alerts": ["alerts", "run"]}
            what = [*beside.get(role, ["worker", role, "--pipeline"]), named.reference]
            log = stack.enter_context((logs / f"{role}.log").open("wb"))
            running[role] = subprocess.Popen(
                [sys.executable, "-P", "-m", "streams.cli.main", *what,
                 "--name", f"{named.pipeline.name}-{role}"],
                env={**os.environ, **settings.environment()},
                stdout=log,
                stderr=log,
            )  # fmt: skip
        try:
            yield running
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def send(kafka: str, topic: str, records, **options) -> dict[tuple[int, int], tuple]:
    """Send records in turn to every partition, by a client that is not ours; where each went."""
    producer = Producer({"bootstrap.servers": kafka, "acks": "all", "message.max.bytes": 2 << 20})
    sent = {}

    def note(record):
        def delivered(error, message) -> None:
            assert error is None, error
            sent[message.partition(), message.offset()] = record

        return delivered

    for i, record in enumerate(records):
        key, value, _reason = record
        partition = i % PARTITIONS
        producer.produce(
            topic, value, key, partition=partition, on_delivery=note(record), **options
        )
    assert producer.flush(30) == 0
    return sent


async def committed(kafka: str, topic: str):
    """Every record that a careful reader of the topic sees."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        consumer.assign(tps)
        ends, found = await consumer.end_offsets(tps), []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
        return found
    finally:
        await consumer.stop()


def until_landed(store: Client, running, logs: Path, **expected: int) -> None:
    """Wait until the tables hold this many rows; fail at once when a worker has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = {t: store.query(f"SELECT count() FROM {t}").result_rows[0][0] for t in expected}
        if found == expected:
            return
        ended = {role: process.poll() for role, process in running.items()}
        said = "\n".join(log.read_text()[-3000:] for log in logs.glob("*.log"))
        assert set(ended.values()) == {None}, f"{ended}\n{said}"
        assert time.monotonic() < deadline, f"{found} of {expected}\n{said}"
        time.sleep(0.1)


@pytest.fixture
def store_client(settings: Settings) -> Iterator[Client]:
    client = connect(settings, database="default")
    yield client
    client.close()


def test_every_record_becomes_one_prediction_or_one_dead_letter(
    settings: Settings, tmp_path: Path, unique
) -> None:
    """
    Goal: whatever arrives, the workers go on, and each event and each label ends in exactly one
    place, in the topics as in the tables, with reason, origin and every byte.

    Method: two rounds of all kinds over two partitions, the second after the first has landed, so
    that a worker that hangs or restarts is noticed; then good events alone.
    """
    named = declare(settings, tmp_path, unique("payments"))
    topics = named.pipeline.topics
    now_ms = int(time.time() * 1000)
    with workers(settings, named, tmp_path) as running:
        store = connect(settings)
        events, labels, foreign = {}, {}, {}
        for _ in range(2):
            events |= send(settings.kafka, topics.events.name, events_of_every_kind(now_ms))
            labels |= send(settings.kafka, topics.labels.name, labels_of_every_kind(now_ms))
            foreign |= send(
                settings.kafka, topics.dead_letters.name, [FOREIGN], headers=FOREIGN_HEADERS
            )
            bad = sum(record[2] is not None for record in [*events.values(), *labels.values()])
            until_landed(
                store,
                running,
                tmp_path,
                scored=sum(record[2] is None for record in events.values()),
                labels=sum(record[2] is None for record in labels.values()),
                dead_letters=bad + len(foreign),
            )
        reports = {r.name: r for r in read_reports(settings.run_folder)}
        assert {r.pid for r in reports.values()} == {p.pid for p in running.values()}
        assert {r.state for r in reports.values()} == {"running"}

        check_predictions(asyncio.run(committed(settings.kafka, topics.predictions.name)), events)
        letters = asyncio.run(committed(settings.kafka, topics.dead_letters.name))
        ours = [letter for letter in letters if letter.key != FOREIGN[0]]
        check_letters(
            [read_dead_letter(r.key, r.value, r.headers) for r in ours],
            {topics.events.name: events, topics.labels.name: labels},
        )
        check_tables(store, named.pipeline, events, labels)
        store.close()


def check_predictions(records, events) -> None:
    good = {place: record for place, record in events.items() if record[2] is None}
    said = [json.loads(record.value) for record in records]
    places = Counter((one["source_partition"], one["source_offset"]) for one in said)
    assert places == Counter(good.keys())
    for record, one in zip(records, said, strict=True):
        key, value, _ = good[one["source_partition"], one["source_offset"]]
        sent = json.loads(value)
        assert (one["event_id"], one["key"]) == (sent["event_id"], sent["card"])
        assert (one["score"], one["event_time_ms"]) == (0.25, sent["event_time_ms"])
        assert record.partition == one["source_partition"]
        assert record.key == (sent["card"].encode() if key is None else key)
    for partition in range(PARTITIONS):
        offsets = [one["source_offset"] for one in said if one["source_partition"] == partition]
        assert offsets == sorted(offsets)


def check_letters(letters: list[DeadLetter], sources) -> None:
    expected = {
        (topic, *place): record
        for topic, sent in sources.items()
        for place, record in sent.items()
        if record[2] is not None
    }
    found = Counter((letter.topic, letter.partition, letter.offset) for letter in letters)
    assert found == Counter(expected.keys())
    for letter in letters:
        key, value, reason = expected[letter.topic, letter.partition, letter.offset]
        assert (letter.reason, letter.key, letter.value) == (reason, key, value)
        assert letter.detail


def check_tables(store: Client, pipeline: Pipeline, events, labels) -> None:
    """SQL sees what the topics hold, byte for byte."""
    rows = store.query(
        "SELECT source_partition, source_offset, event_id, key, numeric, category, score FROM scored"
    ).result_rows
    good = {place: json.loads(record[1]) for place, record in events.items() if record[2] is None}
    assert Counter((row[0], row[1]) for row in rows) == Counter(good.keys())
    for partition, offset, event_id, key, numbers, words, score in rows:
        sent = good[partition, offset]
        assert (event_id, key, score) == (sent["event_id"], sent["card"], 0.25)
        age, channel = sent.get("age_days"), sent.get("channel")
        assert list(numbers) == [9.5, -1.0 if age is None else age]
        assert list(words) == [sent["country"], "web" if channel is None else channel]

    rows = store.query(
        "SELECT source_topic, source_partition, source_offset, reason, isNull(value), isNull(key), "
        "hex(ifNull(value, '')), hex(ifNull(key, '')) FROM dead_letters "
        "WHERE source_topic != ''"
    ).result_rows
    found = {
        tuple(row[:3]): (
            row[3],
            None if row[5] else bytes.fromhex(row[7]),
            None if row[4] else bytes.fromhex(row[6]),
        )
        for row in rows
    }
    expected = {
        (topic.name, *place): (record[2].value, record[0], record[1])
        for topic, sent in ((pipeline.topics.events, events), (pipeline.topics.labels, labels))
        for place, record in sent.items()
        if record[2] is not None
    }
    assert len(rows) == len(expected)
    assert found == expected

    rows = store.query(
        "SELECT topic_partition, topic_offset, event_id, value, revision FROM labels"
    ).result_rows
    truth = {place: json.loads(record[1]) for place, record in labels.items() if record[2] is None}
    assert Counter((row[0], row[1]) for row in rows) == Counter(truth.keys())
    for partition, offset, event_id, value, revision in rows:
        sent = truth[partition, offset]
        assert (event_id, value) == (sent["event_id"], int(sent["value"]))
        assert revision == sent.get("revision", 0)
