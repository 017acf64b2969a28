"""
The learner of a shard in seeded worlds: it dies between any two effects, sleeps, and wakes up too late.

A world is one partition of examples, the offset commit of its group, the visible records of the
learners topic and a sequence of workers. Its seed decides everything, the clock that says when a
snapshot is due as well. Real are `streams.workers.learn.LearnState`, the signed snapshots and their
assembly; the broker is a few lines. What must come out is a state that took the same messages in one
go and knows of no crash.
"""

import functools
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from faust.types import TP

from models.hybrid import OnlineModel
from models.observer import PipelineObserver
from schemas.errors import ModelError, SetupError
from schemas.evaluations import read_evaluations
from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.workers import learn
from streams.workers.learn import LearnState
from streams.workers.learners import MODEL, OBSERVER, OFFER, Assembler
from tests.connected.learning import message
from tests.unit.test_learn import RING, shop

SEEDS = 40
CONTROLS = 15
SEEDS_SLOW = 1000
STEPS_MAX = 20
PLACE = TP("shop.examples", 0)
PIPELINE = shop()

message = functools.lru_cache(maxsize=None)(functools.partial(message, rows=4))


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot costs 20 ms by its own clock, so it is due again a second later, in every world."""
    ticks = itertools.count()
    clock = SimpleNamespace(thread_time=lambda: 0.02 * next(ticks))
    monkeypatch.setattr(learn, "time", clock)


class Crashed(Exception):
    """The worker is gone, and with it everything in its memory."""


def made(folder: Path, read_back, clock=lambda: 0.0) -> LearnState:
    return LearnState(
        PIPELINE, 0, make_model=lambda: OnlineModel(PIPELINE),
        observer=PipelineObserver(PIPELINE, 0), keyring=RING, read_back=read_back,
        reporter=Reporter(folder, "w", "learn"), clock=clock, timer=clock,
    )  # fmt: skip


def known(state: LearnState) -> tuple:
    """Weights, observer and rows learned."""
    return state.model.digest(), state._observer.snapshot(), state.model.learner.rows_learned


class World:
    """See above. ``atomic`` and ``fenced`` are what Kafka promises; controls take them away."""

    def __init__(
        self, seed: int, folder: Path, *, atomic: bool = True, fenced: bool = True
    ) -> None:
        self.dice, self.folder = Random(seed), folder
        self.atomic, self.fenced = atomic, fenced
        self.seen: Counter[str] = Counter()
        self.danger = self.dice.choice([0.02, 0.1, 0.3])
        self.values: list[bytes] = []
        self.offsets: list[int] = []
        self.end = 0
        self.now_s = 0.0
        self.committed = (0, "")
        self.topics: dict[str, list] = {}
        self.sleeper: list = []
        self.first = self.dice.randrange(10_000)

    def fault(self) -> bool:
        return self.dice.random() < self.danger

    def may_crash(self, where: str) -> None:
        if self.fault():
            self.seen[f"crash {where}"] += 1
            raise Crashed(where)

    def write(self) -> None:
        """Messages of a joiner; offsets have gaps where transactions end."""
        for _ in range(self.dice.randint(0, 2)):
            number = self.first + len(self.values)
            self.values.append(message(number) if self.dice.random() > 0.05 else b"no examples")
            self.offsets.append(self.end)
            self.end += 1 + self.dice.choice([0, 0, 1])

    def runs(self, first: int, end: int) -> list[Run]:
        """What lies between two offsets, cut anywhere: how must not matter."""
        places = [i for i, offset in enumerate(self.offsets) if first <= offset < end]
        cut, found = self.dice.choice([1, 2, 100]), []
        for low in range(0, len(places), cut):
            part = places[low : low + cut]
            behind = end if part[-1] == places[-1] else self.offsets[part[-1] + 1]
            values, offsets = ([of[i] for i in part] for of in (self.values, self.offsets))
            found.append(Run(PLACE, [None] * len(part), values, [0] * len(part), offsets, behind))
        return found

    # -- the worker

    def newest(self, _shard: int = 0):
        assembler = Assembler("shop", RING, wanted={MODEL, OBSERVER})
        records = self.topics.get("shop.learners", [])
        found = [assembler.take(key, value) for key, value in records]
        newest = next((snapshot for snapshot in reversed(found) if snapshot), None)
        return newest and replace(newest, epoch_newest=assembler.epoch(0))

    def start(self) -> LearnState:
        """A new owner: restore, read again what came after the snapshot, verify."""
        worker = made(self.folder, self.newest, lambda: self.now_s)
        end, text = self.committed
        (base,), turns = worker.restore(text)
        if text:
            for (after,) in turns:
                self.may_crash("in recovery")
                worker.turn([self.runs(base, after)])
                base = after
                self.seen["repeated turns"] += 1
            worker.verify()
        assert base == end
        self.seen["restored"] += bool(text)
        return worker

    def work(self, worker: LearnState) -> None:
        """One turn, and everything that can go wrong with it."""
        before = self.committed[0]
        ends = [offset + 1 for offset in self.offsets if offset >= before]
        if not ends:
            return
        self.now_s += self.dice.choice([0.0, 0.3, 0.3, 60.0])
        after = self.dice.choice([ends[-1], self.dice.choice(ends)])
        out = worker.turn([self.runs(before, after)])
        self.may_crash("before the record")
        text = worker.record((after,))
        if not self.atomic:
            self.show(out)
        if not self.sleeper and self.fault():  # a successor comes; this one wakes up much later
            self.sleeper = [worker]
            self.seen["asleep before its commit"] += 1
            raise Crashed
        self.may_crash("before the commit")
        if self.atomic:
            self.show(out)
        self.committed = (after, text)
        self.may_crash("after the commit")
        worker.committed()

    def show(self, out: list) -> None:
        for part in out:
            keys = part.keys or [None] * len(part.values)
            self.topics.setdefault(part.topic, []).extend(zip(keys, part.values, strict=True))

    def wake(self) -> None:
        """The sleeper computes on; the broker refuses whatever it sends, so nothing is shown."""
        (worker,) = self.sleeper
        self.sleeper = []
        more = [offset + 1 for offset in self.offsets if offset >= worker._record.end]
        if more:
            out = worker.turn([self.runs(worker._record.end, more[-1])])
            if not self.fenced:
                self.show(out)
        self.seen["woke up and was refused"] += 1

    def run(self) -> None:
        """Steps until the dice say so, then one worker that takes the rest."""
        worker = None
        for _ in range(self.dice.randint(5, STEPS_MAX)):
            self.write()
            if self.sleeper and self.dice.random() < 0.2:
                self.wake()
            try:
                worker = worker or self.start()
                self.work(worker)
            except Crashed:
                worker = None
        self.danger = 0.0
        worker = worker or self.start()
        while self.offsets and self.committed[0] <= self.offsets[-1]:
            self.work(worker)
        self.worker = worker

    # -- what must be

    def check(self) -> None:
        """State, evaluations, dead letters and every published snapshot are those of a clean run."""
        clean, out = made(self.folder, lambda _shard: None), []
        clean.restore("")
        at = {0: clean.model.digest()}
        for value, offset in zip(self.values, self.offsets, strict=True):
            out += clean.turn([[Run(PLACE, [None], [value], [0], [offset], offset + 1)]])
            at[offset + 1] = clean.model.digest()
        assert known(self.worker) == known(clean)
        wanted: dict[str, list] = {}
        for part in out:
            wanted.setdefault(part.topic, []).extend(part.values)
        for topic in ("shop.evaluations", "shop.dead_letters", "shop.alarms"):
            found = [value for _key, value in self.topics.get(topic, [])]
            if topic == "shop.evaluations":  # how a turn cuts them is free
                found, wanted[topic] = (
                    [row for value in values for row in read_evaluations(value).to_pylist()]
                    for values in (found, wanted.get(topic, []))
                )
            assert found == wanted.get(topic, []), topic
        self._follow(at)

    def _follow(self, at: dict[int, str]) -> None:
        """A scorer takes every snapshot and offer, and each is what was known at its position."""
        follower, position = Assembler("shop", RING, wanted={MODEL, OFFER}), -1
        for key, value in self.topics.get("shop.learners", []):
            snapshot = follower.take(key, value)
            if snapshot is None or snapshot.model is None:
                continue
            model = OnlineModel(PIPELINE)
            model.restore(snapshot.model)
            assert snapshot.header.position >= position, "a publication went back"
            position = snapshot.header.position
            assert model.digest() == at[position]
            self.seen["offers" if OFFER in snapshot.parts else "snapshots"] += 1


SLOW = [pytest.param(s, marks=pytest.mark.slow) for s in range(SEEDS // 20, SEEDS_SLOW // 20)]


@pytest.mark.parametrize("block", [*range(SEEDS // 20), *SLOW])
def test_whatever_dies_the_learner_knows_what_an_uninterrupted_one_knows(tmp_path, block):
    """Weights and observer bit by bit, evaluations and dead letters once each, offers in order."""
    seen: Counter[str] = Counter()
    for seed in range(block * 20, block * 20 + 20):
        world = World(seed, tmp_path)
        world.run()
        world.check()
        seen += world.seen
    assert seen.keys() >= {
        "crash before the record", "crash before the commit", "crash after the commit",
        "asleep before its commit", "woke up and was refused", "restored", "repeated turns",
        "snapshots", "offers",
    }, seen  # fmt: skip


def noticed(tmp_path: Path, **options: bool) -> int:
    """How many of the worlds notice."""
    count = 0
    for seed in range(CONTROLS):
        world = World(seed, tmp_path, **options)
        try:
            world.run()
            world.check()
        except (AssertionError, SetupError, ModelError):
            count += 1
    return count


@pytest.mark.parametrize("promise", ["atomic", "fenced"])
def test_without_what_kafka_promises_the_worlds_notice(tmp_path, promise):
    """Negative controls: records are visible though their offsets were not committed, or one that
    was replaced is not refused."""
    assert noticed(tmp_path, **{promise: False}) > CONTROLS // 10


def test_a_recovery_that_skips_what_came_after_the_snapshot_is_noticed(tmp_path, monkeypatch):
    """A planted error: the learner would miss examples that its offsets say it has learned."""
    restore = LearnState.restore

    def skipping(self, metadata):
        _base, _turns = restore(self, metadata)
        self._live = True
        return (self._record.end,), []

    monkeypatch.setattr(LearnState, "restore", skipping)
    monkeypatch.setattr(LearnState, "verify", lambda self: None)
    assert noticed(tmp_path) > CONTROLS // 10
