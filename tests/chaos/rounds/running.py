"""One round from its first process to its verdict."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.rounds.faults import Outcome, bring_about
from tests.chaos.rounds.schedule import Schedule
from tests.chaos.rounds.traffic import Traffic
from tests.chaos.rounds.verdict import Verdict, judge
from tests.chaos.rounds.world import PIPELINE, World

EVENTS_MAX = 250_000


@dataclass
class Round:
    """What a round was and what came of it."""

    schedule: Schedule
    verdict: Verdict | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def exact(self) -> bool:
        """It ended, and everything was exact."""
        return self.verdict is not None and self.verdict.exact and not self.error

    @property
    def summary(self) -> str:
        """One line."""
        if self.error or self.verdict is None:
            return f"did not end: {self.error}"
        verdict, books = self.verdict, self.verdict.books
        if self.exact:
            return (
                f"exact: {books.events} events, {books.dead_letters} dead letters, "
                f"{books.labels} labels, {verdict.rows_learned} rows learned, "
                f"{sum(self.kills.values())} kills"
            )
        return (
            f"not exact: {books}; learner: {verdict.learner or 'as it must be'}; {verdict.troubles}"
        )

    def cells(self) -> list[str]:
        """A row of the table."""
        schedule, verdict = self.schedule, self.verdict
        start = [str(schedule.number), str(schedule.brokers), str(len(schedule.steps)),
                 str(sum(self.kills.values()))]  # fmt: skip
        if verdict is None:
            return [*start, *["?"] * 5, "no"]
        ledger = verdict.books.ledger
        said = (
            "none" if ledger is None else "exact" if ledger.exact else f"{ledger.missing} missing"
        )
        return [
            *start, str(verdict.books.events), str(verdict.lost), str(verdict.doubled), said,
            "differs" if verdict.learner else "exact", "yes" if verdict.exact else "NO",
        ]  # fmt: skip


def run_round(
    folder: Path, schedule: Schedule, *, rate: float, say: Callable[[str], None]
) -> Round:
    """Start everything in ``folder``, bring the faults about, judge; never raises for a worker's
    fault: what went wrong is in the `Round`."""
    result = Round(schedule)
    world = World(folder, schedule, result.kills)
    try:
        with world.running():
            traffic = Traffic(PIPELINE, world.settings, schedule.seed, rate, EVENTS_MAX)
            traffic.start()
            try:
                result.outcomes += bring_about(world, schedule, say)
            finally:
                traffic.stop()
            world.await_all()
            say("judging")
            result.verdict = judge(world, traffic)
    except Exception as cause:
        result.error = f"{type(cause).__name__}: {cause}"
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    return result
