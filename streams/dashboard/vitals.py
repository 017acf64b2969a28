"""What runs and how far it is: the reports of the processes, and Kafka's offsets.

Asked once for all viewers: an answer is kept for a second, and while one is on its way nobody else
asks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from schemas.errors import TidemillError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.books.lag import Behind, LagReader
from streams.control.announce import champion
from streams.telemetry import REPORT_AGE_S_MAX, Report, read_reports

KEPT_S = 0.9
RATE_WINDOW_S = 5.0
"""Rates are means over this long: reports come once a second, drains do not."""
SAMPLES_MAX = 12

_WORK = {
    "score": ("predictions", "dead_letters"),
    "join": ("examples",),
    "learn": ("examples_learned",),
    "land": ("rows_scored", "rows_labels", "rows_examples", "rows_dead_letters",
             "rows_evaluations", "rows_alarms"),
}  # fmt: skip
"""Counters that say how much a role has done."""


class Vitals:
    """Keeps one connection to Kafka while somebody asks, and the last few counts for rates."""

    def __init__(self, settings: Settings) -> None:
        """Name the stack; nothing is asked yet."""
        self._settings = settings
        self._lag_reader: LagReader | None = None
        self._turn = asyncio.Lock()
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._announced: dict[str, tuple[float, Any]] = {}
        self._announcing = asyncio.Lock()
        self._counts: dict[tuple[str, int], deque[tuple[float, float]]] = {}
        self._ends: dict[str, deque[tuple[float, float]]] = {}
        self._moved: dict[tuple[str, str, int], tuple[int | None, float]] = {}

    async def close(self) -> None:
        """Let go of Kafka."""
        if self._lag_reader is not None:
            reader, self._lag_reader = self._lag_reader, None
            await reader.__aexit__()

    def reports(self) -> list[dict[str, Any]]:
        """Every process of this home, as it last spoke of itself; reads a few small files."""
        now_ms = time.time() * 1000
        return [self._report(report, now_ms) for report in read_reports(self._settings.run_folder)]

    def processes(self) -> list[dict[str, Any]]:
        """`reports` as a table for people."""
        return [
            {
                "process": one["name"],
                "state": one["state"],
                "for": one["since_s"],
                "records/s": one["per_s"],
                "did": one["done"],
                "CPU s": one["cpu_s"],
                "restarts": one["restarts"],
                "spoke, s ago": one["age_s"],
                "why": one["detail"],
            }
            for one in self.reports()
        ]

    def _report(self, report: Report, now_ms: float) -> dict[str, Any]:
        age_s = (now_ms - report.updated_at_ms) / 1000
        stale = age_s > REPORT_AGE_S_MAX
        return {
            "name": report.name,
            "role": report.role,
            "pipeline": report.pipeline,
            "state": "silent" if stale else report.state,
            "detail": f"silent for {age_s:.0f} s" if stale else report.detail,
            "since_s": max(0, round((now_ms - report.since_ms) / 1000)),
            "age_s": round(age_s, 1),
            "restarts": int(report.counters.get("restarts", 0)),
            "cpu_s": round(report.counters["cpu_s"]) if "cpu_s" in report.counters else None,
            "done": _done(report),
            "per_s": self._rate(report),
        }

    async def flow(self, pipeline: Pipeline) -> dict[str, Any]:
        """Rate and lag of each step, and what comes in.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        behind = await self.behind(pipeline)
        processes = [p for p in self.reports() if p["pipeline"] == pipeline.name]
        steps: dict[str, Any] = {}
        for role, partitions in behind.items():
            mine = [p for p in processes if p["role"] == role]
            lag = sum(one["lag"] for one in partitions)
            steps[role] = {
                "lag": lag,
                "per_s": round(sum(p["per_s"] for p in mine), 1),
                "state": _state(mine),
                "detail": "; ".join(p["detail"] for p in mine if p["detail"]),
                "processes": len(mine),
                "lag_per_s": self._slope(f"{pipeline.name}/lag/{role}", lag),
            }
        topics = pipeline.topics
        arriving = {
            name: self._arriving(pipeline, topic.name, behind)
            for name, topic in (("events", topics.events), ("labels", topics.labels))
        }
        return {"steps": steps, "arriving": arriving}

    async def partitions(self, pipeline: Pipeline) -> list[dict[str, Any]]:
        """`behind` as a table: a row per step and topic, a column per partition.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for role, partitions in (await self.behind(pipeline)).items():
            for one in partitions:
                start = {"step": role, "topic": one["topic"], "waiting": 0, "stands still": 0.0}
                row = rows.setdefault((role, one["topic"]), start)
                row["waiting"] += one["lag"]
                row["stands still"] = max(row["stands still"], one["still_s"])
                row[f"p{one['partition']}"] = one["lag"]
        return list(rows.values())

    async def announced(self, name: str) -> dict[str, Any] | None:
        """What was last announced for the pipeline ``name``; None before the first.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        async with self._announcing:
            kept = self._announced.get(name)
            if kept is not None and time.monotonic() - kept[0] < KEPT_S:
                told: dict[str, Any] | None = kept[1]
                return told
            found = await champion(self._settings, name)
            told = None if found is None else msgspec.to_builtins(found)
            self._announced[name] = time.monotonic(), told
            return told

    def forget(self, name: str) -> None:
        """What is kept of ``name`` is old: something was announced."""
        self._announced.pop(name, None)

    async def behind(self, pipeline: Pipeline) -> dict[str, list[dict[str, Any]]]:
        """Every partition of every step, with the seconds since its offset last moved.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        async with self._turn:
            kept = self._kept.get(pipeline.name)
            if kept is not None and time.monotonic() - kept[0] < KEPT_S:
                return kept[1]
            try:
                if self._lag_reader is None:
                    self._lag_reader = await LagReader(self._settings).__aenter__()
                found = await self._lag_reader.read(pipeline)
            except BaseException:
                await self.close()
                self._kept.pop(pipeline.name, None)
                raise
            now = time.monotonic()
            told = {
                role: [self._told(role, one, now) for one in partitions]
                for role, partitions in found.items()
            }
            self._kept[pipeline.name] = now, told
            return told

    def _told(self, role: str, one: Behind, now: float) -> dict[str, Any]:
        """With how long the offset has stood still although there is something to read."""
        place = role, one.topic, one.partition
        before, since = self._moved.get(place, (one.committed, now))
        if before != one.committed or one.lag == 0:
            since = now
        self._moved[place] = one.committed, since
        return {**msgspec.to_builtins(one), "still_s": round(now - since, 1)}

    def _arriving(
        self, pipeline: Pipeline, topic: str, behind: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> dict[str, float]:
        ends = [one["end"] for one in behind["score"] if one["topic"] == topic]
        return {"per_s": max(0.0, self._slope(topic, float(sum(ends)))), "total": sum(ends)}

    def _slope(self, name: str, value: float) -> float:
        return _slope(self._ends.setdefault(name, deque(maxlen=SAMPLES_MAX)), time.time(), value)

    def _rate(self, report: Report) -> float:
        done = float(sum(report.counters.get(name, 0) for name in _WORK.get(report.role, ())))
        samples = self._counts.get((report.name, report.pid))
        if samples is None:
            for old in [key for key in self._counts if key[0] == report.name]:
                del self._counts[old]  # the process was started again
            samples = self._counts[report.name, report.pid] = deque(maxlen=SAMPLES_MAX)
        return max(0.0, _slope(samples, report.updated_at_ms / 1000, done))


def _slope(samples: deque[tuple[float, float]], at_s: float, value: float) -> float:
    """Change per second over the last `RATE_WINDOW_S`; 0 with less than two samples."""
    if samples and at_s - samples[-1][0] > 2 * RATE_WINDOW_S:
        samples.clear()  # nobody has looked for a while
    if not samples or at_s > samples[-1][0]:
        samples.append((at_s, value))
    while len(samples) > 2 and samples[-1][0] - samples[1][0] >= RATE_WINDOW_S:
        samples.popleft()
    (first_s, first), (last_s, last) = samples[0], samples[-1]
    return round((last - first) / (last_s - first_s), 1) if last_s - first_s >= 0.5 else 0.0


def _state(processes: Sequence[Mapping[str, Any]]) -> str:
    """The worst of several; ``missing`` without one."""
    states = {process["state"] for process in processes}
    order = ("failed", "silent", "waiting", "starting", "stopping", "running")
    return next((state for state in order if state in states), "missing")


def _done(report: Report) -> str:
    parts = [
        f"{report.counters[name]:,.0f} {name.removeprefix('rows_').replace('_', ' ')}"
        for name in _WORK.get(report.role, ())
        if report.counters.get(name)
    ]
    return ", ".join(parts)


def unavailable(error: BaseException) -> str:
    """What to show a person for ``error``."""
    return str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
