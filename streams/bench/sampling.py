"""CPU time of processes over a window that is chosen afterwards."""

import bisect
import math
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import psutil

from schemas.errors import SetupError

SAMPLE_S = 0.1
EDGE = 0.05
"""Share of the rows left out at each end: start-up, and the tail of the last small batches."""


class Yardstick:
    """The same small loop again and again: how much CPU time does it take now, and at its best?

    A core shared with other work (hyper-threads, caches, clock) makes every program take more CPU
    time, not only more time. The ratio says how much of a figure is the machine's.
    """

    best_s = math.inf

    @classmethod
    def measure(cls) -> float:
        """CPU seconds of one loop, about 1 ms."""
        started = time.thread_time()
        for value in range(4_000):
            _LOOP[value & 1023] = (value * value) % 1013
        taken = time.thread_time() - started
        cls.best_s = min(cls.best_s, taken)
        return taken


_LOOP: dict[int, int] = dict.fromkeys(range(1024), 0)


class Window(NamedTuple):
    """Rows that were worked on between two moments (Unix seconds)."""

    start_s: float
    stop_s: float
    rows: int

    @property
    def rows_per_s(self) -> float:
        """The rate of this window."""
        return self.rows / max(1e-9, self.stop_s - self.start_s)


def window(stamps: Sequence[tuple[float, int]], *, edge: float = EDGE) -> Window:
    """The middle of a run, from batches with the moment at which each was begun.

    Between the beginning of one batch and the beginning of a later one lie exactly the rows of the
    first and of those between them.

    Raises:
        SetupError: there are too few batches for that.
    """
    total = sum(rows for _, rows in stamps)
    before, count = [], 0
    for _, rows in stamps:
        before.append(count)
        count += rows
    first = bisect.bisect_left(before, edge * total)
    last = bisect.bisect_right(before, (1 - edge) * total) - 1
    if last <= first:
        raise SetupError(
            f"could not measure a rate: {len(stamps)} batches are too few; give more with --rows."
        )
    return Window(stamps[first][0], stamps[last][0], before[last] - before[first])


@dataclass
class Sampler:
    """Samples CPU time (user and system, all threads) and resident memory of some processes.

    Of those in ``trees`` the processes that they started count too, as long as they live.
    """

    pids: Mapping[str, int]
    trees: Sequence[str] = ()
    interval_s: float = SAMPLE_S
    times_s: list[float] = field(default_factory=list)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    resident: dict[str, list[float]] = field(default_factory=dict)
    loops_s: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._processes = {name: psutil.Process(pid) for name, pid in self.pids.items()}
        self.cpu_s = {name: [] for name in self.pids}
        self.resident = {name: [] for name in self.pids}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.times_s.append(time.time())
            for name, process in self._processes.items():
                try:
                    tree = process.children(recursive=True) if name in self.trees else []
                    used = [p.cpu_times() for p in (process, *tree)]
                    self.resident[name].append(
                        sum(p.memory_info().rss for p in (process, *tree)) / 2**20
                    )
                    self.cpu_s[name].append(sum(one.user + one.system for one in used))
                except psutil.Error:  # it has ended: nothing more is used
                    self.cpu_s[name].append(self.cpu_s[name][-1] if self.cpu_s[name] else 0.0)
                    del self.resident[name][len(self.cpu_s[name]) - 1 :]
                    self.resident[name].append(0.0)
            self.loops_s.append(Yardstick.measure())
            self._stop.wait(self.interval_s)

    def cpu_us(self, name: str, over: Window) -> float:
        """CPU-us per row of one process over a window."""
        used = self._at(name, over.stop_s) - self._at(name, over.start_s)
        return used / over.rows * 1e6

    @property
    def slowdown(self) -> float:
        """CPU time that a fixed loop took during the samples, over its best of this whole run."""
        return float(statistics.mean(self.loops_s) / Yardstick.best_s)

    def cores(self, name: str, over: Window) -> float:
        """Share of one core that a process had over a window."""
        return self.cpu_us(name, over) * over.rows_per_s / 1e6

    def _at(self, name: str, moment_s: float) -> float:
        """CPU seconds at a moment, between two samples by a straight line."""
        values = self.cpu_s[name]
        right = bisect.bisect_left(self.times_s, moment_s)
        if right == 0 or right >= len(values):
            return values[min(right, len(values) - 1)]
        t0, t1 = self.times_s[right - 1], self.times_s[right]
        share = (moment_s - t0) / max(1e-9, t1 - t0)
        return values[right - 1] + share * (values[right] - values[right - 1])


def machine_cores_busy_elsewhere(pids: Sequence[int], seconds: float = 1.0) -> float:
    """Cores that other processes are using right now: what the figures suffer from."""
    own = [psutil.Process(pid) for pid in pids]
    before = sum(sum(p.cpu_times()[:2]) for p in own)
    busy = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    return max(0.0, float(busy - (sum(sum(p.cpu_times()[:2]) for p in own) - before) / seconds))


def thread_cpu_s(pid: int) -> Counter[str]:
    """CPU seconds of a process by the first letters of its threads' names (Linux only)."""
    ticks: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            text = task.read_text(encoding="utf-8")
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        user, system = rest.split()[11:13]
        ticks[name.rstrip("0123456789- #")] += int(user) + int(system)
    per_s = os.sysconf("SC_CLK_TCK")
    return Counter({name: used / per_s for name, used in ticks.items()})


@dataclass(frozen=True, slots=True)
class Race:
    """What a rival did: rows over time by its own account, CPU by ours.

    Attributes:
        rows: All it worked on.
        size: Bytes of their values.
        over: The middle of its run.
        cpu_us: CPU-us per row of its process over that window.
        broker_cpu_us: The broker's.
        resident_mib: Its largest resident memory.
    """

    rows: int
    size: int
    over: Window
    cpu_us: float
    broker_cpu_us: float
    resident_mib: float

    @classmethod
    def read(cls, file: Path, sampler: Sampler, who: str) -> Self:
        """From the file that the rival left."""
        found = msgspec.json.decode(file.read_bytes())
        points, total = found["points"], found["rows"]
        low, high = EDGE * total, (1 - EDGE) * total
        first = next(i for i, point in enumerate(points) if point[1] >= low)
        last = max(i for i, point in enumerate(points) if point[1] <= max(high, points[0][1]))
        assert last > first, f"{len(points)} batches of {who} are too few: give more rows"
        (start_s, rows0, cpu0), (stop_s, rows1, cpu1) = points[first], points[last]
        over = Window(start_s, stop_s, rows1 - rows0)
        return cls(
            total,
            found["bytes"],
            over,
            (cpu1 - cpu0) / over.rows * 1e6,
            sampler.cpu_us("broker", over),
            max(sampler.resident[who]),
        )

    def row(self, who: str, **more: Any) -> dict[str, Any]:
        """One line of a result."""
        return {
            "who": who,
            **more,
            "rows": self.rows,
            "rows_per_s": round(self.over.rows_per_s),
            "cpu_us_per_event": round(self.cpu_us, 2),
            "broker_cpu_us_per_event": round(self.broker_cpu_us, 2),
            "resident_mib_max": round(self.resident_mib),
        }
