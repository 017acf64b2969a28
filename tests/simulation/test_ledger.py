"""
The label ledger in seeded worlds: joiners die between any two effects, sleep, and wake up too late.

A world is one pair of partitions, the offset commit of its group, the examples that are visible and
a sequence of workers. Its seed decides everything. Real are `streams.workers.join.Joiner`, its pointers and
its snapshot files; the broker is a few lines. What must come out is said by a naive ledger, one
record at a time with dicts, which takes the committed turns and knows of no crash.
"""

import bisect
import itertools
import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import fsspec
import pytest
import structlog
from faust.types import TP

from schemas.arrow import write_batch
from schemas.errors import SetupError
from schemas.examples import read_examples
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.workers import join
from streams.workers.join import Joiner
from tests.unit.ledger_rows import scored
from tests.unit.naive_ledger import NaiveLedger
from tests.unit.test_ledger_core import conserved, nonzero, plain, short

SEEDS = 60
SEEDS_SLOW = 600
STEPS_MAX = 60
DAY_MS = 86_400_000
BROKEN = [b"broken", b"{}", b'{"event_id": "e1", "value": 7, "label_time_ms": 1}']


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Scored messages that nobody can read are part of every world; each is a line in the log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


class Crashed(Exception):
    """The worker is gone, and with it everything in its memory."""


class Log:
    """One partition of one topic: offsets with gaps, as transaction markers leave them."""

    def __init__(self, name: str) -> None:
        self.tp = TP(name, 0)
        self.offsets: list[int] = []
        self.values: list[bytes] = []
        self.times_ms: list[int] = []
        self.meant: list[list] = []
        """What each record says, in words that no codec of ours has touched."""
        self.end = 0

    def append(self, value: bytes, time_ms: int, meant: list, *, gap: int) -> None:
        self.offsets.append(self.end)
        self.values.append(value)
        self.times_ms.append(time_ms)
        self.meant.append(meant)
        self.end += 1 + gap

    def between(self, first: int, end: int) -> range:
        return range(bisect.bisect_left(self.offsets, first), bisect.bisect_left(self.offsets, end))

    def runs(self, first: int, end: int, cut: int) -> list[Run]:
        """The records as runs of ``cut`` or less; how they are cut must not matter."""
        places, found = self.between(first, end), []
        for low in range(places.start, places.stop, cut):
            part = slice(low, min(low + cut, places.stop))
            offsets = self.offsets[part]
            behind = end if part.stop == places.stop else self.offsets[part.stop]
            keys = [b"k"] * len(offsets)
            found.append(
                Run(self.tp, keys, self.values[part], self.times_ms[part], offsets, behind)
            )
        return found


class World:
    """See above. ``atomic`` is what Kafka promises; a negative control takes it away."""

    def __init__(self, seed: int, tmp_path: Path, *, atomic: bool = True) -> None:
        self.random, self.atomic = Random(seed), atomic
        self.seen: Counter[str] = Counter()
        dice = self.random
        self.settings = Settings(
            home=tmp_path,
            ledger=f"memory://{uuid.uuid4()}",
            ledger_rows_max=dice.choice([3, 8, 1000]),
            ledger_bytes_max=dice.choice([1_000, 3_000, 1_000_000]),
            ledger_waiting_rows_max=dice.choice([1, 3, 1000]),
        )
        self.pipeline = self.declared()
        self.reporter = Reporter(tmp_path, "w", "join")
        self.logs = Log("s.scored"), Log("s.labels")
        self.committed = ((0, 0), "")
        self.visible: list[tuple] = []
        self.naive: NaiveLedger | None = None
        self.wanted: list[tuple] = []
        self.now_ms, self.sent = DAY_MS, 0
        self.sleeper: list = []
        self.danger = dice.choice([0.02, 0.1, 0.3])

    def declared(self) -> Pipeline:
        dice = self.random
        return Pipeline(
            name="s", key="k", features=[numeric("a"), numeric("b"), category("c")],
            target=label("y"), silence=dice.choice([None, 0, 1]),
            horizon=f"{dice.randint(1, 30)}s", corrections=f"{dice.randint(1, 40)}s",
        )  # fmt: skip

    def fault(self) -> bool:
        return self.random.random() < self.danger

    def may_crash(self, where: str) -> None:
        if self.fault():
            self.seen[f"crash {where}"] += 1
            raise Crashed(where)

    # -- what producers do

    def write(self) -> None:
        """Predictions and labels of few events, in every order, some of them broken."""
        dice = self.random
        self.now_ms += dice.choice([0, 500, 2_000, 2_000, 20_000])
        for _ in range(dice.randint(0, 3)):
            ids = [f"e{self.sent + dice.randint(-3, 2)}" for _ in range(dice.randint(1, 3))]
            rows = [(event_id, self.now_ms - dice.randint(0, 9_000)) for event_id in ids]
            batch = scored(rows, offset=self.sent, record_ms=self.now_ms)
            self.sent += len(rows)
            value, meant = write_batch(batch), plain(batch)
            if dice.random() < 0.05:
                value, meant = b"no scored rows", []
            self.logs[0].append(value, self.now_ms, meant, gap=dice.choice([0, 0, 1]))
        for _ in range(dice.randint(0, 5)):
            event_id = f"e{max(0, self.sent + dice.randint(-12, 4))}"
            value, revision = dice.choice([0, 1]), dice.choice([0, 0, 0, 1, 2])
            time_ms = max(0, self.now_ms + dice.randint(-9_000, 3_000))
            text = {"event_id": event_id, "value": value, "label_time_ms": time_ms}
            record = json.dumps(text | {"revision": revision}).encode()
            meant = [(event_id, float(value), time_ms, revision, self.now_ms)]
            if dice.random() < 0.05:
                record, meant = dice.choice(BROKEN), []
            for _ in range(dice.choice([1, 1, 1, 2])):  # a producer may send it twice
                self.logs[1].append(record, self.now_ms, meant, gap=dice.choice([0, 0, 2]))

    # -- what a worker does

    def start(self) -> Joiner:
        """A new owner: restore, repeat the recorded turns, verify."""
        if self.random.random() < 0.2:
            self.pipeline = self.declared()  # somebody has changed the declaration
        ticks = itertools.count()  # each turn works for one second
        worker = Joiner(
            self.pipeline, 0, self.settings, self.reporter, clock=lambda: float(next(ticks))
        )
        ends, text = self.committed
        before, turns = worker.restore(text)
        if text:
            for after in turns:
                self.may_crash("in recovery")
                worker.turn(self.taken(before, after))
                before = after
            worker.verify()
        assert before == ends
        self.seen["restored"] += bool(text)
        self.seen["replayed"] += len(turns)
        return worker

    def taken(self, before: tuple, after: tuple) -> list[list[Run]]:
        cut = self.random.choice([1, 2, 100])
        return [
            log.runs(first, end, cut)
            for log, first, end in zip(self.logs, before, after, strict=True)
        ]

    def work(self, worker: Joiner) -> None:
        """One turn, and everything that can go wrong with it."""
        before = self.committed[0]
        after = tuple(
            self.random.choice([first, log.end, log.end, self._somewhere(log, first)])
            for log, first in zip(self.logs, before, strict=True)
        )
        if after == before:
            return
        out = worker.turn(self.taken(before, after))
        self.may_crash("before the record")
        text = worker.record(after)
        if not self.atomic:
            self.show(out)
        if not self.sleeper and self.fault():  # a successor comes; this one wakes up much later
            self.sleeper = [worker, after]
            self.seen["sleeps before its commit"] += 1
            raise Crashed
        self.may_crash("before the commit")
        if self.atomic:
            self.show(out)
        self.expect(worker, before, after)
        self.committed = (after, text)
        if not self.sleeper and self.fault():
            self.sleeper = [worker, None]
            self.seen["sleeps after its commit"] += 1
            raise Crashed
        self.may_crash("after the commit")
        worker.committed()

    def _somewhere(self, log: Log, first: int) -> int:
        places = log.between(first, log.end)
        return log.offsets[self.random.choice(places)] if places else first

    def wake(self) -> None:
        """The sleeper goes on: its commit is refused by its generation, its files are its own."""
        if self.sleeper and self.random.random() < 0.2:
            worker, _ends = self.sleeper
            self.sleeper = []
            self.seen["woke up"] += 1
            if _ends is None:
                worker.committed()  # the sweep must leave what a successor wrote

    def show(self, out: list) -> None:
        values = [value for part in out for value in part.values]
        self.visible += [row for value in values for row in short(read_examples(value))]

    def expect(self, worker: Joiner, before: tuple, after: tuple) -> None:
        """Let the naive ledger take the turn that is committed now."""
        rules = join.rules_of(self.pipeline, self.settings)
        self.naive = self.naive or NaiveLedger(rules)
        self.naive.rules = rules
        predictions, labels = (
            [row for place in log.between(first, end) for row in log.meant[place]]
            for log, first, end in zip(self.logs, before, after, strict=True)
        )
        self.wanted += self.naive.turn(predictions, labels)
        counts = worker.ledger.counts()
        conserved(counts)
        assert nonzero(counts) == self.naive.counts()


def live_through(world: World) -> World:
    """To the end of its steps, and on until a worker has taken everything in."""
    worker, steps = None, 0
    while steps < STEPS_MAX or world.committed[0] != tuple(log.end for log in world.logs):
        steps += 1
        if steps == STEPS_MAX:
            world.danger = 0.0
        try:
            if steps < STEPS_MAX:
                world.write()
            worker = worker or world.start()
            world.work(worker)
            world.wake()
        except Crashed:
            worker = None
        assert steps < 10 * STEPS_MAX
    assert world.visible == world.wanted
    final = world.start()  # whoever comes next finds the same
    assert nonzero(final.ledger.counts()) == world.naive.counts()
    world.seen.update(nonzero(final.ledger.counts()))
    fsspec.filesystem("memory").rm(world.settings.ledger, recursive=True)
    return world


@pytest.mark.parametrize(
    "seed",
    [*range(SEEDS), *(pytest.param(n, marks=pytest.mark.slow) for n in range(SEEDS, SEEDS_SLOW))],
)
def test_the_ledger_is_that_of_a_world_without_crashes(seed: int, tmp_path, monkeypatch) -> None:
    """
    Goal: examples and balance are those of a naive ledger, wherever workers die or sleep.

    Method: see the top. Snapshots are due after few turns, so that some are written between any
    two crashes. Replay one failure with ``pytest -k "crashes[117]"``.
    """
    monkeypatch.setattr(join, "REPLAY_S_MAX", Random(seed).choice([1.0, 5.0, 1000.0]))
    monkeypatch.setattr(join, "SNAPSHOT_SHARE_MAX", 1.0)
    live_through(World(seed, tmp_path))


def test_the_worlds_contain_what_they_are_about(tmp_path, monkeypatch) -> None:
    """A simulation in which nothing happens proves nothing."""
    monkeypatch.setattr(join, "REPLAY_S_MAX", 5.0)
    monkeypatch.setattr(join, "SNAPSHOT_SHARE_MAX", 1.0)
    seen: Counter[str] = Counter()
    for seed in range(25):
        seen += live_through(World(seed, tmp_path)).seen
    assert seen.keys() >= {
        "crash in recovery", "crash before the record", "crash before the commit",
        "crash after the commit", "sleeps before its commit", "sleeps after its commit", "woke up",
        "restored", "replayed", "repeated", "joined", "confirmed", "duplicates", "late",
        "orphans_expired", "orphans_evicted", "provisional", "expired", "corrected", "evicted",
        "forgotten", "closed", "waiting",
    }  # fmt: skip


def test_without_a_transaction_examples_would_come_twice(tmp_path) -> None:
    """The simulation can fail: examples that leave before their offsets are sent again."""
    doubled = 0
    for seed in range(8):
        try:
            live_through(World(seed, tmp_path, atomic=False))
        except (AssertionError, SetupError):
            doubled += 1
    assert doubled > 4
