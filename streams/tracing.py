"""Traces: what a sampled batch went through, as spans of OpenTelemetry.

    batch                    from the request for records to the end of its transaction
      fetch
      decode, features, score, encode      (where it joins or learns: compute)
      transaction            shared with the batches that are in it
        produce, commit

A batch that is traced only writes down times; its spans are made when it is done. So with
``traces_ratio`` 0, the default, a batch costs a few comparisons, and OpenTelemetry is not imported.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from schemas.errors import SetupError
from schemas.settings import Settings
from streams.telemetry import Reporter

EXPORT_S_MAX = 5.0
QUEUE_SPANS_MAX = 2048
"""Spans that wait for the collector; more are dropped."""
SEND_MS = 1000
FLUSH_MS_MAX = 2000

Attributes = dict[str, str | int | float]


@dataclass(slots=True)
class Step:
    """One thing that was done, and the things it consisted of; Unix times in nanoseconds."""

    name: str
    began_ns: int
    ended_ns: int = 0
    attributes: Attributes = field(default_factory=dict)
    steps: "list[Step]" = field(default_factory=list)


class Tracer:
    """Samples batches and makes spans of them.

    Args of the constructor:
        make_spans: Takes a batch that is done; None: nothing is ever sampled.
        ratio: Share of batches that are sampled.
        random: Decides which.
        clock_ns: Unix time in nanoseconds.

    Attributes:
        current: The batch that is computed now, if it is traced; one at a time.
    """

    def __init__(
        self,
        make_spans: Callable[[Step], None] | None = None,
        *,
        ratio: float = 0.0,
        random: Random | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_spans = make_spans
        self._ratio = ratio
        self._random = random or Random()  # noqa: S311  # a sample, no secret
        self.clock_ns = clock_ns
        self.current: Step | None = None
        self.stop = stop
        """Send what waits; takes seconds at most."""

    def begin(self, began_ns: int, **attributes: str | int) -> Step | None:
        """The batch to write into, or None if it is not sampled."""
        if self._make_spans is None or self._random.random() >= self._ratio:
            return None
        return Step(
            "batch", began_ns, attributes={f"tidemill.{k}": v for k, v in attributes.items()}
        )

    def step(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """Time what is done inside as a part of the `current` batch."""
        return _NOTHING if self.current is None else self._timed(self.current, name, attributes)

    @contextlib.contextmanager
    def _timed(self, batch: Step, name: str, attributes: dict[str, str | int]) -> Iterator[None]:
        step = Step(name, self.clock_ns(), attributes=_named(attributes))
        batch.steps.append(step)
        try:
            yield
        finally:
            step.ended_ns = self.clock_ns()

    def end(self, batch: Step) -> None:
        """Make spans of a batch that is done now."""
        if self._make_spans is not None:
            batch.ended_ns = self.clock_ns()
            self._make_spans(batch)


def _named(attributes: Mapping[str, str | int]) -> Attributes:
    return {f"tidemill.{name}": value for name, value in attributes.items()}


_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()
UNTRACED = Tracer()


def transaction(began_ns: int, produced_ns: int, ended_ns: int) -> Step:
    """The step of a transaction whose records were all handed over at ``produced_ns``."""
    parts = [Step("produce", began_ns, produced_ns), Step("commit", produced_ns, ended_ns)]
    return Step("transaction", began_ns, ended_ns, steps=parts)


def open_tracer(settings: Settings, reporter: Reporter, *, random: Random | None = None) -> Tracer:
    """A tracer that sends to ``traces_endpoint``; `UNTRACED` while ``traces_ratio`` is 0.

    ``OTEL_EXPORTER_OTLP_HEADERS`` is respected. A collector that is away costs the spans meanwhile.

    Raises:
        SetupError: OpenTelemetry is not installed.
    """
    if not settings.traces_ratio:
        return UNTRACED
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as cause:
        raise SetupError(
            f"could not trace with traces_ratio={settings.traces_ratio}: {cause}. Install the "
            "optional group tidemill[traces], or unset TIDEMILL_TRACES_RATIO."
        ) from cause
    who: dict[str, Any] = {
        "service.name": f"tidemill-{reporter.role}",
        "service.instance.id": reporter.name,
        "tidemill.pipeline": reporter.pipeline,
        "process.pid": reporter.pid,
    }
    provider = TracerProvider(resource=Resource.create(who))
    exporter = OTLPSpanExporter(endpoint=settings.traces_endpoint, timeout=EXPORT_S_MAX)
    processor = BatchSpanProcessor(
        exporter, max_queue_size=QUEUE_SPANS_MAX, schedule_delay_millis=SEND_MS
    )
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("tidemill")

    def stop() -> None:
        provider.force_flush(FLUSH_MS_MAX)
        provider.shutdown()

    return Tracer(
        lambda batch: _spans(tracer, batch, None),
        ratio=settings.traces_ratio,
        random=random,
        stop=stop,
    )


def _spans(tracer: Any, step: Step, parent: Any) -> None:
    from opentelemetry.trace import set_span_in_context

    span = tracer.start_span(
        step.name, context=parent, start_time=step.began_ns, attributes=step.attributes
    )
    inside = set_span_in_context(span, parent)
    for part in step.steps:
        _spans(tracer, part, inside)
    span.end(end_time=step.ended_ns)
