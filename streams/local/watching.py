"""Watches over the workers of a `LocalStack` and has those that stall started again."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Protocol, Self

import structlog

from schemas.errors import SetupError, TransientError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.books.lag import Behind, LagReader
from streams.local.watchdog import Watchdog
from streams.telemetry import Report, read_reports

ROLES = frozenset({"score", "join", "learn", "land"})
"""Who reports once a second and commits: the others may be busy for minutes without a word."""

LOOK_S = 1.0
LAG_S = 5.0
"""How often Kafka is asked how far the groups are: a few requests."""


class Replaceable(Protocol):
    """Who can end a worker so that it is started again."""

    def replace(self, name: str, pid: int, why: str) -> None:
        """Kill this process of the worker ``name``, if it is still the one."""


class Watching:
    """A thread of its own: a broker that does not answer must not keep the tree from its children.

    A stalled worker is named within `watchdog.SILENT_S_MAX` or `STUCK_S_MAX` plus `LAG_S`, so
    within 30 s, and starts again at once.
    """

    def __init__(
        self, tree: Replaceable, settings: Settings, pipelines: Sequence[Pipeline]
    ) -> None:
        """Describe it; nothing is watched yet."""
        self._tree, self._settings, self._pipelines = tree, settings, pipelines
        self._dog = Watchdog()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stop.set()
        self._thread.join(LAG_S + 5.0)

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        due_s = 0.0
        while not self._stop.is_set():
            now_s = time.monotonic()
            reports = [r for r in read_reports(self._settings.run_folder) if r.role in ROLES]
            self._replace(reports, self._dog.silent(now_s, reports))
            if now_s >= due_s:
                due_s = now_s + LAG_S
                await self._look_at_lag(now_s)
            await asyncio.sleep(LOOK_S)

    async def _look_at_lag(self, now_s: float) -> None:
        for pipeline in self._pipelines:
            behind: dict[str, list[Behind]] | None = None
            try:
                async with LagReader(self._settings) as reader:
                    behind = await reader.read(pipeline)
            except (TransientError, SetupError) as cause:
                _log.debug("lag not known", pipeline=pipeline.name, cause=str(cause))
            reports = read_reports(self._settings.run_folder)
            for role in sorted(ROLES):
                mine = [r for r in reports if (r.pipeline, r.role) == (pipeline.name, role)]
                known = None if behind is None else behind[role]
                self._replace(mine, self._dog.stuck(now_s, mine, known))

    def _replace(self, reports: Sequence[Report], stalled: dict[str, str]) -> None:
        pids = {report.name: report.pid for report in reports}
        for name, why in stalled.items():
            self._tree.replace(name, pids[name], why)


_log = structlog.get_logger(__name__)
