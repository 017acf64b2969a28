"""kill -9 of the joiner at any moment: the ledger and its examples are as if nothing had happened.

`pytest tests/chaos/test_ledger_kills.py --rounds 50 --seed 7` repeats a longer schedule.
"""

import asyncio
import bisect
import itertools
import json
import random
import signal
import time
from dataclasses import dataclass, field, replace

import pytest
from aiokafka import AIOKafkaProducer
from faust.types import TP

from schemas.events import Source
from schemas.examples import read_examples
from schemas.labels import decode_labels
from schemas.scored import read_scored
from streams.books.balance import reconcile_ledgers
from streams.books.committed import CommittedReader, Span
from streams.books.sources import NONE, SourceReader, of_scored
from streams.ledger.columns import LabelColumns
from streams.ledger.core import Ledger
from streams.ledger.dump import digest, load
from streams.ledger.pointer import Pointer
from streams.ledger.snapshots import SnapshotStore
from streams.telemetry import read_reports
from streams.transport.again import read_again
from streams.workers.join import rules_of, snapshots_of
from tests.connected import joining
from tests.connected.commits import commits_of
from tests.connected.copying import read_all
from tests.connected.nursery import Nursery
from tests.unit.test_ledger_core import conserved

PARTITIONS = 2
STEP_MS = 1_000
"""Event time between two events; the horizon of the declaration is 600 of them."""
CHUNK = 40
"""Events of a partition that are sent at once, with the labels that are known by then."""
PAUSE_S = 0.25
"""Between two chunks: some 10 of them per kill."""
BACK_S_MAX = 120.0


@dataclass
class Feeder:
    """Sends predictions and labels of every kind, from one seed, until told to stop."""

    kafka: str
    pipeline: object
    seed: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    predictions: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    labels: int = 0

    async def run(self) -> None:
        dice = [random.Random(self.seed + p) for p in range(PARTITIONS)]
        due = [[] for _ in range(PARTITIONS)]
        number = 0
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka, enable_idempotence=True)
        await producer.start()
        try:
            while not self.stop.is_set():
                for p in range(PARTITIONS):
                    await self._send(producer, p, *self._chunk(p, number, dice[p], due[p]), dice[p])
                number += CHUNK
                await asyncio.sleep(PAUSE_S)
        finally:
            await producer.stop()

    async def _send(self, producer, p: int, rows: list, labels: list, dice: random.Random) -> None:
        topics = self.pipeline.topics
        message = joining.scored_message(rows, offset=self.predictions[p], partition=p)
        sends = [(topics.scored.name, [message]), (topics.labels.name, labels)]
        dice.shuffle(sends)  # labels may overtake their predictions
        for topic, values in sends:
            sent = [await producer.send(topic, v, key=b"k", partition=p) for v in values]
            await asyncio.gather(*sent)
        self.predictions[p] += len(rows)
        self.labels += sum(value != b"broken" for value in labels)

    def _chunk(self, p: int, number: int, dice: random.Random, due: list):
        """The next events, and the labels whose time has come."""
        now = (number + CHUNK) * STEP_MS
        rows, labels = [], []
        for i in range(number, number + CHUNK):
            event_id, time_ms = f"{p}-{i}", i * STEP_MS
            rows.append((event_id, time_ms))
            if dice.random() < 0.01:
                rows.append((event_id, time_ms))  # the same event twice
            if dice.random() < 0.9:  # some never get a truth; most early, some after the horizon
                delay = dice.choice([1, 30, 300, 300, 500, 900, 2_500]) * STEP_MS
                due.append((time_ms + delay - dice.choice([0, 0, 40]) * STEP_MS, event_id, 0))
            if dice.random() < 0.02:
                labels.append(_label(f"nothing-{p}-{i}", 1, time_ms, 0))
        labels += [b"broken"] * (dice.random() < 0.1)
        for entry in [entry for entry in due if entry[0] <= now]:
            due.remove(entry)
            time_ms, event_id, revision = entry
            labels.append(_label(event_id, dice.randint(0, 1), max(0, time_ms), revision))
            if dice.random() < 0.1:
                labels.append(labels[-1])  # sent twice
            if revision < 3 and dice.random() < 0.2:  # corrected later
                due.append((now + dice.choice([10, 200, 800]) * STEP_MS, event_id, revision + 1))
        return rows, labels


def _label(event_id: str, value: int, time_ms: int, revision: int) -> bytes:
    found = {"event_id": event_id, "value": value, "label_time_ms": time_ms, "revision": revision}
    return json.dumps(found).encode()


async def working(settings, worker, since_ms: float) -> None:
    """Return when the worker has committed something since it started."""
    deadline = time.monotonic() + BACK_S_MAX
    while True:
        for report in read_reports(settings.run_folder):
            if report.updated_at_ms > since_ms and report.counters.get("transactions"):
                return
        assert worker.alive, worker.log
        assert time.monotonic() < deadline, worker.log
        await asyncio.sleep(0.05)


async def commits_until(kafka, group, wanted: tuple[int, int], worker):
    """Every commit, and the newest pointer of each partition, once that many are taken in."""
    deadline = time.monotonic() + BACK_S_MAX
    while True:
        commits = await commits_of(kafka, group)
        newest = {c.partition: Pointer.decode(c.metadata) for c in commits}
        counts = [pointer.counts for pointer in newest.values()]
        done = tuple(sum(c[name] for c in counts) for name in ("predictions", "labels"))
        if done == wanted:
            return commits, newest
        assert worker.alive, worker.log
        assert time.monotonic() < deadline, (done, wanted, worker.log)
        await asyncio.sleep(0.5)


async def taking(settings, pipeline, partition: int, ledger: Ledger, ends: list[tuple[int, int]]):
    """Let ``ledger`` take the turns that begin at the first of ``ends``; the examples."""
    topics, base = pipeline.topics, ends[0]
    scored, labels = [
        await read_again(settings, TP(topic.name, partition), first, end)
        for topic, first, end in zip((topics.scored, topics.labels), base, ends[-1], strict=True)
    ]
    examples = []
    for before, after in itertools.pairwise(ends):
        first, end = (bisect.bisect_left(scored.offsets, turn[0]) for turn in (before, after))
        batches = [read_scored(value) for value in scored.values[first:end]]
        place = range(*(bisect.bisect_left(labels.offsets, turn[1]) for turn in (before, after)))
        good, kept, _rejects = decode_labels(
            Source(topics.labels.name, partition),
            [labels.offsets[i] for i in place],
            [labels.keys[i] for i in place],
            [labels.values[i] for i in place],
            now_ms=[labels.timestamps_ms[i] for i in place],
        )
        times = [labels.timestamps_ms[place[i]] for i in kept]
        examples += ledger.turn(batches, LabelColumns.of(good, times)).to_pylist()
    return examples


def turns_of(commits, pipeline, partition: int) -> list[tuple[int, int]]:
    """Where each turn of a partition ended, out of the pointers of all its commits."""
    found: list[tuple[int, int]] = []
    for commit in commits:
        if (commit.topic, commit.partition) != (pipeline.topics.scored.name, partition):
            continue
        pointer = Pointer.decode(commit.metadata)
        assert pointer.offsets[0] == commit.offset
        assert not found or pointer.offsets > found[-1], "a commit went back"
        found.append(pointer.offsets)
    return found


@pytest.mark.parametrize(
    "kills", [3, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "rounds"]
)
async def test_killed_joiners_leave_the_ledger_that_an_uninterrupted_one_has(
    kafka, tmp_path, unique, kills, rounds, seed
):
    """
    Goal: state, examples and balance are byte for byte those of a joiner that never died.

    Method: kill -9 at random moments while labels of every kind arrive. How the two topics were
    interleaved is free; the broker's log of offset commits says how it was. A ledger in this
    process takes the same turns in one go, and must end in the same state with the same examples
    in the same order. Bounds are small, so rows are evicted as well.
    """
    kills = rounds if kills is None else kills
    dice = random.Random(seed)
    file, pipeline = joining.declare(tmp_path, unique("shop"))
    settings = replace(
        joining.settings_of(kafka, tmp_path), ledger_rows_max=1_850, ledger_waiting_rows_max=20
    )
    joining.make_topics(settings, pipeline)
    group = f"tidemill.{pipeline.name}.join"
    feeder = Feeder(kafka, pipeline, seed)
    feeding = asyncio.create_task(feeder.run())
    async with Nursery() as nursery:
        for _ in range(kills):
            started_ms = time.time() * 1000
            worker = await nursery.join(file, settings)
            if dice.random() < 0.5:  # at work; otherwise at any moment, as it starts or recovers
                await working(settings, worker, started_ms)
                await asyncio.sleep(dice.expovariate(1.0))
            else:
                await asyncio.sleep(dice.uniform(0.0, 6.0))
            assert worker.alive, worker.log
            await worker.end(signal.SIGKILL)
        feeder.stop.set()
        await feeding
        worker = await nursery.join(file, settings)
        sent = (sum(feeder.predictions), feeder.labels)
        commits, newest = await commits_until(kafka, group, sent, worker)
        await worker.end(signal.SIGTERM)
    books = await books_of(settings, pipeline)
    assert (books.missing, books.findings, books.labels_waiting) == (0, [], 0), books
    visible = await read_all(kafka, pipeline.topics.examples.name, partitions=PARTITIONS)
    for p in range(PARTITIONS):
        turns = turns_of(commits, pipeline, p)
        ledger = Ledger(rules_of(pipeline, settings))
        examples = await taking(settings, pipeline, p, ledger, [(0, 0), *turns])
        rows = [row for value in visible[p] for row in read_examples(value).to_pylist()]
        assert rows == examples, (seed, p)
        assert newest[p].counts == ledger.counts()
        conserved(ledger.counts())
        assert await _final_digest(settings, pipeline, p, newest[p]) == digest(ledger), (seed, p)
        print(f"partition {p}: turns={len(turns)} examples={len(rows)} {ledger.counts()}")
    print(f"seed={seed} kills={kills} predictions={sent[0]} labels={sent[1]} missing=0")
    everything = {name for pointer in newest.values() for name, n in pointer.counts.items() if n}
    assert kills < 10 or everything >= {
        "repeated", "joined", "confirmed", "duplicates", "late", "orphans_expired",
        "orphans_evicted", "provisional", "corrected", "evicted", "closed",
    }  # fmt: skip


class NothingLanded:
    """No lander runs here, so nothing is expected in the store yet."""

    def offsets(self, *_place: object):
        return NONE


async def books_of(settings, pipeline):
    """What `tidemill reconcile` says of the ledgers."""
    scored = pipeline.topics.scored.name
    async with CommittedReader(settings) as reader:
        side = SourceReader(reader, pipeline, lambda _: None)
        predicted = await side.sources(scored, await reader.decided_spans(scored), of_scored)
        spans = {p: Span(0, int(offsets[-1]) + 1) for p, offsets in predicted.items()}
        return await reconcile_ledgers(side, settings, NothingLanded(), predicted, spans)


async def _final_digest(settings, pipeline, p: int, pointer: Pointer) -> str:
    """Of the state that the next owner would restore: the snapshot, and the turns since."""
    ledger = load(SnapshotStore(snapshots_of(pipeline, p, settings)).read(pointer.snapshot))
    ends = [(pointer.scored_offset, pointer.labels_offset)]
    for scored, labels in pointer.turns:
        ends.append((ends[-1][0] + scored, ends[-1][1] + labels))
    await taking(settings, pipeline, p, ledger, ends)
    return digest(ledger)
