"""The batch transport on real Kafka: nothing lost, nothing doubled, stock Faust still works."""

import asyncio

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.conn import create_conn
from aiokafka.errors import IllegalGenerationError, KafkaConnectionError, KafkaError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata
from kafka import KafkaAdminClient

from schemas.errors import PreflightError
from schemas.settings import Settings
from schemas.topics import Topic
from streams.transport import connection, preflight
from streams.transport.app import build_app
from streams.transport.commit import GroupCommit, Outgoing
from streams.transport.driver import batch_topic
from streams.transport.wire import Membership
from tests.connected.copying import (
    CopyWorker,
    make_topics,
    numbers,
    produce,
    read_all,
    running,
    until,
)


async def test_copies_once_in_order_with_nulls_and_large_values(kafka, kafka_settings, unique):
    """Tombstones and 900 KB values are records like any other."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    values = [*numbers(2000), None, b"x" * 900_000, None, b"last"]
    await produce(kafka, source, values, max_request_size=2 << 20)
    worker = CopyWorker(kafka_settings, group=group, source=source, target=target, name=unique("w"))
    async with running(worker):
        await until(lambda: worker.copied == len(values), what="all copied")
    found = await read_all(kafka, target)
    assert found == {p: values[p::4] for p in range(4)}
    assert worker.failures == []


async def test_log_that_starts_above_zero_and_aborted_input(kafka, kafka_settings, unique):
    """Retention moved the start of the log, and the producer rolled some input back."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target, partitions=1)
    await produce(kafka, source, numbers(100), partitions=1)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=unique("tx"))
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(source, b"rolled back", partition=0)
    await producer.abort_transaction()
    async with producer.transaction():
        await producer.send_and_wait(source, b"kept", partition=0)
    await producer.stop()
    client = KafkaAdminClient(bootstrap_servers=kafka)
    client.delete_records({TopicPartition(source, 0): 60})
    client.close()
    worker = CopyWorker(kafka_settings, group=group, source=source, target=target, name=unique("w"))
    worker.app.transport.Consumer.options = worker.app.transport.Consumer.options.__class__(
        read_committed=True
    )
    async with running(worker):
        await until(lambda: worker.copied == 41, what="60..99 and the kept one")
    found = await read_all(kafka, target, partitions=1)
    assert found[0] == [*numbers(100)[60:], b"kept"]


def test_a_connection_closed_by_the_broker_is_its_own_error_on_uvloop(kafka):
    """
    Goal: a request in the very turn of the loop in which the broker is gone is refused as any other.

    Method: one in each turn after the end, because the one that matters comes before aiokafka has
    noticed. uvloop's error would end the fetching for good.
    """
    connection.install()

    async def refusals() -> list[Exception]:
        host, port = kafka.split(":")
        made, found = await create_conn(host, int(port)), []
        made._writer.transport.abort()
        for _ in range(20):
            try:
                made.send(MetadataRequest([])).close()
            except Exception as error:
                found.append(error)
            await asyncio.sleep(0)
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(refusals())
    assert {type(error) for error in found} == {KafkaConnectionError}
    assert "the handler is closed" in str(found[0])


@pytest.mark.parametrize("what", ["fetching", "coordinating", "looking up"])
async def test_a_consumer_that_has_failed_says_so(kafka, kafka_settings, unique, what):
    """aiokafka's background tasks tell their end to who calls its `getmany`, and here nobody does:
    the worker must ask, or it runs on without a record or a group."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    worker = CopyWorker(kafka_settings, group=group, source=source, target=target, name=unique("w"))
    async with running(worker):
        await produce(kafka, source, numbers(40))
        await until(lambda: worker.copied == 40, what="all copied")
        consumer = worker.app.consumer
        assert consumer.failure() is None
        client, fetcher = consumer._thread._consumer._client, consumer._thread._consumer._fetcher
        send, wanted = client.send, HeartbeatRequest if what == "coordinating" else FetchRequest

        async def sends(node, request, **options):
            if isinstance(request, wanted):
                raise TypeError(f"{what} has failed")
            return await send(node, request, **options)

        async def cannot(*_arguments) -> bool:
            raise TypeError(f"{what} has failed")

        async def looks_up() -> None:
            client.force_metadata_update()

        async def goes_on() -> None:  # or it could not be stopped in good order
            if what == "fetching":
                fetcher._pending_tasks.clear()
                fetcher._fetch_task = asyncio.create_task(fetcher._fetch_requests_routine())
            if what == "looking up":
                client._sync_task = asyncio.create_task(client._md_synchronizer())

        look_up = client._metadata_update
        if what == "looking up":
            client._metadata_update = cannot
            await consumer._thread.call_thread(looks_up)
        else:
            client.send = sends
        await until(lambda: consumer.failure() is not None, what="the failure")
        failure = consumer.failure()
        client.send, client._metadata_update = send, look_up
        await consumer._thread.call_thread(goes_on)
        assert f"{what} has failed" in {str(failure), str(failure.__cause__)}


async def test_rows_in_flight_stay_bounded_behind_a_slow_stage(kafka, kafka_settings, unique):
    """A stage slower than its input must not pull the topic into memory."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    await produce(kafka, source, numbers(20_000))
    settings = Settings(
        kafka=kafka,
        home=kafka_settings.home,
        batch_rows_max=500,
        partition_rows_max=200,
        in_flight_rows_max=1500,
    )
    worker = CopyWorker(settings, group=group, source=source, target=target, name=unique("w"))
    worker.compute_delay_s = 0.002
    async with running(worker):
        await until(lambda: worker.copied == 20_000, what="all copied")
    # A run ends at a boundary of a producer's batch (16 KiB here), so the bound is a little soft.
    assert worker.largest_rows <= 1500 + 4 * 2500


async def test_ordinary_topics_timers_and_tables_work_beside_batches(kafka, kafka_settings, unique):
    """The driver replaces how batch topics are read, and nothing else of Faust."""
    batches, plain = unique("batches"), unique("plain")
    make_topics(kafka_settings, batches, plain)
    app = build_app(kafka_settings, group=unique("group"), owner=None)
    app.conf.topic_allow_declare = True
    counts = app.Table(unique("counts"), default=int, partitions=4)
    seen_rows, seen_plain, ticks = [], [], []

    @app.agent(batch_topic(app, batches))
    async def columns(drains):
        async for drain in drains.noack():
            seen_rows.extend(value for run in drain for value in run.values)
            drain.acknowledge(app.consumer)

    @app.agent(app.topic(plain, value_type=bytes, value_serializer="raw", key_type=bytes))
    async def events(stream):
        async for value in stream:
            counts["n"] += 1
            seen_plain.append(value)

    @app.timer(0.1)
    async def tick():
        ticks.append(1)

    await produce(kafka, batches, numbers(500))
    await produce(kafka, plain, numbers(40))
    await app.start()
    try:
        await until(lambda: len(seen_rows) == 500 and len(seen_plain) == 40 and len(ticks) > 3)
    finally:
        await app.stop()
    assert sorted(seen_rows, key=int) == numbers(500)
    assert sorted(seen_plain, key=int) == numbers(40)
    client = KafkaAdminClient(bootstrap_servers=kafka)
    committed = client.list_group_offsets(app.conf.id)[app.conf.id]
    client.close()
    by_topic = {
        t: sum(o.offset for tp, o in committed.items() if tp.topic == t) for t in (batches, plain)
    }
    assert by_topic == {batches: 500, plain: 40}


async def test_paused_partitions_rest_and_resume(kafka, kafka_settings, unique):
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    worker = CopyWorker(kafka_settings, group=group, source=source, target=target, name=unique("w"))
    async with running(worker):
        await produce(kafka, source, numbers(8))
        await until(lambda: worker.copied == 8)
        consumer = worker.app.consumer
        resting = {tp for tp in consumer.assignment() if tp.partition == 1}
        consumer.pause_partitions(resting)
        await produce(kafka, source, numbers(8))
        await until(lambda: worker.copied == 14, what="the three other partitions")
        await asyncio.sleep(0.3)
        assert worker.copied == 14
        consumer.resume_partitions(resting)
        await until(lambda: worker.copied == 16, what="the resumed partition")


async def test_hot_partition_does_not_starve_the_others(kafka, kafka_settings, unique):
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    hot = [b"%d" % i + b"x" * 200 for i in range(40_000)]
    await produce(kafka, source, hot, partitions=1)
    settings = Settings(
        kafka=kafka,
        home=kafka_settings.home,
        batch_rows_max=1000,
        partition_rows_max=500,
        in_flight_rows_max=2000,
    )
    worker = CopyWorker(settings, group=group, source=source, target=target, name=unique("w"))
    worker.compute_delay_s = 0.02
    async with running(worker):
        await until(lambda: worker.copied > 1000)
        await produce(kafka, source, numbers(4))
        await until(
            lambda: (
                set(worker.stage._positions) >= set(worker.app.consumer.assignment())
                and all(worker.stage._positions[tp] > 0 for tp in worker.app.consumer.assignment())
            ),
            deadline_s=10,
            what="every partition moved",
        )
        assert worker.copied < len(hot), "the hot partition was done first: the test proves nothing"


async def test_a_stalled_worker_is_refused_by_generation(kafka, kafka_settings, unique):
    """KIP-447 at work: the zombie's outputs and offsets both stay invisible."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    member = AIOKafkaConsumer(
        source, bootstrap_servers=kafka, group_id=group, enable_auto_commit=False
    )
    await member.start()
    await until(lambda: bool(member.assignment()))
    place = member._coordinator
    now = Membership(group, place.generation, place.member_id)
    tp = next(iter(member.assignment()))
    commit = GroupCommit(kafka_settings, transactional_id=unique("tx"))
    await commit.start()
    try:
        out = Outgoing(target, 0, [b"fine"])
        await commit.send([out], {tp: 5}, membership=now, timestamp_ms=1)
        stale = Membership(group, now.generation - 1, now.member)
        with pytest.raises((IllegalGenerationError, KafkaError)):
            await commit.send(
                [Outgoing(target, 0, [b"zombie"])], {tp: 9}, membership=stale, timestamp_ms=1
            )
    finally:
        await commit.stop()
    committed = await place.fetch_committed_offsets([TopicPartition(*tp)])
    await member.stop()
    assert committed[tp] == OffsetAndMetadata(5, "")
    assert (await read_all(kafka, target))[0] == [b"fine"]


async def test_preflight_names_what_is_missing(kafka, kafka_settings, unique):
    """Faust would wait for ever, in silence."""
    missing = Topic(name=unique("nowhere"), record="", key="", partitions=4)
    with pytest.raises(PreflightError, match=f"could not find topic {missing.name}"):
        await preflight.check(kafka_settings, group=unique("g"), read=[missing], write=[])
    name = unique("three")
    make_topics(kafka_settings, name, partitions=3)
    four = Topic(name=name, record="", key="", partitions=4)
    with pytest.raises(PreflightError, match="has 3 partitions, the pipeline declares 4"):
        await preflight.check(kafka_settings, group=unique("g"), read=[four], write=[])
