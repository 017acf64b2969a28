"""
Score and commit in seeded worlds: transactions abort, answers get lost, workers die, sleep and return.

A world is a few partitions, the offsets of their group, what a careful reader sees, and generations
of workers. Its seed decides everything, on a virtual clock. Real is `TransactionalStage`; the broker
is as simple as it can be and still be wrong in the ways Kafka is.
"""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from structlog.testing import capture_logs

from streams.telemetry import Reporter
from streams.transport.commit import Outgoing
from streams.transport.records import Drain, Run
from streams.transport.stage import TransactionalStage
from streams.transport.wire import Membership
from tests.simulation.virtual_time import run_virtually

SEEDS = 400
DEADLINE_S = 20_000.0
TRANSACTION_S_MAX = 10.0
SESSION_S_MAX = 6.0
ROWS_MAX = 60


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@dataclass(eq=False)
class Transaction:
    """What a producer has sent and not committed yet."""

    rows: list[tuple[TP, int]] = field(default_factory=list)
    offsets: dict[TP, int] = field(default_factory=dict)
    open: bool = True


@dataclass
class World:
    """``atomic``, ``stable`` and ``fencing`` are the three legs of the protocol; a negative control
    saws one off."""

    seed: int
    atomic: bool = True
    stable: bool = True
    fencing: bool = True
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.ends = {
            TP("events", n): self.random.randint(1, ROWS_MAX)
            for n in range(self.random.randint(1, 4))
        }
        self.committed = dict.fromkeys(self.ends, 0)
        self.visible: list[tuple[TP, int]] = []
        self.transactions: list[Transaction] = []
        self.generation = 0
        self.faults = self.random.randrange(10)
        self.danger = self.random.choice([0.05, 0.2, 0.5])
        self.problems: list[str] = []

    @property
    def done(self) -> bool:
        return self.committed == self.ends

    def fault(self) -> bool:
        if self.faults == 0 or self.random.random() > self.danger:
            return False
        self.faults -= 1
        return True

    # -- what the broker does

    def begin(self) -> Transaction:
        begun = Transaction()
        self.transactions.append(begun)
        asyncio.get_running_loop().call_later(TRANSACTION_S_MAX, self.abort, begun)
        return begun

    def abort(self, transaction: Transaction) -> None:
        self.seen["aborted"] += transaction.open
        transaction.open = False

    def add(self, transaction: Transaction, rows: list[tuple[TP, int]]) -> None:
        self.check(transaction)
        transaction.rows += rows
        if not self.atomic:
            self.visible += rows

    def add_offsets(
        self, transaction: Transaction, offsets: Mapping[TP, int], generation: int
    ) -> None:
        self.check(transaction)
        if self.fencing and generation != self.generation:
            self.seen["fenced"] += 1
            self.abort(transaction)
            raise KafkaError("illegal generation")
        transaction.offsets = dict(offsets)

    def commit(self, transaction: Transaction) -> None:
        self.check(transaction)
        transaction.open = False
        self.visible += transaction.rows if self.atomic else []
        for tp, offset in transaction.offsets.items():
            if offset < self.committed[tp]:
                self.problems.append(f"{tp} went back from {self.committed[tp]} to {offset}")
            self.committed[tp] = offset

    def check(self, transaction: Transaction) -> None:
        if not transaction.open:
            raise KafkaError("the transaction is over")

    async def fetch_committed(self, tp: TP) -> int:
        """The stable offset: waits for transactions that may still move it."""
        while self.stable and any(t.open and tp in t.offsets for t in self.transactions):
            self.seen["waited for a stable offset"] += 1
            await asyncio.sleep(0.25)
        return self.committed[tp]

    # -- the verdict

    def verdict(self) -> list[str]:
        expected = Counter((tp, offset) for tp, end in self.ends.items() for offset in range(end))
        found = Counter(self.visible)
        lost, doubled = sorted(expected - found), sorted(found - expected)
        order = [tp for tp in self.ends
                 if (own := [o for t, o in self.visible if t == tp]) != sorted(own)]  # fmt: skip
        return [
            *self.problems,
            *([f"lost: {lost}"] if lost else []),
            *([f"doubled: {doubled}"] if doubled else []),
            *([f"out of order: {order}"] if order and not doubled else []),
            *([] if self.done else [f"committed {self.committed} of {self.ends}"]),
        ]


class Worker:
    """One process: a stage, its producer and its place in the group. It may die or fall asleep at
    any effect; then it gets no more assignments."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.random = world, world.random
        self.gone = asyncio.Event()
        self.sent_bytes = 0
        self.stage = TransactionalStage(
            self,  # type: ignore[arg-type]  # `send` stands in for the transactional producer
            lambda runs: [
                Outgoing("out", r.tp.partition, [(r.tp, o) for o in r.offsets]) for r in runs
            ],
            Reporter(folder, "w", "score"),
            transaction_rows_max=self.random.choice([1, 10, 1000]),
            on_failure=lambda _what, _error: self.end("failed and ended itself"),
        )
        self.tasks = [asyncio.create_task(self.stage.commit_forever())]
        self.late: list[Drain] = []

    def end(self, how: str) -> None:
        self.world.seen[how] += 1
        self.gone.set()

    async def close(self) -> None:
        """Nothing of it goes on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # -- the transactional producer

    async def send(
        self,
        outgoing: list[Outgoing],
        offsets: Mapping[TP, int],
        *,
        membership: Membership,
        timestamp_ms: int,
    ) -> None:
        world = self.world
        transaction = world.begin()
        await self._danger("before its messages")
        world.add(transaction, [row for part in outgoing for row in part.values])
        await self._danger("before its offsets")
        world.add_offsets(transaction, offsets, membership.generation)
        await self._danger("before its commit")
        trouble = self.random.choice(["refused", "answer lost"]) if world.fault() else ""
        world.seen[trouble] += 1
        if trouble != "refused":
            world.commit(transaction)
        if trouble:
            raise KafkaError(trouble)
        await self._danger("after its commit")

    async def _danger(self, where: str) -> None:
        await asyncio.sleep(self.random.choice([0.0, 0.001, 0.1, 1.0]))
        if self.gone.is_set() or not self.world.fault():
            return
        if self.random.random() < 0.5:
            self.end(f"dies {where}")
            await asyncio.Event().wait()
        self.end(f"sleeps {where}")
        await asyncio.sleep(self.random.uniform(0.1, 30))

    # -- the consumer

    async def join(self, generation: int, tps: list[TP]) -> None:
        """Take partitions over and read on from their committed offsets."""
        self.stage.assigned(Membership("g", generation, "m"))
        starts = {}
        for tp in tps:
            starts[tp] = await self.world.fetch_committed(tp)
            self.stage.settled(tp, OffsetAndMetadata(starts[tp], ""))
        late, self.late = self.late, []
        self.tasks.append(asyncio.create_task(self._feed(generation, starts, late)))

    async def _feed(self, generation: int, positions: dict[TP, int], late: list[Drain]) -> None:
        for drain in late:  # fetched before the rebalance, handed over after it
            self.world.seen["late drain"] += 1
            await self.stage.take(drain, None)
        while open_ := [tp for tp, at in positions.items() if at < self.world.ends[tp]]:
            runs = []
            for tp in self.random.sample(open_, self.random.randint(1, len(open_))):
                first = positions[tp]
                positions[tp] = min(self.world.ends[tp], first + self.random.choice([1, 3, 20]))
                offsets = range(first, positions[tp])
                runs.append(
                    Run(tp, [], [b""] * len(offsets), [0] * len(offsets), offsets, offsets.stop)
                )
            drain = Drain(runs, generation)
            drain.message = SimpleNamespace(acked=False, ack=lambda _: None)  # type: ignore[assignment]
            if self.random.random() < 0.1:
                self.late.append(Drain(runs, generation))
                self.late[-1].message = drain.message
            await self.stage.take(drain, None)
            if self.random.random() < 0.1:  # a consumer that sought back hands them out again
                again = Drain(runs, generation)
                again.message = drain.message
                self.world.seen["handed out again"] += 1
                await self.stage.take(again, None)
            await asyncio.sleep(self.random.choice([0.0, 0.01, 0.5]))

    async def leave(self) -> None:
        """Give the partitions back; a transaction that is open may end first."""
        revoked = asyncio.create_task(self.stage.revoked(set()))
        gone = asyncio.create_task(self.gone.wait())
        await asyncio.wait({revoked, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (revoked, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def live_through(world: World, folder: Path) -> None:
    """Generation after generation until everything is committed; then whoever sleeps wakes up."""
    workers: list[Worker] = []
    while not world.done:
        world.generation += 1
        assert world.generation < 500, world.committed
        well = [worker for worker in workers if not worker.gone.is_set()]
        while len(well) < world.random.randint(1, 3):
            well.append(Worker(world, folder))
            workers.append(well[-1])
        owners = {tp: world.random.choice(well) for tp in world.ends}
        await asyncio.gather(
            *(w.join(world.generation, [tp for tp in owners if owners[tp] is w]) for w in well)
        )
        world.seen["generations"] += 1
        ends_s = asyncio.get_running_loop().time() + world.random.choice([0.5, 3.0, 60.0])
        while asyncio.get_running_loop().time() < ends_s and not world.done:
            if any(worker.gone.is_set() for worker in well):
                ends_s = min(ends_s, asyncio.get_running_loop().time() + SESSION_S_MAX)
            await asyncio.sleep(0.2)
        # One that is asleep hears nothing of it.
        await asyncio.gather(*(worker.leave() for worker in well if not worker.gone.is_set()))
    await asyncio.sleep(60)
    for worker in workers:
        await worker.close()


def run_world(world: World) -> World:
    with tempfile.TemporaryDirectory() as folder:
        run_virtually(live_through(world, Path(folder)), deadline_s=DEADLINE_S)
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_event_is_answered_once_wherever_the_worker_dies(seed: int) -> None:
    """
    Goal: a careful reader sees one answer for every event, in order, whatever happens.

    Method: see the top. Replay one failure with ``pytest -k "answered_once and [117]"``.
    """
    world = run_world(World(seed))
    assert not world.verdict(), (seed, world.verdict())


def test_the_worlds_contain_what_they_are_about() -> None:
    seen: Counter[str] = Counter()
    for seed in range(120):
        seen += run_world(World(seed)).seen
    places = ("before its messages", "before its offsets", "before its commit", "after its commit")
    assert seen.keys() >= {
        *(f"{how} {place}" for how in ("dies", "sleeps") for place in places),
        "aborted", "fenced", "refused", "answer lost", "waited for a stable offset", "late drain",
        "handed out again", "failed and ended itself",
    }  # fmt: skip


@pytest.mark.parametrize("leg", ["atomic", "stable", "fencing"])
def test_without_one_of_its_legs_the_protocol_falls(leg: str) -> None:
    """The simulation can fail: each part of the protocol is there because of some of these worlds."""
    assert any(run_world(World(seed, **{leg: False})).verdict() for seed in range(240))  # type: ignore[arg-type]


def _any_failure(seeds: int = 60) -> bool:
    return any(run_world(World(seed)).verdict() for seed in range(seeds))


def test_a_stage_that_takes_old_drains_is_found_out(monkeypatch: Any) -> None:
    """A planted error: drains of another generation are computed and committed like one's own."""
    real = TransactionalStage.take

    async def take(self: TransactionalStage, drain: Drain, consumer: Any) -> None:
        if self._membership is not None:
            drain.generation = self._membership.generation
        await real(self, drain, consumer)

    monkeypatch.setattr(TransactionalStage, "take", take)
    monkeypatch.setattr(TransactionalStage, "_continues", lambda _self, _run: True)
    assert _any_failure()


def test_a_stage_that_takes_records_again_is_found_out(monkeypatch: Any) -> None:
    """A planted error: what the consumer hands out again in the same generation is computed again."""
    monkeypatch.setattr(TransactionalStage, "_continues", lambda _self, _run: True)
    assert _any_failure()


def test_a_stage_that_goes_on_after_a_failure_is_found_out(monkeypatch: Any) -> None:
    """A planted error: a lost answer counts as a failure of nothing, and the next drain follows."""
    real = TransactionalStage._commit

    async def commit(self: TransactionalStage, *arguments: Any) -> None:
        with contextlib.suppress(KafkaError):
            await real(self, *arguments)

    monkeypatch.setattr(TransactionalStage, "_commit", commit)
    monkeypatch.setattr(
        Worker, "end", lambda self, how: how.startswith("failed") or self.gone.set()
    )
    assert _any_failure()
