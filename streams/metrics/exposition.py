"""What one process has counted, in Prometheus' text form.

Everything is read when somebody asks. Counters of a role are there from the start, with 0, so that
a rate can be built over their first increase.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from streams.metrics import catalogue
from streams.telemetry import Histogram, Reporter

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_LABELS: Final = ("pipeline", "role")
_AGELESS_MS: Final = 1 << 60
"""The declared prior is said to have been trained in the far future: it does not age."""


class Exposition:
    """The metrics of the process that ``reporter`` speaks for; may be asked from any thread."""

    def __init__(self, reporter: Reporter, *, clock: Callable[[], float] = time.time) -> None:
        self._reporter = reporter
        self._clock = clock
        self._own = (reporter.pipeline, reporter.role)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def add(self, collector: Collector) -> None:
        """Show what ``collector`` has as well."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry: every metric of the role."""
        counters = dict(self._reporter.counters)  # a copy: a thread may add a name meanwhile
        for metric in catalogue.metrics_of(self._reporter.role):
            if metric.kind == "histogram":
                yield self._histogram(metric, self._reporter.histograms[metric.source])
            elif metric.source:
                yield self._numbers(metric, counters)
            else:
                yield self._computed(metric)

    def _numbers(self, metric: catalogue.Metric, counters: Mapping[str, float]) -> Metric:
        family = _family(metric)
        if not metric.label:
            family.add_metric(self._own, counters.get(metric.source, 0.0))
        for value in metric.values:
            family.add_metric((*self._own, value), counters.get(f"{metric.source}_{value}", 0.0))
        return family

    def _histogram(self, metric: catalogue.Metric, found: Histogram) -> Metric:
        family = HistogramMetricFamily(metric.name, metric.about, labels=_LABELS)
        seen, buckets = 0, []
        for bound, count in zip((*found.bounds, "+Inf"), tuple(found.counts), strict=True):
            seen += count
            buckets.append((str(bound), float(seen)))
        family.add_metric(self._own, buckets, found.total)
        return family

    def _computed(self, metric: catalogue.Metric) -> Metric:
        reporter, family = self._reporter, _family(metric)
        match metric.name:
            case "tidemill_worker_info":
                family.add_metric((*self._own, reporter.name), 1.0)
            case "tidemill_worker_state":
                for state in metric.values:
                    family.add_metric((*self._own, state), float(state == reporter.state))
            case "tidemill_worker_state_timestamp_seconds":
                family.add_metric(self._own, reporter.since_ms / 1000)
            case "tidemill_model_info":
                for arm, (version, _) in reporter.models.items():
                    family.add_metric((*self._own, version, arm), 1.0)
            case "tidemill_model_age_seconds":
                for arm, (_, trained_at_ms) in reporter.models.items():
                    if trained_at_ms < _AGELESS_MS:
                        age_s = max(0.0, self._clock() - trained_at_ms / 1000)
                        family.add_metric((*self._own, arm), age_s)
            case _:
                raise AssertionError(f"nothing computes {metric.name}")
        return family


def _family(metric: catalogue.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    labels = [*_LABELS, *metric.label.split()]
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.about, labels=labels)
    return GaugeMetricFamily(metric.name, metric.about, labels=labels)
