"""What a running process says about itself: log lines for people, a small JSON file for `status`.

A file and not a topic, because the moment a person asks is often the moment Kafka is down.
"""

import json
import logging
import os
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict

State = Literal["starting", "waiting", "running", "stopping", "failed"]
REPORT_AGE_S_MAX = 10.0
"""A report older than this is stale: its process hangs or is gone."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144)
"""Upper bounds of what histograms tell apart."""


@dataclass(slots=True)
class Histogram:
    """How often a value lay in which of its ranges; one of `observe` costs half a microsecond.

    Attributes:
        bounds: Upper bounds, each included in its range; what is larger has a range of its own.
        counts: One more than bounds.
        total: The sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        """Start with nothing counted."""
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histograms(dict[str, Histogram]):
    """Histograms by name, made when first asked for; names end in their unit: ``_s``, ``_rows``."""

    def __missing__(self, name: str) -> Histogram:
        """Make one."""
        self[name] = made = Histogram(ROWS if name.endswith("_rows") else SECONDS)
        return made


class Report(msgspec.Struct, kw_only=True):
    """One process, as `tidemill status` shows it.

    Attributes:
        name: Unique among the processes of one home, such as ``flights-score-0``.
        role: ``score``, ``land``, ``kafka``, ``store`` ...
        pipeline: The pipeline it works for; empty for the others.
        pid: Its process id.
        state: What it is doing.
        detail: Why, in words: what a waiting process waits for.
        since_ms: Since when it has been in this state.
        updated_at_ms: When this report was written.
        counters: Totals since the process started, units in the names.
        partitions: What it works on, ``topic/partition`` each; empty for what has none.
        isolated: Those of them that it cannot work on, while it goes on with the others.
    """

    name: str
    role: str
    pipeline: str
    pid: int
    state: State
    detail: str
    since_ms: int
    updated_at_ms: int
    counters: dict[str, float]
    partitions: list[str] = msgspec.field(default_factory=list)
    isolated: list[str] = msgspec.field(default_factory=list)


@dataclass(slots=True)
class Reporter:
    """Writes one `Report`; `write` is called once a second and at each change of state.

    An event loop that answers events leaves the regular ones to a thread: with a busy disk the
    kernel took 83 ms to open the file.
    """

    folder: Path
    name: str
    role: str
    pipeline: str = ""
    clock: Callable[[], float] = time.time
    state: State = "starting"
    detail: str = ""
    since_ms: int = 0
    counters: "defaultdict[str, float]" = None  # type: ignore[assignment]  # set in __post_init__
    histograms: Histograms = field(default_factory=Histograms)
    """For the metrics only; a report leaves them out."""
    models: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Version and end of training (Unix ms) of what serves, by champion, canary, shadow."""
    pid: int = field(default_factory=os.getpid)
    partitions: list[str] = field(default_factory=list)
    isolated: list[str] = field(default_factory=list)
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        """Start with nothing counted."""
        self.counters = defaultdict(float)
        self.since_ms = int(self.clock() * 1000)

    @property
    def path(self) -> Path:
        """Where the report lies."""
        return self.folder / f"{self.name}.worker.json"

    @property
    def target(self) -> Path:
        """Where Prometheus finds the address of the process's metrics, if it serves them."""
        return self.folder / f"{self.name}.target.json"

    def remove(self) -> None:
        """Take the report back: its process has ended as it should."""
        self.path.unlink(missing_ok=True)
        self.target.unlink(missing_ok=True)

    def computed(self, *, rows: int, num_bytes: int, began_s: float) -> None:
        """Count one batch that was computed since ``began_s`` of the performance counter."""
        self.counters["received_bytes"] += num_bytes
        self.histograms["batch_rows"].observe(rows)
        self.histograms["batch_s"].observe(time.perf_counter() - began_s)

    def committed(
        self, *, rows: int, sent_bytes: int, began_s: float, oldest_ms: int | None
    ) -> None:
        """Count one transaction that the broker has committed.

        ``sent_bytes`` is a total since the start, ``began_s`` is of the performance counter, and
        ``oldest_ms`` is the broker's time stamp of the oldest record in it, None without any.
        """
        counters, seconds, now_s = self.counters, time.perf_counter() - began_s, self.clock()
        counters["transactions"] += 1
        counters["transaction_s"] += seconds
        counters["records"] += rows
        counters["sent_bytes"] = sent_bytes
        counters["committed_at_s"] = now_s
        self.histograms["transaction_s"].observe(seconds)
        if oldest_ms is not None:
            self.histograms["batch_age_s"].observe(max(0.0, now_s - oldest_ms / 1000))

    def change(self, state: State, detail: str = "") -> None:
        """Enter ``state``; logged once per transition, written at once."""
        if (state, detail) != (self.state, self.detail):
            if state != self.state:
                self.since_ms = int(self.clock() * 1000)
            self.state, self.detail = state, detail
            structlog.get_logger().info("state changed", worker=self.name, state=state, why=detail)
        self.write()

    def write(self) -> None:
        """Replace the report on disk; a full disk is no reason to stop working."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        report = Report(
            name=self.name,
            role=self.role,
            pipeline=self.pipeline,
            pid=self.pid,
            state=self.state,
            detail=self.detail,
            since_ms=self.since_ms,
            updated_at_ms=int(self.clock() * 1000),
            counters=dict(self.counters),
            partitions=self.partitions,
            isolated=self.isolated,
        )
        path = self.path
        draft = path.with_suffix(".draft")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(report))
            draft.replace(path)
        except OSError as cause:
            structlog.get_logger().warning("report not written", path=str(path), cause=str(cause))


def read_reports(folder: Path) -> list[Report]:
    """The reports of all processes of one home, by name; unreadable ones are skipped."""
    reports = []
    for path in sorted(folder.glob("*.worker.json")):
        try:
            reports.append(msgspec.json.decode(path.read_bytes(), type=Report))
        except (OSError, msgspec.MsgspecError):
            continue
    return reports


class _RateLimit(logging.Filter):
    """Lets one line per logger and template through each ``interval_s``.

    While a broker is down aiokafka logs 90 lines a second; they all say the same.
    """

    def __init__(self, interval_s: float) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether ``record`` is due."""
        key = (record.name, str(record.msg)[:60])
        now = time.monotonic()
        if now - self._last.get(key, -self._interval_s) < self._interval_s:
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = now
        return True


def configure_logging(log_format: str, *, worker: str = "", level: int = logging.INFO) -> None:
    """Send structlog and the standard library's loggers to stderr, one line per event.

    ``log_format`` is ``human`` or ``json``: then each line is one JSON object with ``timestamp``,
    ``level``, ``event`` and ``worker``, and a traceback is one text in ``exception``. The loggers
    of Kafka clients and of traces are limited to one line per template and five seconds.
    """
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # The pretty one prints local variables, and with them passwords.
        exception_formatter=structlog.dev.plain_traceback,
    )
    if log_format == "json":

        def named(_logger: Any, _method: str, event: "EventDict") -> "EventDict":
            return {"worker": worker, **event}

        shared += [named, structlog.processors.format_exc_info]
        renderer = structlog.processors.JSONRenderer(serializer=json.dumps)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    limit = _RateLimit(5.0)
    for name in ("aiokafka", "faust", "mode", "kafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
    often = ("aiokafka", "kafka", "opentelemetry")
    handler.addFilter(lambda r: limit.filter(r) if r.name.startswith(often) else True)
    # Faust's services tell of each start and stop, under the names of our own modules.
    handler.addFilter(lambda r: r.levelno > logging.INFO or not str(r.msg).startswith("[^"))
