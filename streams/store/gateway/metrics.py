"""What the store does, in numbers for Prometheus: ``GET /metrics``.

Labels have few values: the verb of a statement and ClickHouse's error codes. Nothing names a user,
a table or a text.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from streams.store.gateway.query_log import note_slow
from streams.store.gateway.rows import Counts
from streams.store.gateway.running import Running

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_VERBS: Final = (
    *("select", "insert", "create", "alter", "drop", "truncate", "optimize", "system", "kill"),
    *("set", "use", "show", "describe", "exists", "explain", "check", "backup", "restore"),
    *("rename", "attach", "detach", "update", "delete"),
)
_SAME: Final = {"with": "select", "from": "select", "(": "select", "desc": "describe"}
_LEFT: Final = 210
"""NETWORK_ERROR: the client has left before its answer was complete."""
_SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_NAME: Final = "tidemill_store"

ENGINE_SQL: Final = (
    "SELECT metric, toFloat64(value) FROM system.metrics WHERE metric IN ('Query', 'Merge', "
    "'PartMutation', 'MemoryTracking', 'PartsActive', 'DelayedInserts', 'OpenFileForRead') "
    "UNION ALL SELECT 'Parts', toFloat64(count()) FROM system.parts WHERE active "
    "UNION ALL SELECT 'PartBytes', toFloat64(sum(bytes_on_disk)) FROM system.parts WHERE active "
    "UNION ALL SELECT 'DiskFreeBytes', toFloat64(free_space) FROM system.disks "
    "WHERE name = 'default' FORMAT TSV"
)
"""The engine's own figures, asked when somebody looks."""


@dataclass(slots=True)
class Seen:
    """What is known of one request; filled in while it is answered.

    Attributes:
        running: Set as soon as it is a query.
        code: ClickHouse's error code, 0 for none.
    """

    began_s: float = field(default_factory=time.monotonic)
    running: Running | None = None
    verb: str = "other"
    counts: Counts = field(default_factory=Counts)
    code: int = 0


SEEN: Final = web.RequestKey("seen", Seen)


def verb(first_word: bytes) -> str:
    """The kind of a statement, out of few."""
    word = first_word.decode(errors="replace")
    word = _SAME.get(word, word)
    return word if word in _VERBS else "other"


class Metrics:
    """Counters of one gateway. Touched by the event loop's thread only."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._queries = Counter(
            f"{_NAME}_queries", "Queries answered, by verb and ClickHouse's error code, 0 for none",
            ["verb", "code"], registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            f"{_NAME}_query_seconds", "From the request's first byte to the answer's last",
            ["verb"], buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._rows = Counter(
            f"{_NAME}_rows", "Rows read from tables, written to them, and sent to clients",
            ["direction"], registry=self._registry,
        )  # fmt: skip
        self._bytes = Counter(
            f"{_NAME}_engine_bytes", "Uncompressed bytes read from tables and written to them",
            ["direction"], registry=self._registry,
        )  # fmt: skip
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._engine: dict[str, float] = {}
        self._registry.register(self)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show ``value()`` as the gauge ``name``."""
        self._gauges[f"{_NAME}_{name}"] = (about, value)

    def record(self, seen: Seen) -> None:
        """Count one query that has been answered, or whose client has left."""
        duration_s = time.monotonic() - seen.began_s
        counts = seen.counts
        self._queries.labels(seen.verb, str(seen.code)).inc()
        self._seconds.labels(seen.verb).observe(duration_s)
        self._rows.labels("read").inc(counts.read_rows)
        self._rows.labels("written").inc(counts.written_rows)
        self._rows.labels("sent").inc(counts.result_rows)
        self._bytes.labels("read").inc(counts.read_bytes)
        self._bytes.labels("written").inc(counts.written_bytes)
        if seen.running is not None:
            running = seen.running
            note_slow(
                running.query_id, running.user, seen.verb, duration_s=duration_s, counts=counts
            )

    def exposition(self, engine: Iterable[tuple[str, float]]) -> bytes:
        """All figures in Prometheus' text form, with those that `ENGINE_SQL` found."""
        self._engine = dict(engine)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Gauges, for the registry."""
        for name, (about, value) in self._gauges.items():
            yield GaugeMetricFamily(name, about, value=value())
        family = GaugeMetricFamily(
            f"{_NAME}_engine", "The engine's own figures, by its names", labels=["metric"]
        )
        for metric, figure in sorted(self._engine.items()):
            family.add_metric([metric], figure)
        yield family


def engine_figures(engine: Any) -> list[tuple[str, float]]:
    """What `ENGINE_SQL` finds; blocks."""
    rows = engine.ask(ENGINE_SQL).decode().splitlines()
    return [(name, float(value)) for name, value in (row.split("\t") for row in rows)]


def observed(metrics: Metrics) -> Any:
    """An aiohttp middleware that records every query."""

    @web.middleware
    async def record(
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        seen = request[SEEN] = Seen()
        seen.code = _LEFT
        try:
            response = await handler(request)
            if seen.code == _LEFT:
                seen.code = int(response.headers.get("X-ClickHouse-Exception-Code", "0"))
        finally:
            if seen.running is not None or seen.code:
                metrics.record(seen)
        return response

    return record
