"""The in-flight book: which offset may be committed, whatever order the work ends in."""

import asyncio
import tempfile
from random import Random

import faust
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.transport.driver import batch_topic, install
from streams.transport.records import Drain, Run

A, B = TP("events", 0), TP("events", 1)


def make_consumer(*, in_flight_rows_max=10_000, owner=None):
    app = faust.App(
        "book",
        broker="kafka://127.0.0.1:1",
        store="memory://",
        datadir=tempfile.mkdtemp(),
        web_enabled=False,
        autodiscover=False,
    )
    install(app, in_flight_rows_max=in_flight_rows_max, owner=owner)
    app.finalize()
    batch_topic(app, "events")
    app.topics._acking_topics.add("events")
    consumer = app.transport.create_consumer(
        callback=lambda message: None,
        on_partitions_revoked=None,
        on_partitions_assigned=None,
    )
    app.consumer = consumer
    return consumer


def run_of(tp, offsets, next_offset=None):
    rows = len(offsets)
    return Run(
        tp, [b"k"] * rows, [b"v"] * rows, [0] * rows, offsets, next_offset or offsets[-1] + 1
    )


def hand_out(consumer, *runs) -> Drain:
    _tp, message = consumer._hand_out(list(runs), 1)
    message.refcount = 1
    return message.value


# Runs of one partition: sizes and the holes before them (compaction, markers, aborted records).
runs_strategy = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=12)


@given(runs_strategy, st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_commit_is_the_end_of_the_acknowledged_prefix(sizes, start, order: Random):
    """However acknowledgements are ordered, nothing unfinished is ever behind the commit."""

    async def world():
        consumer = make_consumer()
        drains, position = [], start
        for size, hole in sizes:
            position += hole
            drains.append(hand_out(consumer, run_of(A, range(position, position + size))))
            position += size
        pending = list(range(len(drains)))
        order.shuffle(pending)
        ends = [d.runs[0].next_offset for d in drains]
        done, committed = set(), None
        for index in pending:
            drains[index].acknowledge(consumer)
            done.add(index)
            prefix = 0
            while prefix in done:
                prefix += 1
            expected = ends[prefix - 1] if prefix else None
            new = consumer._new_offset(A)
            committed = new if new is not None else committed
            assert committed == expected
        assert consumer._rows_in_flight == 0

    asyncio.run(world())


def test_a_drain_moves_every_partition_it_holds():
    """One drain is one message to Faust, which knows only the first of its partitions."""

    async def world():
        consumer = make_consumer()
        drain = hand_out(consumer, run_of(A, [5, 6]), run_of(B, [9], next_offset=12))
        assert list(consumer._filter_tps_with_pending_acks()) == []
        drain.acknowledge(consumer)
        assert set(consumer._filter_tps_with_pending_acks()) == {A, B}
        assert consumer._filter_committable_offsets([A, B]) == {A: 7, B: 12}

    asyncio.run(world())


def test_owned_topics_are_never_committed_by_faust():
    """Their offsets move inside transactions or recorded ranges only."""

    async def world():
        consumer = make_consumer(owner=object())
        drain = hand_out(consumer, run_of(A, [0]))
        drain.acknowledge(consumer)
        assert consumer._new_offset(A) is None

    asyncio.run(world())


def test_rows_in_flight_are_bounded_and_released():
    """The bound is in rows, because memory is; a forgotten drain frees its rows too."""

    async def world():
        consumer = make_consumer(in_flight_rows_max=10)
        first = hand_out(consumer, run_of(A, range(6)))
        second = hand_out(consumer, run_of(A, range(6, 12)))
        assert consumer.rows_wanted() == 0
        first.acknowledge(consumer)
        first.acknowledge(consumer)
        assert consumer.rows_wanted() == 4
        consumer._forget_all()
        assert consumer.rows_wanted() == 10
        second.acknowledge(consumer)
        assert consumer.rows_wanted() == 10

    asyncio.run(world())


def test_acknowledged_drain_lets_go_of_its_records():
    """The book must hold offsets only, or a slow partition would hold megabytes."""

    async def world():
        consumer = make_consumer()
        drain = hand_out(consumer, run_of(A, range(3)))
        message = drain.message
        drain.acknowledge(consumer)
        assert message.value is None

    asyncio.run(world())


async def test_seek_forgets_what_was_handed_out_before():
    """A drain fetched before a seek must not commit past the position that was sought."""
    consumer = make_consumer()
    old = hand_out(consumer, run_of(A, range(10, 20)))

    async def no_broker(_tp, _offset):
        return None

    consumer._seek = no_broker
    await consumer.seek(A, 5)
    new = hand_out(consumer, run_of(A, range(5, 8)))
    old.acknowledge(consumer)
    assert consumer._new_offset(A) is None
    new.acknowledge(consumer)
    assert consumer._new_offset(A) == 8


def test_batch_topic_without_install_says_what_to_do():
    app = faust.App("x", broker="kafka://127.0.0.1:1", datadir=tempfile.mkdtemp())
    with pytest.raises(RuntimeError, match="install"):
        batch_topic(app, "events")


async def test_large_records_count_for_what_they_weigh():
    """Counted as one row each, 98,304 records of a megabyte would be let into memory."""
    consumer = make_consumer(in_flight_rows_max=10_000)
    small = hand_out(consumer, run_of(A, range(100)))
    assert consumer.rows_wanted() == 10_000 - 100
    run = run_of(B, range(12))
    run.values = [b"x" * 1_000_000, None] * 6
    large = hand_out(consumer, run)
    assert consumer.rows_wanted() == 10_000 - 100 - 6_000_000 // 1024
    large.acknowledge(consumer)
    small.acknowledge(consumer)
    assert consumer.rows_wanted() == 10_000


async def test_a_message_is_handed_over_at_once_and_not_while_the_flow_is_suspended():
    """What the hand-over raises comes out; what waits for a suspended flow lets go of it."""
    consumer = make_consumer()
    consumer.app.flow_control.resume()

    async def handing(error: Exception | None = None) -> str:
        if error is not None:
            raise error
        return "taken"

    tasks = len(asyncio.all_tasks())
    given = handing()
    done = await consumer.wait_first(given, consumer.suspend_flow.wait())
    assert (done.done, done.results, done.stopped) == ([given], ["taken"], False)
    assert len(asyncio.all_tasks()) == tasks
    with pytest.raises(RuntimeError, match="agent"):
        await consumer.wait_first(handing(RuntimeError("agent")), consumer.suspend_flow.wait())

    consumer.stop_flow()
    never = asyncio.Event()
    done = await asyncio.wait_for(
        consumer.wait_first(never.wait(), consumer.suspend_flow.wait()), 5
    )
    assert done.results == [True]
