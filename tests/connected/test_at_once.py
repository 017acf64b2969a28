"""The producer of what leaves at once, on real Kafka: all of it, once and in order."""

import asyncio
from random import Random

import pytest
from aiokafka.client import ConnectionGroup

from streams.transport.at_once import AtOnce
from streams.transport.commit import BATCH_BYTES_MAX, Outgoing
from tests.connected.copying import make_topics, read_all


@pytest.fixture
async def target(kafka_settings, unique):
    name = unique("out")
    make_topics(kafka_settings, name)
    return name


@pytest.fixture
async def at_once(kafka_settings):
    made = AtOnce(kafka_settings)
    await made.start()
    yield made
    await asyncio.wait_for(made.stop(), 20)


async def test_every_message_arrives_once_and_in_order(kafka, at_once, target):
    """Whether the sends before it are under way or not, and more than a batch holds in one."""
    random, expected, sent = Random(7), {p: [] for p in range(4)}, []
    for turn in range(200):
        parts = []
        for partition in random.choices(range(4), k=random.randint(1, 6)):
            values = [b"%d %d %d" % (turn, partition, n) for n in range(random.randint(1, 9))]
            expected[partition] += values
            parts.append(Outgoing(target, partition, values))
        sent += await asyncio.wait_for(at_once.send(parts, timestamp_ms=1), 20)
        await asyncio.sleep(random.choice([0, 0, 0.002]))
    large = [b"x" * (BATCH_BYTES_MAX // 3)] * 9
    expected[1] += large
    sent += await asyncio.wait_for(at_once.send([Outgoing(target, 1, large)], timestamp_ms=1), 20)
    await asyncio.wait_for(asyncio.gather(*sent), 20)
    assert await read_all(kafka, target) == expected


@pytest.mark.parametrize("how", ["abort", "gone"])
async def test_a_connection_that_breaks_costs_nothing(kafka, at_once, target, how):
    """Broken under a request, or already gone when the next one is written."""
    client, expected, sent = at_once._producer.client, [], []
    for turn in range(60):
        value = b"%d" % turn
        expected.append(value)
        if turn % 10 == 5:
            for (_node, group), found in list(client._conns.items()):
                if group == ConnectionGroup.DEFAULT:
                    if how == "gone":
                        found.close()
                    elif found._writer is not None:
                        found._writer.transport.abort()
        sent += await asyncio.wait_for(
            at_once.send([Outgoing(target, 0, [value])], timestamp_ms=1), 20
        )
        if turn % 3:
            await asyncio.sleep(0.003)
    await asyncio.wait_for(asyncio.gather(*sent), 30)
    assert (await read_all(kafka, target))[0] == expected


async def test_a_partition_without_a_leader_is_asked_for_again(kafka, at_once, target):
    """Nothing pushes again but the sender's own task."""
    cluster = at_once._producer.client.cluster
    await asyncio.gather(*await at_once.send([Outgoing(target, 2, [b"a"])], timestamp_ms=1))
    known, asked = cluster.leader_for_partition, []

    def unknown_once(partition):
        asked.append(partition)
        return -1 if len(asked) == 1 else known(partition)

    cluster.leader_for_partition = unknown_once
    sent = await at_once.send([Outgoing(target, 2, [b"b"])], timestamp_ms=1)
    await asyncio.wait_for(asyncio.gather(*sent), 20)
    assert len(asked) > 1
    assert (await read_all(kafka, target))[2] == [b"a", b"b"]


async def test_what_was_never_pushed_leaves_with_the_stop(kafka, kafka_settings, target):
    """A send that was cancelled between two batches must not hang the end of the worker."""
    made = AtOnce(kafka_settings)
    await made.start()
    batch = made._producer.create_batch()
    batch.append(key=None, value=b"left", timestamp=1)
    await made._producer.send_batch(batch, target, partition=3)
    await asyncio.wait_for(made.stop(), 20)
    assert (await read_all(kafka, target))[3] == [b"left"]
