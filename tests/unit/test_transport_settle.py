"""Where an owned partition starts: asked under one assignment, it says nothing about the next."""

import asyncio

import pytest
from aiokafka.errors import IllegalStateError
from aiokafka.structs import OffsetAndMetadata
from faust.transport import consumer as stock
from faust.types import TP

from tests.unit.test_transport_book import make_consumer

A, B = TP("events", 0), TP("events", 1)


class Owner:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def settled(self, tp, committed):
        self.told.append((tp, committed.offset))

    async def revoked(self, tps):
        self.told.append(("revoked", tps))


class Thread:
    """Answers at once, but lets ``meanwhile`` happen before the answer of one method arrives."""

    def __init__(self, meanwhile, during):
        self.meanwhile, self.during, self.offset = meanwhile, during, 5

    async def call_thread(self, method, *arguments):
        answer = await method(*arguments)
        if method.__name__ == self.during:
            self.during = ""
            await self.meanwhile()
        return answer

    async def stable_offsets(self, tps):
        return {tp: OffsetAndMetadata(self.offset, "") for tp in sorted(tps)}

    async def seek_to(self, tp, offset):
        pass


@pytest.mark.parametrize("during", ["stable_offsets", "seek_to"])
@pytest.mark.parametrize("again", [False, True], ids=["to another", "and given back"])
def test_offsets_of_an_old_assignment_are_not_used(during, again):
    """
    Goal: an owner never hears of a partition that was just revoked, nor of an offset from before.

    Method: the group revokes both partitions while the offsets are asked for, or while the consumer
    seeks; then it assigns them again, when somebody else has committed more.
    """

    async def world():
        owner = Owner()
        consumer = make_consumer(owner=owner)
        consumer.assignment = lambda: {A, B}

        async def rebalance():
            consumer._unsettled -= {A, B}
            await owner.revoked({A, B})
            if again:
                consumer._thread.offset = 9
                consumer._unsettled = {A, B}

        consumer._thread = Thread(rebalance, during)
        consumer._unsettled = {A, B}
        await consumer._settle()
        assert owner.told == [("revoked", {A, B})]
        await consumer._settle()
        assert owner.told[1:] == ([(A, 9), (B, 9)] if again else [])

    asyncio.run(world())


async def test_a_partition_that_is_taken_away_while_the_consumer_seeks_is_left_to_the_next_assignment():
    """The client forgets its partitions before it tells; a worker ended itself over the difference."""
    owner = Owner()
    consumer = make_consumer(owner=owner)
    consumer.assignment = lambda: {A, B}
    thread = consumer._thread = Thread(None, "")
    sought: list[TP] = []

    async def seek_to(tp, _offset):
        if tp == A and len(sought) < 2:
            sought.append(tp)
            raise IllegalStateError(f"No current assignment for partition {tp}")

    thread.seek_to = seek_to
    consumer._unsettled = {A, B}
    await consumer._settle()
    assert (owner.told, consumer._unsettled) == ([(B, 5)], {A})
    await consumer._settle()
    await consumer._settle()
    assert (owner.told, consumer._unsettled) == ([(B, 5), (A, 5)], set())


async def test_owned_partitions_settle_after_the_seek_of_their_own_assignment(monkeypatch):
    """
    Goal: nothing is read between an assignment and Faust's seek after it.

    Method: the next assignment comes while Faust seeks for the one before; that seek frees nothing.
    """
    owner = Owner()
    owner.assigned = owner.told.append
    owner.ahead = set
    consumer = make_consumer(owner=owner)
    consumer.assignment = lambda: {A, B}
    consumer.flow_active = True
    thread = consumer._thread = Thread(None, "")

    async def answers(value=None, *_arguments):
        return value

    async def membership():
        return "member"

    thread.membership, thread.look_for_topics = membership, answers
    monkeypatch.setattr(consumer, "_getmany", lambda **_options: answers({}), raising=False)
    monkeypatch.setattr(stock.Consumer, "on_partitions_assigned", answers)
    meanwhile = [lambda: consumer.on_partitions_assigned({A, B}, 2), answers]

    async def seeks(_consumer):
        await meanwhile.pop(0)()

    monkeypatch.setattr(stock.Consumer, "perform_seek", seeks)
    await consumer.on_partitions_assigned({A, B}, 1)
    await consumer.perform_seek()
    await consumer._wait_next_records(0.0)
    assert owner.told == ["member", "member"]
    await consumer.perform_seek()
    await consumer._wait_next_records(0.0)
    assert owner.told[2:] == [(A, 5), (B, 5)]
