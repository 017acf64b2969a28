"""Whether a round was exact: the books of `tidemill reconcile`, and the learner against a clean replay."""

import asyncio
import time
from dataclasses import dataclass, field

from streams.books.reconcile import Reconciliation
from streams.cli.reconcile import run_reconcile
from tests.chaos.rounds.traffic import Traffic
from tests.chaos.rounds.world import PIPELINE, World
from tests.connected.learning import compared

SETTLE_S_MAX = 180.0
LEARNED_S_MAX = 240.0
MORE_EVENTS, ASKED_AGAIN = 40, 4
"""A learner publishes with what it learns: so it gets something, and time for it."""


@dataclass
class Verdict:
    """What was found when a round was over.

    Attributes:
        books: The reconciliation.
        learner: Empty if every shard knows bit by bit what a replay of its examples gives, and all of
            them.
        troubles: What the round itself could not do.
    """

    books: Reconciliation
    learner: str
    rows_learned: int
    troubles: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Nothing lost, doubled or unexplained, and the same weights."""
        return self.books.exact and not self.learner and not self.troubles

    @property
    def lost(self) -> int:
        """Records that are missing somewhere."""
        ledger = self.books.ledger
        missing = sum(f.count for f in self.books.findings if not f.what.startswith("second"))
        return missing + (ledger.missing if ledger else 0)

    @property
    def doubled(self) -> int:
        """Records that are there twice."""
        return sum(f.count for f in self.books.findings if f.what.startswith("second"))


def judge(world: World, traffic: Traffic) -> Verdict:
    """Wait until nothing is on its way, then compare."""
    learner, rows = _learner(world, traffic)
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        books = run_reconcile(PIPELINE, world.settings)
        settled = books.exact or (books.findings and not books.waiting)
        if settled or time.monotonic() > deadline:
            return Verdict(books, learner, rows, world.troubles)
        time.sleep(1.0)


def _learner(world: World, traffic: Traffic) -> tuple[str, int]:
    deadline, said, rows = time.monotonic() + LEARNED_S_MAX, "", 0
    while time.monotonic() < deadline:
        traffic.more(MORE_EVENTS)
        for _ in range(ASKED_AGAIN):  # what was sent is still on its way through three stages
            time.sleep(2.0)
            said, rows = asyncio.run(compared(world.settings, PIPELINE))
            if not said:
                return "", rows
    return said, rows
