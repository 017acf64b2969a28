"""``make soak MINUTES=75``: everything runs for long, and what must not grow is measured.

Real servers, all workers, flights with broken, late and corrected records among them, another version
every ten minutes. Memory, open files and threads of every process, the lag of every step and the age of its
last commit are sampled; at the end the slope of each is judged after a warm-up, and the books and
the learner must be exact.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from scipy.stats import theilslopes

from schemas.errors import TransientError
from schemas.settings import Settings
from streams.books.lag import LagReader
from streams.store.client import connect
from tests.chaos.rounds.faults import swap
from tests.chaos.rounds.schedule import Schedule
from tests.chaos.rounds.traffic import Traffic
from tests.chaos.rounds.verdict import judge
from tests.chaos.rounds.world import PIPELINE, World

SAMPLE_S = 5.0
WARM_SHARE = 0.4
"""Part of the run that is not judged: caches fill, heaps find their size. Of 75 minutes 30: the store
has its last threads after 25 to 30."""
BLOCKS = 12
CONFIDENCE = 0.98
"""Of the interval of a slope, both sides: 1 % of what is level would seem to grow."""
GROWTH_SHARE_MAX = 0.01
"""Growth in an hour that is none: a hundredth of the mean."""
STEP_MIB = 2.0
"""Allocators take memory, and give it back, two megabytes at a time. A process that took one such piece
within the judged time has a line of about one piece in that time, and the interval is sure of it: no
sample before is as high as one after. A line of less than two says nothing; the longer the run, the less
memory an hour that is."""
PAGES = "MiB of files"
GROWTH_MAX = {"files": 4.0, "threads": 6.0, PAGES: float("inf")}
"""The same for what is counted: two connections more are no leak, one with each version is. Pages of
files are not judged: those of a program come when its code first runs, 40 MiB of the engine's between
its start and its first large merges and questions, and go when memory is wanted."""
TOKENS = 1_000
"""Inserts that each table remembers in the soak, so that this memory is full when it is judged. With
the 100,000 that a table has otherwise it fills for hours, with 220 bytes for each insert."""
SPARE = 1.25
"""Flights are wanted for so much longer than the run."""
LAG_RECORDS_MAX = 20_000
COMMIT_AGE_S_MAX = 30.0


@dataclass
class Series:
    """One quantity of one process or step over time."""

    name: str
    unit: str
    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at_s: float, value: float) -> None:
        """One sample."""
        self.at_s.append(at_s)
        self.values.append(value)

    @property
    def grows(self) -> bool:
        """Whether its slope after the warm-up is distinguishable from zero, and not tiny."""
        slope, lowest, mean = self.line()
        least = GROWTH_MAX.get(self.unit, GROWTH_SHARE_MAX * max(mean, 1.0))
        if self.unit == "MiB":
            least = max(least, 2 * STEP_MIB / self.judged_h)
        return lowest > 0 and slope > least

    @property
    def judged_h(self) -> float:
        """Hours after the warm-up."""
        return (self.at_s[-1] - self.at_s[self._first]) / 3600

    @property
    def _first(self) -> int:
        return int(len(self.values) * WARM_SHARE)

    def line(self) -> tuple[float, float, float]:
        """Slope per hour, the lower end of its interval, and the mean, after the warm-up.

        Theil and Sen's: the median of the slopes between all pairs, with Sen's interval (1968). Memory
        comes and goes in steps that stay for minutes. A line of least squares takes one step near
        an end for a slope, and what is level before and after it for certainty. Neighbouring
        samples depend on each other, so it is asked of the means of blocks.
        """
        first = self._first
        at_h, values = np.array(self.at_s[first:]) / 3600, np.array(self.values[first:])
        if len(values) < 2 * BLOCKS:
            return 0.0, -float("inf"), float(values.mean()) if len(values) else 0.0
        x, y = (
            np.array([block.mean() for block in np.array_split(of, BLOCKS)])
            for of in (at_h, values)
        )
        found = theilslopes(y, x, CONFIDENCE)
        return float(found.slope), float(found.low_slope), float(y.mean())


class Sampler:
    """Samples every process of a world and every step of its pipeline."""

    def __init__(self, world: World) -> None:
        """Nothing is sampled yet."""
        self.series: dict[str, Series] = {}
        self._world = world
        self._moved: dict[str, tuple[int, float]] = {}

    async def sample(self, at_s: float) -> None:
        """Once."""
        world = self._world
        pids = {**world.tree.pids, "store": world.store.pid}
        pids |= {f"broker-{i}": broker.pid for i, broker in enumerate(world.brokers)}
        for name, pid in pids.items():
            try:
                process = psutil.Process(pid)
                memory = process.memory_info()
                self._add(f"{name} memory", "MiB", at_s, (memory.rss - memory.shared) / 2**20)
                self._add(f"{name} pages", PAGES, at_s, memory.shared / 2**20)
                self._add(f"{name} open files", "files", at_s, _open_files(process))
                self._add(f"{name} threads", "threads", at_s, process.num_threads())
            except psutil.Error:
                continue
        try:
            async with LagReader(world.settings) as reader:
                behind = await reader.read(PIPELINE)
        except TransientError:
            return
        for role, places in behind.items():
            done, lag = sum(p.committed or 0 for p in places), sum(p.lag for p in places)
            before, moved_s = self._moved.get(role, (-1, at_s))
            self._moved[role] = (done, at_s if done != before or not lag else moved_s)
            self._add(f"{role} lag", "records", at_s, lag)
            self._add(f"{role} commit age", "s", at_s, at_s - self._moved[role][1])

    def _add(self, name: str, unit: str, at_s: float, value: float) -> None:
        self.series.setdefault(name, Series(name, unit)).add(at_s, value)

    def complaints(self) -> list[str]:
        """What grew, or was larger than it may be."""
        found = []
        for series in self.series.values():
            if not series.name.startswith("broker") and series.grows:
                slope, lowest, _mean = series.line()
                found.append(
                    f"{series.name} grows by {slope:.2f} {series.unit} an hour, by {lowest:.2f} at least"
                )
            limit = {"records": LAG_RECORDS_MAX, "s": COMMIT_AGE_S_MAX}.get(series.unit)
            if limit is not None and max(series.values) > limit:
                found.append(f"{series.name} reached {max(series.values):.0f} {series.unit}")
        return found


@click.command()
@click.option("--minutes", type=float, default=75.0, show_default=True)
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--rate", type=float, default=100.0, show_default=True, help="Events a second.")
@click.option("--swap-minutes", type=float, default=10.0, show_default=True)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write every sample here.")
def main(minutes: float, seed: int, rate: float, swap_minutes: float, report: Path | None) -> None:
    """Run everything for MINUTES and judge what grew; exit code 0 only if nothing did.

    \b
    Example:
      python -m tests.chaos.soak --minutes 75
    """
    out = Console(width=120)
    world = World(Path(tempfile.mkdtemp(prefix="tidemill-soak-")), Schedule(0, 1, str(seed), ()))
    swaps = 0
    with world.running():
        _remember_little(world.settings)
        sampler = Sampler(world)
        traffic = _traffic(world, minutes, seed, rate, out)
        traffic.start()
        began = time.monotonic()
        while (at_s := time.monotonic() - began) < minutes * 60:
            traffic.check()
            asyncio.run(sampler.sample(at_s))
            if at_s > (swaps + 1) * swap_minutes * 60:
                swap(world, swaps)
                swaps += 1
                out.print(f"{at_s / 60:.0f} min: version {swaps} announced", highlight=False)
            time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - began - at_s)))
        if report:
            report.write_bytes(msgspec.json.encode([vars(s) for s in sampler.series.values()]))
        traffic.stop()
        verdict = judge(world, traffic)
    complaints = sampler.complaints()
    _print(out, sampler, minutes=minutes, swaps=swaps)
    out.print(f"exact: {verdict.exact}; {verdict.books.events} events; learner: "
              f"{verdict.learner or 'as a replay'}", highlight=False)  # fmt: skip
    for complaint in complaints:
        out.print(f"[red]{complaint}[/red]")
    sys.exit(0 if verdict.exact and not complaints else 1)


def _open_files(process: psutil.Process) -> int:
    """Without those below /proc, of which the store holds three for each thread."""
    kept = sum(file.path.startswith("/proc/") for file in process.open_files())
    return process.num_fds() - kept


def _remember_little(settings: Settings) -> None:
    client = connect(settings)
    tables = (
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND create_table_query"
    )
    for (name,) in client.query(f"{tables} LIKE '%deduplication_window%'").result_rows:
        client.command(
            f"ALTER TABLE `{name}` MODIFY SETTING non_replicated_deduplication_window = {TOKENS}"
        )


def _traffic(world: World, minutes: float, seed: int, rate: float, out: Console) -> Traffic:
    """Flights for all of the time; there are so many and no more, so maybe fewer a second."""
    wanted_s = minutes * 60 * SPARE
    events = int(rate * wanted_s)
    traffic = Traffic(PIPELINE, world.settings, str(seed), rate, events)
    if traffic.lasts_s < wanted_s - 1.0:
        rate *= traffic.lasts_s / wanted_s
        out.print(f"{rate:.0f} events a second, so that the flights last", highlight=False)
        traffic = Traffic(PIPELINE, world.settings, str(seed), rate, events)
    return traffic


def _print(out: Console, sampler: Sampler, *, minutes: float, swaps: int) -> None:
    table = Table(title=f"{minutes:.0f} minutes, {swaps} swaps", title_justify="left")
    for name in ("what", "unit", "mean", "largest", "slope an hour", "at least", "grows"):
        table.add_column(name, justify="left" if name in {"what", "unit"} else "right")
    for series in sampler.series.values():
        slope, lowest, _mean = series.line()
        table.add_row(
            series.name, series.unit, f"{statistics.fmean(series.values):.1f}",
            f"{max(series.values):.1f}", f"{slope:+.2f}", f"{lowest:+.2f}",
            "yes" if series.grows else "no",
        )  # fmt: skip
    out.print(table)


if __name__ == "__main__":
    main()
