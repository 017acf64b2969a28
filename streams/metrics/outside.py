"""What no worker can say of itself, because it may be the one that is dead: how far each is behind.

`tidemill metrics` looks every `LOOK_S` and answers with what it last saw. While Kafka does not
answer, lags are left out rather than shown as they were.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psutil
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from schemas.errors import KafkaUnavailable, PreflightError, SchemaError
from schemas.manifest import Announcement
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.books.balance import coverage, join_group, pointers, total
from streams.books.committed import committed
from streams.books.lag import Behind, LagReader
from streams.control.announce import champion
from streams.metrics import catalogue
from streams.telemetry import REPORT_AGE_S_MAX, Reporter, read_reports

log = structlog.get_logger()

LOOK_S = 5.0
_GONE: tuple[type[BaseException], ...] = (KafkaUnavailable, PreflightError, SchemaError)


@dataclass(frozen=True, slots=True)
class Seen:
    """One pipeline at one look.

    Attributes:
        behind: By step, each partition and for how long, in seconds, it has not moved although
            records wait.
        announced: What serves; None before the first announcement.
        counts: Of the label ledgers, as `streams.books.balance.total` names them.
    """

    behind: Mapping[str, Sequence[tuple[Behind, float]]]
    announced: Announcement | None
    counts: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Outside:
    """Looks at pipelines from outside; `collect` is for Prometheus, from any thread."""

    settings: Settings
    pipelines: Sequence[Pipeline]
    reporter: Reporter
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, Seen] = field(default_factory=dict, init=False)
    _reader: LagReader | None = field(default=None, init=False)
    _moved: dict[tuple[str, str, int], tuple[int | None, float]] = field(
        default_factory=dict, init=False
    )

    async def look_forever(self) -> None:
        """Look again and again, until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            await self.close()

    async def look(self) -> None:
        """Look once; what cannot be read is forgotten and said in the report."""
        try:
            if self._reader is None:
                self._reader = await LagReader(self.settings).__aenter__()
            self._seen = {one.name: await self._look(self._reader, one) for one in self.pipelines}
        except _GONE as cause:
            self._seen = {}
            await self.close()
            self.reporter.change("waiting", str(cause))
        else:
            self.reporter.change("running")

    async def close(self) -> None:
        """Let go of Kafka."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__()

    async def _look(self, reader: LagReader, pipeline: Pipeline) -> Seen:
        found = await reader.read(pipeline)
        offsets = await committed(self.settings, join_group(pipeline.name))
        now_s = self.clock()
        return Seen(
            behind={
                step: [(one, self._still_s(step, one, now_s)) for one in partitions]
                for step, partitions in found.items()
            },
            announced=await champion(self.settings, pipeline.name),
            counts=total(pointers(pipeline.topics.scored.name, offsets).values()),
        )

    def _still_s(self, step: str, one: Behind, now_s: float) -> float:
        place = step, one.topic, one.partition
        before, since_s = self._moved.get(place, (one.committed, now_s))
        if before != one.committed or one.lag == 0:
            since_s = now_s
        self._moved[place] = one.committed, since_s
        return now_s - since_s

    # -- for Prometheus

    def collect(self) -> Iterator[Metric]:
        """Every metric of `catalogue.OUTSIDE`."""
        families = {
            metric.name: GaugeMetricFamily(
                metric.name, metric.about, labels=["pipeline", "role", *metric.label.split()]
            )
            for metric in catalogue.OUTSIDE
        }

        def add(name: str, value: float, pipeline: str, role: str, *labels: str) -> None:
            families[f"tidemill_{name}"].add_metric((pipeline, role, *labels), value)

        add("kafka_up", float(self._reader is not None), "", "metrics")
        for name, seen in self._seen.items():
            for step, partitions in seen.behind.items():
                for one, still_s in partitions:
                    place = (name, step, one.topic, str(one.partition))
                    add("lag_records", one.lag, *place)
                    add("end_offset", one.end, *place)
                    add("commit_age_seconds", still_s, *place)
            for count, number in seen.counts.items():
                if count != "clock_ms":
                    add("ledger_records", number, name, "join", count)
            share = coverage(seen.counts)
            if share is not None:
                add("label_coverage_ratio", share, name, "join")
            if seen.announced is not None:
                _announced(add, seen.announced)
        _processes(add, self.settings)
        yield from families.values()


def _announced(add: Callable[..., None], found: Announcement) -> None:
    name = found.pipeline
    add("announced_epoch", found.epoch, name, "models")
    add("announced_timestamp_seconds", found.announced_at_ms / 1000, name, "models")
    add("announced_info", 1.0, name, "models", found.version, "champion")
    if found.challenger is not None:
        add("announced_info", 1.0, name, "models", found.challenger.version, "challenger")
    share = 0.0 if found.challenger is None else found.share / 100
    add("rollout_share_ratio", share, name, "models")
    add("rollout_held", float(found.held), name, "models")


def _processes(add: Callable[..., None], settings: Settings) -> None:
    """The processes of this home by their reports: the servers cannot say it themselves."""
    now_s = time.time()
    for report in read_reports(settings.run_folder):
        fresh = now_s - report.updated_at_ms / 1000 <= REPORT_AGE_S_MAX
        up = fresh and report.state == "running"
        add("process_up", float(up), report.pipeline, report.role, report.name)
        for metric in catalogue.OUTSIDE:
            if metric.source in report.counters:
                name = metric.name.removeprefix("tidemill_")
                add(name, report.counters[metric.source], report.pipeline, report.role)
        with contextlib.suppress(psutil.Error):
            memory = psutil.Process(report.pid).memory_info().rss
            add("process_memory_bytes", memory, report.pipeline, report.role, report.name)
