"""
The recorded range in seeded worlds: workers die, sleep and return, the store goes away.

A world is one partition of a topic, the offset commit of its group, a table and a sequence of
workers. Its seed decides everything, on a virtual clock. Real are `PartitionLander` and what it is
made of; the rest is as simple as it can be and still be wrong in the ways Kafka and ClickHouse are.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from schemas.errors import FencedError, StoreUnavailable
from streams.store.recorded_range import Chunk, PartitionLander, decode_pending
from tests.simulation.virtual_time import run_virtually

SEEDS = 400
DEADLINE_S = 20_000.0
"""Virtual. Twelve faults of two minutes each, and the log itself takes a few minutes."""
WHERE = "tests/simulation/test_recorded_range.py"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of retries would log themselves; a world has its own history."""
    with capture_logs():
        yield


@dataclass
class World:
    """One partition, its commit, its table.

    ``token``, ``recovery`` and ``fencing`` are the three legs of the protocol; a negative control
    saws one off.
    """

    seed: int
    token: bool = True
    recovery: bool = True
    fencing: bool = True
    table: list[tuple[int, int]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.log = self._write_log()
        self.faults = self.random.randrange(13)
        self.danger = self.random.choice([0.05, 0.2, 0.5])
        self.tokens: set[str] = set()
        self.generation = 0
        self.committed = (self.log[0][0], "")
        self.store_back_at = 0.0

    def _write_log(self) -> list[tuple[int, list[int]]]:
        """Offsets with gaps, and the rows that each message becomes: none, one or several."""
        many = self.random.choice([1, 1, 5])
        offset, row, log = self.random.randrange(50), 0, []
        for _ in range(self.random.randrange(1, 80)):
            offset += 1 if self.random.random() < 0.8 else self.random.randrange(2, 6)
            rows = 0 if self.random.random() < 0.2 else self.random.randint(1, many)
            log.append((offset, list(range(row, row + rows))))
            row += rows
        return log

    @property
    def end(self) -> int:
        return self.log[-1][0] + 1

    def say(self, what: str) -> None:
        self.history.append(f"{asyncio.get_running_loop().time():9.3f}  {what}")

    def fault(self) -> bool:
        """Whether something goes wrong here and now."""
        if self.faults == 0 or self.random.random() > self.danger:
            return False
        self.faults -= 1
        return True

    # -- the offset commit

    def commit(self, generation: int, offset: int, metadata: str) -> None:
        if self.fencing and generation != self.generation:
            self.seen["fenced"] += 1
            self.say(f"  commit of {offset} by generation {generation} refused")
            raise FencedError("generation is over")
        self.say(f"  generation {generation} commits {offset} {metadata}")
        landed = {row for _offset, row in self.table}
        lost = [r for at, rows in self.log if at < offset for r in rows if r not in landed]
        if lost:
            self.problems.append(f"commit of {offset} although rows {lost} have not landed")
        if offset < self.committed[0]:
            self.problems.append(f"the committed offset went back to {offset}")
        self.committed = (offset, metadata)

    # -- the store

    def insert(self, rows: pa.Table, token: str) -> None:
        self._answer_or_raise()
        trouble = (
            self.random.choice(["refuses", "drops the reply", "is late"]) if self.fault() else ""
        )
        if trouble:
            self.seen[trouble] += 1
            self.say(f"  the store {trouble}")
        if trouble == "is late":
            loop = asyncio.get_running_loop()
            loop.call_later(self.random.uniform(0, 60), self._apply, rows, token)
        elif trouble != "refuses":
            self._apply(rows, token)
        if trouble:
            raise StoreUnavailable(trouble)

    def _apply(self, rows: pa.Table, token: str) -> None:
        new = not self.token or token not in self.tokens
        self.say(f"  insert of {rows.num_rows} rows, {token}: {'done' if new else 'known'}")
        if new:
            self.tokens.add(token)
            self.table += zip(
                rows["topic_offset"].to_pylist(), rows["row"].to_pylist(), strict=True
            )
        else:
            self.seen["deduplicated"] += 1

    def count(self, first: int, last: int) -> int:
        self._answer_or_raise()
        return sum(first <= offset <= last for offset, _row in self.table)

    def _answer_or_raise(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self.store_back_at and self.fault():
            self.seen["away"] += 1
            self.store_back_at = now + self.random.uniform(0.1, 120)
            self.say(f"  the store is away until {self.store_back_at:.3f}")
        if now < self.store_back_at:
            raise StoreUnavailable("away")

    # -- the verdict

    def verdict(self) -> list[str]:
        """What is wrong at the end; nothing in a world whose protocol is whole."""
        expected = Counter((at, row) for at, rows in self.log for row in rows)
        found = Counter(self.table)
        lost, doubled = sorted(expected - found), sorted(found - expected)
        return [
            *self.problems,
            *([f"lost (offset, row): {lost}"] if lost else []),
            *([f"doubled or foreign (offset, row): {doubled}"] if doubled else []),
            *([f"committed {self.committed}, the log ends at {self.end}"]
              if self.committed != (self.end, "") else []),
        ]  # fmt: skip

    def report(self) -> str:
        """Everything needed to see what happened, and to see it again."""
        test = "test_every_row_lands_once_wherever_the_worker_dies"
        lines = [*self.verdict(), *self.history]
        return "\n".join([*lines, f"replay: python -m pytest '{WHERE}::{test}[{self.seed}]'"])


class Worker:
    """One incarnation of a lander under one generation. It may die or fall asleep at any effect."""

    def __init__(self, world: World) -> None:
        world.generation += 1
        self.world, self.random = world, world.random
        self.generation = world.generation
        self.gone = asyncio.Event()
        self.offset, metadata = world.committed
        pending = decode_pending(metadata) if world.recovery else None
        world.seen["recoveries"] += pending is not None
        world.say(f"generation {self.generation} starts at {self.offset} with {pending}")
        self.lander = PartitionLander(
            name="topic|0",
            epoch="1",
            commit=self.commit,
            sink=world,
            run_in_thread=self.run_in_thread,
            pending=pending,
            rows_min=self.random.choice([1, 5, 20]),
            rows_max=self.random.choice([5, 20, 60]),
            bytes_max=self.random.choice([100, 1_000_000]),
            age_s_max=self.random.choice([0.01, 0.5, 1.0]),
            few_rows_max=self.random.choice([0, 3]),
            clock=asyncio.get_running_loop().time,
            jitter=self.random,
        )

    async def live(self, *, done: Callable[[], bool]) -> None:
        """Work until dead, asleep, fenced, replaced or done."""
        run = asyncio.create_task(self.lander.run())
        feed = asyncio.create_task(self.feed())
        gone = asyncio.create_task(self.gone.wait())
        ends_at = asyncio.get_running_loop().time() + self.random.expovariate(1 / 5)
        while not done() and not run.done() and not gone.done():
            await asyncio.wait({run, gone}, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            if asyncio.get_running_loop().time() > ends_at and self.world.fault():
                self.world.seen["revoked"] += 1
                self.world.say(f"generation {self.generation} is revoked")
                run.cancel()
                break
            if asyncio.get_running_loop().time() > ends_at + 100:
                ends_at = float("inf")
        if not run.done() and self.gone.is_set():
            run.add_done_callback(_fenced_or_cancelled)  # asleep: the task goes on by itself
        else:
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError, FencedError):
                await run
        feed.cancel()
        gone.cancel()

    async def feed(self) -> None:
        """Hand over the log from the committed offset on, in chunks of this life's own."""
        rest = [message for message in self.world.log if message[0] >= self.offset]
        size = self.random.choice([1, 4, 30])
        while rest:
            count = self.random.randint(1, size)
            part, rest = rest[:count], rest[count:]
            pairs = [(offset, row) for offset, rows in part for row in rows]
            chunk = Chunk(part[0][0], part[-1][0], _rows(pairs) if pairs else None)
            self.lander.add(chunk, rest[0][0] if rest else self.world.end)
            if self.random.random() < 0.5:
                await asyncio.sleep(self.random.choice([0.0, 0.05, 0.4, 5.0]))

    async def commit(self, offset: int, metadata: str) -> None:
        await self._danger("before a commit")
        self.world.commit(self.generation, offset, metadata)
        await self._danger("after a commit")

    async def run_in_thread(self, call: Callable[[], None]) -> None:
        try:
            await self._danger("before a call", request=call)
        except asyncio.CancelledError:  # revoked: the thread does not notice
            self._still_on_its_way(call)
            raise
        call()
        await self._danger("after a call")

    async def _danger(self, where: str, request: Callable[[], None] | None = None) -> None:
        """An effect is about to happen, or has just happened."""
        world = self.world
        await asyncio.sleep(self.random.choice([0.0, 0.001, 0.1]))
        if self.gone.is_set() or not world.fault():
            return
        kind = self.random.choice(["dies", "sleeps"])
        world.seen[f"{kind} {where}"] += 1
        world.say(f"generation {self.generation} {kind} {where}")
        self.gone.set()
        if kind == "sleeps":
            await asyncio.sleep(self.random.uniform(0.1, 90))
            world.say(f"generation {self.generation} wakes up")
            return
        if request is not None:
            self._still_on_its_way(request)
        await asyncio.sleep(DEADLINE_S)

    def _still_on_its_way(self, request: Callable[[], None]) -> None:
        """The sender is gone; the store may still do what it was asked."""
        if self.random.random() < 0.5:
            self.world.seen["posthumous requests"] += 1
            delay_s = self.random.choice([0.0, 1.0, 30.0])
            asyncio.get_running_loop().call_later(delay_s, _quietly, request)


def _quietly(request: Callable[[], None]) -> None:
    with contextlib.suppress(StoreUnavailable):
        request()


def _fenced_or_cancelled(run: "asyncio.Task[None]") -> None:
    if not run.cancelled() and run.exception() is not None:
        assert isinstance(run.exception(), FencedError), run.exception()


def _rows(pairs: list[tuple[int, int]]) -> pa.Table:
    offsets, rows = zip(*pairs, strict=True)
    return pa.table({"topic_offset": pa.array(offsets, pa.uint64()), "row": pa.array(rows)})


async def _live_through(world: World) -> None:
    """Worker after worker until the log is landed and nothing is pending; then wait for zombies."""

    def done() -> bool:
        return world.committed == (world.end, "")

    while not done():
        await Worker(world).live(done=done)
    await asyncio.sleep(300)


def live_through(world: World) -> World:
    """Run a world to its end; whatever stops it is one of its problems."""
    try:
        run_virtually(_live_through(world), deadline_s=DEADLINE_S)
    except Exception as error:
        world.problems.append(repr(error))
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_row_lands_once_wherever_the_worker_dies(seed: int) -> None:
    """
    Goal: every row is in the table exactly once and the whole log is committed, although workers
    die or sleep before and after every effect, and the store refuses, forgets to answer, answers
    late or is away. At every commit, all rows before the committed offset have landed.
    """
    world = live_through(World(seed))
    assert world.verdict() == [], world.report()


@pytest.mark.parametrize("leg", ["token", "recovery", "fencing"])
def test_the_worlds_notice_when_a_leg_of_the_protocol_is_missing(leg: str) -> None:
    """A simulation that cannot fail proves nothing: without any one leg rows double or are lost."""
    worlds = (live_through(World(seed, **{leg: False})) for seed in range(SEEDS))
    hurt = next(
        (w for w in worlds if any("doubled" in p or "lost" in p for p in w.verdict())), None
    )
    assert hurt is not None, f"no world of {SEEDS} needs the {leg}"


def test_the_worlds_are_as_hard_as_they_claim() -> None:
    """Each kind of trouble occurs often, so that a green run means something."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS // 2):
        seen += live_through(World(seed)).seen
    kinds = [f"{kind} {when} a {what}" for kind in ("dies", "sleeps") for when in ("before", "after")
             for what in ("commit", "call")]  # fmt: skip
    kinds += ["refuses", "drops the reply", "is late", "away", "revoked"]
    kinds += ["recoveries", "fenced", "deduplicated", "posthumous requests"]
    assert {kind: seen[kind] for kind in kinds if seen[kind] < 5} == {}


def test_a_world_is_its_seed() -> None:
    """Otherwise a failure could not be replayed."""
    one, other = live_through(World(7)), live_through(World(7))
    assert one.history == other.history
    assert len(one.history) > 10
