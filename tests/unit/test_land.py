"""The lander's agent side: what it takes, what it holds back, and for whom."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from models.observer import PipelineObserver
from schemas.alarms import Alarm, encode_alarm
from schemas.arrow import write_batch
from schemas.evaluations import write_evaluations
from schemas.examples import EXAMPLES
from schemas.pipeline import Pipeline, label, numeric
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.transport.wire import Membership
from streams.workers import land
from streams.workers.land import Lander
from tests.unit.journal import message
from tests.unit.journal import row as journal_row

shop = Pipeline(name="shop", key="user", features=[numeric("price")], target=label("bought"))
TOPIC = shop.topics.labels.name


class Consumer:
    """Commits go nowhere; what a worker writes down is not the matter here."""

    def __init__(self) -> None:
        self._thread = self

    async def call_thread(self, call: Any, *arguments: Any) -> None:
        await call(*arguments)

    async def fenced_commit(self, *_arguments: Any) -> None:
        return


class Store:
    """Counts what was landed; every range is found complete."""

    def __init__(self) -> None:
        self.rows = 0
        self.sizes: list[int] = []
        self.answers = threading.Event()
        self.answers.set()

    def insert_arrow(self, _table: str, rows: Any, **_options: Any) -> None:
        assert self.answers.wait(20)
        self.rows += rows.num_rows
        self.sizes.append(rows.num_rows)

    def query(self, _sql: str, parameters: dict[str, Any]) -> Any:
        rows = parameters["last"] - parameters["first"] + 1

        class Result:
            result_rows = ((rows,),)

        return Result()


def labels(partition: int, first: int, count: int) -> Run:
    value = b'{"event_id":"e","value":1,"label_time_ms":5}'
    return Run(
        tp=TP(TOPIC, partition),
        keys=[None] * count,
        values=[value] * count,
        timestamps_ms=[10] * count,
        offsets=range(first, first + count),
        next_offset=first + count,
    )


def make(tmp_path: Path, store: Store, **settings: int) -> Lander:
    options = {"land_rows_min": 1, "land_rows_max": 100, "land_buffer_rows_max": 100} | settings
    reporter = Reporter(tmp_path, "w", "land")
    lander = Lander(shop, Settings(home=tmp_path, **options), reporter, store)
    lander.consumer = Consumer()
    return lander


def pending(first: int, last: int) -> str:
    return f'{{"v":1,"p":[{first},{last}],"n":{last - first + 1},"e":"1"}}'


async def reach(condition: Any, what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def test_pending_ranges_larger_than_the_buffer_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    """
    A crash while catching up leaves a full range pending on every partition. Together they exceed
    the buffer, and none can be recovered before it is complete: a bound that counted them would
    stop the lander for ever, and every restart of it.
    """
    store = Store()
    lander = make(tmp_path, store)
    membership = Membership("g", 1, "m")
    lander.assigned(membership)
    for p in range(3):
        lander.settled(TP(TOPIC, p), OffsetAndMetadata(0, pending(0, 89)))

    async def feed() -> None:
        for first in range(0, 120, 30):
            for p in range(3):
                await lander.take(labels(p, first, 30), 1)

    await asyncio.wait_for(feed(), 10)
    await reach(lambda: store.rows == 3 * 30, "what follows the pending ranges is landed")
    lander.close()


async def test_a_full_buffer_holds_the_agent_back(tmp_path: Path) -> None:
    """Memory is bounded: while the store is away, Kafka keeps what does not fit."""
    store = Store()
    lander = make(tmp_path, store, land_rows_min=10_000, land_rows_max=10_000)
    lander.assigned(Membership("g", 1, "m"))
    lander.settled(TP(TOPIC, 0), OffsetAndMetadata(0, ""))
    await lander.take(labels(0, 0, 60), 1)
    await lander.take(labels(0, 60, 60), 1)
    third = asyncio.create_task(lander.take(labels(0, 120, 60), 1))
    done, _ = await asyncio.wait({third}, timeout=0.1)
    assert not done
    await reach(third.done, "the rows were landed by age, then there was room")
    lander.close()


async def test_rows_of_an_old_assignment_never_reach_the_new_one(tmp_path: Path) -> None:
    """The new assignment reads them again; held-back rows of the old one would come twice."""
    store = Store()
    lander = make(tmp_path, store, land_rows_min=10_000, land_rows_max=10_000)
    lander.assigned(Membership("g", 1, "m"))
    lander.settled(TP(TOPIC, 0), OffsetAndMetadata(0, ""))
    await lander.take(labels(0, 0, 120), 1)
    held = asyncio.create_task(lander.take(labels(0, 120, 30), 1))
    await asyncio.sleep(0)  # it runs until it waits for room
    assert not held.done()
    await lander.revoked({TP(TOPIC, 0)})
    lander.assigned(Membership("g", 2, "m"))
    lander.settled(TP(TOPIC, 0), OffsetAndMetadata(0, ""))
    await asyncio.wait_for(held, 10)
    assert lander._parts[TP(TOPIC, 0)].rows_waiting == 0
    lander.close()


@pytest.mark.parametrize("generation", [0, 2])
async def test_a_drain_of_another_generation_is_left_alone(tmp_path: Path, generation: int) -> None:
    """It was fetched under an assignment that is over, or that has not been told to us."""
    lander = make(tmp_path, Store())
    lander.assigned(Membership("g", 1, "m"))
    lander.settled(TP(TOPIC, 0), OffsetAndMetadata(0, ""))
    await lander.take(labels(0, 0, 5), generation)
    assert lander._parts[TP(TOPIC, 0)].rows_waiting == 0
    lander.close()


def letters(partition: int, first: int, count: int, *, size: int) -> Run:
    run = labels(partition, first, count)
    run.tp = TP(shop.topics.dead_letters.name, partition)
    run.values = [b"x" * size] * count
    return run


async def test_large_values_are_bounded_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A dead letter may hold a megabyte. Counted by rows alone, those that wait while the store is
    away would take 400 GB, and one insert of 100,000 of them could not even be built.
    """
    monkeypatch.setattr(land, "BUFFER_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(land, "RANGE_BYTES_MAX", 300_000)
    store = Store()
    store.answers.clear()
    lander = make(tmp_path, store, land_rows_max=100_000, land_buffer_rows_max=100_000)
    lander.assigned(Membership("g", 1, "m"))
    tp = TP(shop.topics.dead_letters.name, 0)
    lander.settled(tp, OffsetAndMetadata(0, ""))

    async def feed() -> None:
        for first in range(40):
            await lander.take(letters(0, first, 1, size=100_000), 1)

    feeding = asyncio.create_task(feed())
    done, _ = await asyncio.wait({feeding}, timeout=0.3)
    assert not done
    assert lander._parts[tp].rows_waiting <= 11
    store.answers.set()
    await asyncio.wait_for(feeding, 10)
    await reach(lambda: store.rows == 40, "all landed")
    assert max(store.sizes) <= 3
    lander.close()


async def test_scored_message_that_no_scorer_wrote_is_kept_and_the_next_are_landed(
    tmp_path: Path,
) -> None:
    """Anybody with the right may write to the topic; garbage must neither stop nor disappear."""
    sent: list[tuple[Any, ...]] = []

    class App:
        class producer:  # noqa: N801  # as Faust spells it
            @staticmethod
            async def send_and_wait(*arguments: Any) -> None:
                sent.append(arguments)

    lander = make(tmp_path, Store())
    lander.consumer.app = App
    lander.assigned(Membership("g", 1, "m"))
    tp = TP(shop.topics.scored.name, 3)
    lander.settled(tp, OffsetAndMetadata(0, ""))
    await lander.take(Run(tp, [None] * 2, [b"junk", None], [1, 1], [4, 5], 6), 1)
    kept = [
        (topic, value, partition, dict(headers))
        for topic, _k, value, partition, _t, headers in sent
    ]
    assert [(t, v, p) for t, v, p, _ in kept] == [
        (shop.topics.dead_letters.name, b"junk", 3),
        (shop.topics.dead_letters.name, None, 3),
    ]
    assert [h["offset"] for *_, h in kept] == [b"4", b"5"]
    assert {h["reason"] for *_, h in kept} == {b"schema"}
    lander.close()


def test_examples_are_landed_without_their_first_step(tmp_path: Path) -> None:
    """What was pending is in `scored`; each other step is a row with the time at which it was taken."""
    lander = make(tmp_path, Store())
    row = {
        "event_id": "e", "key": "k", "kind": "pending", "weight": 1.0, "score": 0.5,
        "model_score": 0.5, "learner_position": -1, "model_version": "v", "event_time": 1,
        "predicted_at": 2, "revision": 0, "source_partition": 1, "source_offset": 9,
        "numeric": [1.0], "category": [],
    }  # fmt: skip
    final = row | {"kind": "final", "label": 1.0, "label_time": 5, "delay_ms": 4}
    messages = [
        write_batch(pa.RecordBatch.from_pylist(rows, schema=EXAMPLES))
        for rows in ([row, final, final], [row])
    ]
    topic = TP(shop.topics.examples.name, 0)
    values = [messages[0], b"foreign", messages[1]]
    run = Run(topic, [None] * 3, values, [10, 11, 12], range(7, 10), 10)
    chunks = list(lander._examples(run))
    assert [(c.first_offset, c.last_offset, c.num_rows) for c in chunks] == [
        (7, 7, 2), (8, 8, 0), (9, 9, 0),
    ]  # fmt: skip
    assert chunks[0].rows is not None
    landed = chunks[0].rows.select(["topic_offset", "kind", "label", "source_offset"]).to_pylist()
    assert landed == [{"topic_offset": 7, "kind": "final", "label": 1.0, "source_offset": 9}] * 2
    assert chunks[0].rows["produced_at"].cast(pa.int64()).to_pylist() == [10, 10]
    assert [letter.value for letter in lander._rejects] == [b"foreign"]


async def test_evaluations_and_alarms_become_rows_and_junk_among_them_is_kept(
    tmp_path: Path,
) -> None:
    """An alarm is a row with every field; what no worker wrote stops nothing."""
    sent: list[Any] = []

    class App:
        class producer:  # noqa: N801  # as Faust spells it
            @staticmethod
            async def send_and_wait(*arguments: Any) -> None:
                sent.append(arguments)

    store = Store()
    lander = make(tmp_path, store)
    lander.consumer.app = App
    lander.assigned(Membership("g", 1, "m"))
    alarm = Alarm(
        alarm_id="a", detector="error-rate", subject="served", model_version="v",
        event_time_ms=7, source_partition=1, source_offset=2, shard=3, statistic=4.0,
        threshold=5.0, before=0.25, after=None, rows_before=6, rows_after=8,
        false_alarm_every=1000,
    )  # fmt: skip
    tp = TP(shop.topics.alarms.name, 3)
    lander.settled(tp, OffsetAndMetadata(0, ""))
    run = Run(tp, [None] * 2, [encode_alarm(alarm), b"junk"], [11, 12], [4, 5], 6)
    [chunk] = lander._alarms(run)
    await lander._send_rejects()
    assert [arguments[2] for arguments in sent] == [b"junk"]
    [row] = chunk.rows.to_pylist()
    assert {name: row[name] for name in ("topic_offset", "threshold", "before", "after")} == {
        "topic_offset": 4, "threshold": 5.0, "before": 0.25, "after": None,
    }  # fmt: skip
    assert (row["event_time"].timestamp(), row["produced_at"].timestamp()) == (0.007, 0.011)
    added = PipelineObserver(shop).observe(message([journal_row(0, "pending")]), {})
    tp = TP(shop.topics.evaluations.name, 3)
    lander.settled(tp, OffsetAndMetadata(0, ""))
    await lander.take(Run(tp, [None], [write_evaluations(added.evaluations)], [1], [4], 5), 1)
    await reach(lambda: store.rows == added.evaluations.num_rows, "landed")
    lander.close()
