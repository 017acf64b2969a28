"""The client of programs and notebooks against the real broker and the real store."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from schemas.errors import (
    KafkaUnavailable,
    PermanentError,
    PreflightError,
    RecordsRejected,
    SchemaError,
    SetupError,
)
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.predictions import Prediction
from schemas.settings import Settings
from streams.books.committed import CommittedReader
from streams.client import AsyncClient, Client
from streams.local.ports import free_port
from streams.transport.administration import create_topics
from tests.connected.conftest import Guarded
from tests.connected.copying import read_all

NOW_MS = int(time.time() * 1000)


@pytest.fixture
def shop(settings, unique) -> Pipeline:
    pipeline = Pipeline(
        name=unique("shop"),
        key="customer",
        features=[numeric("price"), category("country")],
        target=label("returned"),
        partitions=3,
    )
    create_topics(settings, pipeline.topics.all())
    return pipeline


def events(count: int) -> list[dict]:
    return [
        {"event_id": f"e{i}", "event_time_ms": NOW_MS, "customer": f"c{i % 7}", "price": float(i),
         "country": "FI"}
        for i in range(count)
    ]  # fmt: skip


def prediction(offset: int, partition: int = 0) -> bytes:
    return msgspec.json.encode(
        Prediction(
            event_id=f"e{offset}", key="c", score=0.25, event_time_ms=NOW_MS,
            source_offset=offset, source_partition=partition, model_version="v", model_age_ms=1,
            predicted_at_ms=NOW_MS + 5,
        )
    )  # fmt: skip


class Scorer:
    """Writes predictions as a scorer does: in transactions, which it may roll back."""

    def __init__(self, kafka: str, topic: str, name: str) -> None:
        self._topic = topic
        self._producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=name)

    async def __aenter__(self):
        await self._producer.start()
        return self

    async def __aexit__(self, *_reason):
        await self._producer.stop()

    async def many(self, count: int) -> None:
        """One transaction of so many, not waiting for each."""
        await self._producer.begin_transaction()
        value = prediction(1)
        sent = [
            await self._producer.send(self._topic, value, partition=i % 3) for i in range(count)
        ]
        await asyncio.gather(*sent)
        await self._producer.commit_transaction()

    async def commit(self, *offsets: int, partition: int = 0, abort: bool = False, **extra) -> None:
        await self._producer.begin_transaction()
        for offset in offsets:
            await self._producer.send_and_wait(
                self._topic, prediction(offset, partition), partition=partition, **extra
            )
        end = self._producer.abort_transaction if abort else self._producer.commit_transaction
        await end()


@pytest.fixture
async def scorer(kafka, shop, unique):
    async with Scorer(kafka, shop.topics.predictions.name, unique("scorer")) as found:
        yield found


async def test_events_arrive_once_in_order_where_the_answer_says(kafka, settings, shop):
    """Three chunks; each position names the record that lies there, keys stay on one partition."""
    sent = events(20_000)
    async with AsyncClient(shop, settings=settings) as client:
        positions = await client.send_events(sent)
        again = await client.send_events(sent[:10])
    stored = await read_all(kafka, shop.topics.events.name, partitions=3)
    assert sum(map(len, stored.values())) == 20_010
    by_place = {
        (p, i): msgspec.json.decode(v)["event_id"]
        for p, vs in stored.items()
        for i, v in enumerate(vs)
    }
    assert [by_place[place] for place in positions + again] == [
        e["event_id"] for e in sent + sent[:10]
    ]
    assert len({(e["customer"], p.partition) for e, p in zip(sent, positions, strict=True)}) == 7


async def test_an_event_costs_microseconds(settings, shop, scorer, capsys):
    """CPU of this process, so that others on the machine do not show. kafka-python: 42 us to send."""
    sent = events(20_000)
    await scorer.commit(0)  # connections are made before the clock starts
    async with AsyncClient(shop, settings=settings) as client:
        await client.send_events(sent[:100])
        began = time.process_time()
        await client.send_events(sent)
        send_us = (time.process_time() - began) * 1e6 / len(sent)
        await scorer.many(20_000)
        async with client.follow(start="earliest", idle_s_max=30) as follower:
            began, seen = time.process_time(), 0
            async for _prediction in follower:
                seen += 1
                if seen == 20_001:
                    break
            follow_us = (time.process_time() - began) * 1e6 / seen
    with capsys.disabled():
        print(f"\nCPU per event: sent {send_us:.1f} us, followed {follow_us:.1f} us")
    # Bounds for a mistake in the order of magnitude: a busy machine has shown 26 and 25.
    assert send_us < 100
    assert follow_us < 100


async def test_labels_go_to_the_partition_of_their_events(settings, shop):
    """The join reads both from one partition number."""
    async with AsyncClient(shop, settings=settings) as client:
        at = await client.send_events(events(50))
        truths = [
            {"event_id": e["event_id"], "customer": e["customer"], "value": 1} for e in events(50)
        ]
        truth_at = await client.send_labels(truths)
    assert [p.partition for p in at] == [p.partition for p in truth_at]


async def test_one_bad_event_keeps_all_from_being_sent(kafka, settings, shop):
    """All or nothing: a half-sent list could not be sent again."""
    async with AsyncClient(shop, settings=settings) as client:
        with pytest.raises(RecordsRejected):
            await client.send_events([*events(5), {"event_id": "bad"}])
    assert (
        sum(map(len, (await read_all(kafka, shop.topics.events.name, partitions=3)).values())) == 0
    )


async def test_a_missing_topic_and_a_dead_broker_are_errors_within_the_deadline(settings, shop):
    """Not a hang, and the message says what to do."""
    other = replace(shop, name=f"{shop.name}_not")
    async with AsyncClient(other, settings=settings, deadline_s=2) as client:
        with pytest.raises(PreflightError, match="it has 0 partitions, the pipeline declares 3"):
            await client.send_events(events(1))
    nobody = replace(settings, kafka=f"127.0.0.1:{free_port()}")
    began = time.monotonic()
    async with AsyncClient(shop, settings=nobody, deadline_s=1) as client:
        with pytest.raises(KafkaUnavailable, match="acknowledged=0 of 1"):
            await client.send_events(events(1))
    assert time.monotonic() - began < 8


async def test_following_sees_what_is_committed_and_nothing_else(settings, shop, scorer):
    """What becomes visible once it is open: nothing from before, nothing that was rolled back."""
    await scorer.commit(0, 1)
    async with CommittedReader(settings) as reader:  # a commit is visible a moment after it is made
        await reader.decided_spans(shop.topics.predictions.name)
    async with (
        AsyncClient(shop, settings=settings) as client,
        client.follow(start="latest", idle_s_max=10) as follower,
    ):
        await scorer.commit(2, 3, abort=True)
        await scorer.commit(4, 5)
        found = [await anext(follower)]
        assert follower.offsets[0] < 9, "5 is buffered, but was not handed out"
        found.append(await anext(follower))
        await scorer.commit(6)
        found += await follower.run()
        after = follower.offsets
    assert [p.source_offset for p in found] == [4, 5, 6]
    await scorer.commit(7)
    async with client.follow(start=after, idle_s_max=10) as follower:
        assert (await anext(follower)).source_offset == 7


async def test_following_begins_at_a_moment(settings, shop, scorer):
    """The time stamp of the prediction's record decides."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    for hour in range(3):
        stamp = moment + timedelta(hours=hour)
        await scorer.commit(hour, timestamp_ms=int(stamp.timestamp() * 1000))
    async with AsyncClient(shop, settings=settings) as client:
        start = moment + timedelta(minutes=59)
        async with client.follow(start=start, idle_s_max=0.5) as follower:
            assert [p.source_offset async for p in follower] == [1, 2]
        table = await client.predictions(start=start)
        assert table["source_offset"].to_pylist() == [1, 2]
        with pytest.raises(PermanentError, match="there is 0 to 6"):
            await client.predictions(start={0: 99})
        with pytest.raises(PermanentError, match="more than rows_max=1"):
            await client.predictions(rows_max=1)


async def test_a_slow_reader_holds_a_bounded_number(settings, shop, scorer):
    """What nobody takes stays in Kafka."""
    for start in range(0, 60, 20):
        await scorer.commit(*range(start, start + 20))
    async with (
        AsyncClient(shop, settings=settings) as client,
        client.follow(start="earliest", buffer_rows_max=8, idle_s_max=1) as follower,
    ):
        seen = []
        while len(seen) < 60:
            await follower.fill()
            assert follower.buffered <= 8
            seen += [p.source_offset for p in await follower.run()]
    assert seen == list(range(60))


async def test_what_retention_deleted_is_not_passed_over_in_silence(kafka, settings, shop, scorer):
    """A consumer that only jumps ahead would lose predictions and never know."""
    await scorer.commit(*range(10))
    topic = TopicPartition(shop.topics.predictions.name, 0)
    async with (
        AsyncClient(shop, settings=settings) as client,
        client.follow(start="earliest", idle_s_max=10) as follower,
    ):
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.delete_records({topic: RecordsToDelete(before_offset=5)})
        await admin.close()
        with pytest.raises(PermanentError, match="offset=0: the oldest that is left is 5"):
            await anext(follower)


async def test_what_is_no_prediction_is_named(settings, shop, kafka):
    """With its place: somebody else writes to this topic."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    await producer.send_and_wait(shop.topics.predictions.name, b"{}", partition=1)
    await producer.stop()
    async with AsyncClient(shop, settings=settings) as client:
        with pytest.raises(SchemaError, match="partition=1, offset=0"):
            await client.predictions()


async def test_the_blocking_client_does_the_same(settings, shop, scorer):
    """Also while a loop runs, as in a notebook."""
    await scorer.commit(0, 1)

    def work():
        with Client(shop, settings=settings) as client:
            assert len(client.send_events(events(3))) == 3
            with client.follow(start="earliest", idle_s_max=1) as follower:
                first = next(iter(follower)).source_offset
                return first, [p.source_offset for p in follower.run()], follower.run()

    assert work() == (0, [1], [])  # blocks this loop: the client has its own
    assert await asyncio.to_thread(work) == (0, [1], [])


def test_answers_are_views_of_the_bytes_that_came(store, tmp_path):
    """Eight million numbers: Arrow and polars both take them without a copy (in one piece: with one)."""
    with Client(settings=Settings(clickhouse=store, home=tmp_path)) as client:
        before = pa.total_allocated_bytes()
        table = client.query("SELECT number AS n, toFloat64(number) AS f FROM numbers(4000000)")
        held = pa.total_allocated_bytes() - before
        assert table.nbytes == 64_000_000
        assert held < 10_000_000, "Arrow copied them out of the answer"
        frame = pl.from_arrow(table, rechunk=False)
        theirs = [chunk.to_arrow().buffers()[1].address for chunk in frame["n"].get_chunks()]
        assert theirs == [chunk.buffers()[1].address for chunk in table["n"].chunks]
        assert (frame["n"].sum(), frame["f"].dtype) == (7_999_998_000_000, pl.Float64)


def test_parameters_types_and_frames(store, tmp_path):
    """A value cannot change the statement; times, decimals and nulls arrive in pandas and polars."""
    sql = (
        "SELECT {word:String} AS word, toDateTime64('2026-01-02 03:04:05.006', 3, 'UTC') AS at, "
        "toDecimal64(1.5, 2) AS d, NULL::Nullable(Int32) AS n, {list:Array(UInt8)} AS l, "
        "toLowCardinality('a') AS c"
    )
    with Client(settings=Settings(clickhouse=store, home=tmp_path)) as client:
        table = client.query(sql, {"word": "it's; DROP TABLE x", "list": [1, 2]})
        [row] = table.to_pylist()
        assert row["word"] == "it's; DROP TABLE x"
        assert row["at"] == datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)
        assert (float(row["d"]), row["n"], row["l"], row["c"]) == (1.5, None, [1, 2], "a")
        frame = table.to_pandas()
        assert (frame["word"][0], frame["at"][0].year) == ("it's; DROP TABLE x", 2026)
        assert pl.from_arrow(table).shape == (1, 6)
        with pytest.raises(PermanentError, match="nope"):
            client.query("SELECT nope")
        with pytest.raises(PermanentError, match=r"396|TOO_MANY_ROWS"):
            client.query("SELECT * FROM numbers(1000)", rows_max=10)


def test_a_user_who_may_only_read_can_ask(guarded: Guarded, tmp_path):
    """The role for notebooks. A wrong password is a matter for a person, and is not repeated."""
    address = f"http://rita:{{}}@127.0.0.1:{guarded.process.port}"
    password = "correct%20horse%3A%20battery-st%C3%A4ple"
    with Client(settings=Settings(clickhouse=address.format(password), home=tmp_path)) as client:
        assert client.query("SELECT a FROM tidemill.t").to_pylist() == [{"a": 2}]
        with pytest.raises((SetupError, PermanentError)):
            client.query("INSERT INTO tidemill.t VALUES (1)")
    wrong = Settings(clickhouse=address.format("wr0ng"), home=tmp_path)
    with Client(settings=wrong) as client, pytest.raises(SetupError) as refused:
        client.query("SELECT 1")
    assert "wr0ng" not in str(refused.value)
