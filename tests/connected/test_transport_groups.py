"""Workers of one group join, leave and take over: nothing is lost, nothing comes twice."""

import asyncio
import contextlib

from kafka import KafkaAdminClient

from tests.connected.copying import (
    CopyWorker,
    make_topics,
    numbers,
    produce,
    read_all,
    running,
    until,
)


async def test_workers_that_join_and_leave_lose_and_double_nothing(kafka, kafka_settings, unique):
    """Revocation finishes or forgets the work in hand; both are exact."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    values = numbers(6000)
    options = {"group": group, "source": source, "target": target}
    first = CopyWorker(kafka_settings, name=unique("w"), **options)
    first.compute_delay_s = 0.01
    feed = asyncio.create_task(_trickle(kafka, source, values))
    async with running(first):
        for _ in range(2):
            guest = CopyWorker(kafka_settings, name=unique("w"), **options)
            guest.compute_delay_s = 0.01
            async with running(guest):
                await until(lambda guest=guest: guest.copied > 100, what="the guest works")
            assert guest.failures == []
        await feed
        await until(lambda: _caught_up(kafka, kafka_settings, group, source, len(values)))
    found = await read_all(kafka, target)
    assert sorted(v for part in found.values() for v in part) == sorted(values)
    assert found == {p: values[p::4] for p in range(4)}
    assert first.failures == []


async def test_a_leader_that_could_not_look_topics_up_assigns_again(kafka, kafka_settings, unique):
    """The broker is away for a moment between two steps of a rebalance: aiokafka's leader then gives
    the partitions to nobody and would look again after five minutes."""
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target)
    worker = CopyWorker(kafka_settings, group=group, source=source, target=target, name=unique("w"))
    async with running(worker):
        await produce(kafka, source, numbers(400))
        await until(lambda: worker.copied == 400, what="all copied")
        thread, refused = worker.app.consumer._thread, []

        async def forget() -> None:
            coordinator, client = thread._consumer._coordinator, thread._consumer._client
            look_up, assign = client._metadata_update, coordinator._perform_assignment

            async def refuses_twice(*arguments):
                refused.append(True)
                return len(refused) > 2 and await look_up(*arguments)

            async def assigns_blindly(response):
                client._metadata_update = refuses_twice
                client.cluster._partitions.clear()
                coordinator._perform_assignment = assign
                return await assign(response)

            coordinator._perform_assignment = assigns_blindly
            coordinator.request_rejoin()

        await thread.call_thread(forget)
        await produce(kafka, source, numbers(400))
        await until(lambda: worker.copied == 800, what="copied again")
    assert len(refused) > 2
    assert worker.failures == []


async def test_a_spare_worker_that_takes_over_copies_once(kafka, kafka_settings, unique):
    """
    Goal: Faust seeks some time after an assignment; what was read before it is not read again.

    Method: a worker without a partition is given one. Nothing was taken from it, so Faust has not
    stopped its fetching, and here the seek comes while its first transaction would be open.
    """
    source, target, group = unique("in"), unique("out"), unique("group")
    make_topics(kafka_settings, source, target, partitions=1)
    options = {"group": group, "source": source, "target": target}
    first = CopyWorker(kafka_settings, name=unique("w"), **options)
    spare = CopyWorker(kafka_settings, name=unique("w"), **options)
    seek, send = spare.app.transport.Consumer.perform_seek, spare.commit._send

    async def seeks_late(consumer):
        await asyncio.sleep(1.0)
        await seek(consumer)

    async def sends_late(*arguments):
        await asyncio.sleep(2.0)
        await send(*arguments)

    spare.app.transport.Consumer.perform_seek, spare.commit._send = seeks_late, sends_late
    async with contextlib.AsyncExitStack() as stack:
        async with first:
            await produce(kafka, source, numbers(40), partitions=1)
            await until(lambda: first.copied == 40, what="the first copies")
            await stack.enter_async_context(spare)
            await until(lambda: spare.app.consumer_generation_id > 1, what="both are members")
            assert not spare.app.consumer.assignment()
        await produce(kafka, source, numbers(80)[40:], partitions=1)
        await until(lambda: spare.copied >= 40, what="the spare copies")
        await asyncio.sleep(1.0)
    assert await read_all(kafka, target, partitions=1) == {0: numbers(80)}
    assert first.failures == spare.failures == []


async def _trickle(kafka, topic, values, *, step=200):
    for start in range(0, len(values), step):
        await produce(kafka, topic, values[start : start + step])
        await asyncio.sleep(0.15)


def _caught_up(kafka, settings, group, topic, rows) -> bool:
    client = KafkaAdminClient(bootstrap_servers=kafka)
    try:
        offsets = client.list_group_offsets(group)[group]
    finally:
        client.close()
    return sum(max(o.offset, 0) for tp, o in offsets.items() if tp.topic == topic) >= rows
