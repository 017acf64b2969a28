"""Where the numbers come from: Kafka's offsets, the store, the reports of processes, the runner.

Each number is had or it is not; one that is not says why and spoils no other.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from schemas.errors import TidemillError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.alerts.core import Asked, Key, Reading
from streams.alerts.questions import question
from streams.books.lag import Behind, LagReader
from streams.store.asking import Asker
from streams.telemetry import REPORT_AGE_S_MAX, read_reports

ROUND_S_MAX = 60.0
"""How long one look may take altogether; what is not known then counts as not to be had."""
ERROR_LENGTH_MAX = 300
OF_KAFKA = ("lag", "score_lag", "join_lag", "learn_lag", "land_lag", "commit_age_s")


class CommitAges:
    """Since when each partition has stood still although records wait, as far as was seen here."""

    def __init__(self) -> None:
        self._moved: dict[tuple[str, str, str, int], tuple[int | None, float]] = {}

    def age_s(self, pipeline: str, role: str, one: Behind, now_s: float) -> float:
        """Seconds; 0 if nothing waits."""
        place = pipeline, role, one.topic, one.partition
        before, since = self._moved.get(place, (one.committed, now_s))
        if before != one.committed or one.lag == 0:
            since = now_s
        self._moved[place] = one.committed, since
        return now_s - since


def of_kafka(
    pipeline: str, behind: Mapping[str, Sequence[Behind]], ages: CommitAges, now_s: float
) -> dict[str, Reading]:
    """The figures that follow from offsets."""
    lags = {role: float(sum(one.lag for one in all_)) for role, all_ in behind.items()}
    found = {f"{role}_lag": Reading(value=lag) for role, lag in lags.items()}
    furthest = max(lags, key=lags.__getitem__)
    found["lag"] = Reading(value=lags[furthest], detail=f"before step {furthest}")
    oldest = max(
        (
            (ages.age_s(pipeline, role, one, now_s), f"step {role}, {one.topic}/{one.partition}")
            for role, all_ in behind.items()
            for one in all_
        ),
        default=(0.0, ""),
    )
    found["commit_age_s"] = Reading(value=oldest[0], detail=oldest[1] if oldest[0] else "")
    return found


def of_processes(settings: Settings, now_ms: int) -> Reading:
    """How many processes of this home failed or are silent, and which."""
    bad = [
        f"{report.name} {'is silent' if stale else f'failed: {report.detail}'}"
        for report in read_reports(settings.run_folder)
        if (stale := now_ms - report.updated_at_ms > REPORT_AGE_S_MAX * 1000)
        or report.state == "failed"
    ]
    return Reading(value=float(len(bad)), detail="; ".join(bad)[:ERROR_LENGTH_MAX])


class Readings:
    """Asks for numbers; keeps its connections. Use it as an asynchronous context manager.

    Nothing is raised for a server that does not answer: that is a reading. ``ticks`` are seconds
    that never go back.
    """

    def __init__(
        self,
        settings: Settings,
        pipelines: Iterable[Pipeline],
        *,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ticks = ticks
        self._settings = settings
        self._pipelines = {one.name: one for one in pipelines}
        self._asker = Asker(settings)
        self._lag_reader: LagReader | None = None
        self._ages = CommitAges()
        self._down_s: dict[str, float] = {}
        self._why: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._asker.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._let_go()
        await self._asker.__aexit__(*reason)

    async def read(
        self, asked: Sequence[Asked], given: Mapping[Key, Reading]
    ) -> dict[Key, Reading]:
        """The reading of each of ``asked`` that anybody knows; ``given`` are those of others.

        Keys of ``given`` are a pipeline and a figure.
        """
        figures = dict(given)
        wanted = {one.pipeline for one in asked} & set(self._pipelines)
        try:
            async with asyncio.timeout(ROUND_S_MAX):
                for name in sorted(wanted) or list(self._pipelines)[:1]:
                    figures |= await self._ask_kafka(self._pipelines[name])
                await self._ask_store()
                answers = await self._answers(asked)
        except TimeoutError:
            answers = {}
        stack = {
            "kafka_down_s": self._down("kafka"),
            "store_down_s": self._down("store"),
            "failed_processes": of_processes(self._settings, time.time_ns() // 1_000_000),
        }
        late = Reading(error=f"the look took more than {ROUND_S_MAX:.0f} s")
        found = {}
        for one in asked:
            place = one.pipeline, one.rule.figure
            if question(one.rule, one.pipeline):
                found[one.key] = answers.get(one.key, late)
            elif one.rule.figure in stack:
                found[one.key] = stack[one.rule.figure]
            elif place in figures:
                found[one.key] = figures[place]
            elif one.rule.figure in OF_KAFKA:
                found[one.key] = late
        return found

    @property
    def store_down(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return "store" in self._down_s

    @property
    def kafka_down(self) -> bool:
        """Whether Kafka did not."""
        return "kafka" in self._down_s

    async def _ask_kafka(self, pipeline: Pipeline) -> dict[Key, Reading]:
        try:
            if self._lag_reader is None:
                self._lag_reader = await LagReader(self._settings).__aenter__()
            behind = await self._lag_reader.read(pipeline)
        except (TidemillError, OSError) as cause:
            await self._let_go()
            self._failed("kafka", cause)
            return {(pipeline.name, one): Reading(error=short(cause)) for one in OF_KAFKA}
        self._answered("kafka")
        found = of_kafka(pipeline.name, behind, self._ages, self._ticks())
        return {(pipeline.name, name): reading for name, reading in found.items()}

    async def _let_go(self) -> None:
        if self._lag_reader is not None:
            reader, self._lag_reader = self._lag_reader, None
            await reader.__aexit__()

    async def _ask_store(self) -> None:
        try:
            await self._asker.ask("SELECT 1")
        except TidemillError as cause:
            self._failed("store", cause)
        else:
            self._answered("store")

    async def _answers(self, asked: Sequence[Asked]) -> dict[Key, Reading]:
        """What the store says. While it is down nothing more is asked."""
        questions = [(one.key, question(one.rule, one.pipeline)) for one in asked]
        questions = [(key, sql) for key, sql in questions if sql]
        if self.store_down:
            error = Reading(error=self._why["store"])
            return {key: error for key, _sql in questions}
        told = await asyncio.gather(*(self._answer(sql) for _key, sql in questions))
        return {key: reading for (key, _sql), reading in zip(questions, told, strict=True)}

    async def _answer(self, sql: str) -> Reading:
        try:
            answer = await self._asker.ask(sql.strip().rstrip(";"), rows_max=1)
        except TidemillError as cause:
            return Reading(error=short(cause))
        return of_answer(answer.rows)

    def _failed(self, server: str, cause: BaseException) -> None:
        self._down_s.setdefault(server, self._ticks())
        self._why[server] = short(cause)

    def _answered(self, server: str) -> None:
        self._down_s.pop(server, None)

    def _down(self, server: str) -> Reading:
        since = self._down_s.get(server)
        if since is None:
            return Reading(value=0.0)
        return Reading(value=self._ticks() - since, detail=self._why[server])


def of_answer(rows: Sequence[Sequence[Any]]) -> Reading:
    """The first column of the first row, with the second as evidence."""
    if not rows or not rows[0] or rows[0][0] is None:
        return Reading()
    try:
        value = float(rows[0][0])
    except (TypeError, ValueError):
        return Reading(error=f"the first column is no number: {str(rows[0][0])[:80]!r}")
    detail = "" if len(rows[0]) < 2 or rows[0][1] is None else str(rows[0][1])
    return Reading(value=value, detail=detail[:ERROR_LENGTH_MAX])


def short(cause: BaseException) -> str:
    """What went wrong, as long as people read."""
    text = str(cause) if isinstance(cause, TidemillError) else f"{type(cause).__name__}: {cause}"
    return text[:ERROR_LENGTH_MAX]
