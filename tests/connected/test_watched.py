"""A pipeline at work, watched with what an operator has: Prometheus, Grafana's dashboards, a collector
of traces and a reader of log lines."""

import asyncio
import itertools
import json
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.local.ports import free_port
from streams.metrics.endpoint import write_target
from streams.store.client import connect
from streams.telemetry import Reporter
from tests.connected.test_bad_input import (
    declare,
    events_of_every_kind,
    labels_of_every_kind,
    send,
    until_landed,
    workers,
)
from tests.connected.watching import DEPLOY, Prometheus, needs_prometheus

ROLES = ("score", "join", "learn", "land", "metrics", "alerts")


class Collector:
    """Takes spans by OTLP over HTTP, as an OpenTelemetry collector does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.spans: list[tuple[str, Any]] = []

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_reason: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        told = ExportTraceServiceRequest.FromString(await request.read())
        for resource in told.resource_spans:
            who = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(who["service.name"], span) for span in scope.spans]
        return web.Response()


@dataclass
class World:
    settings: Settings
    pipeline: Pipeline
    running: dict[str, subprocess.Popen[bytes]]
    logs: Path
    collector_port: int
    events: dict[Any, Any] = field(default_factory=dict)
    labels: dict[Any, Any] = field(default_factory=dict)

    @property
    def good(self) -> int:
        return sum(record[2] is None for record in self.events.values())

    @property
    def bad(self) -> Counter[str]:
        both = [*self.events.values(), *self.labels.values()]
        return Counter(record[2].value for record in both if record[2] is not None)


@pytest.fixture
def world(settings: Settings, tmp_path: Path, unique: Any) -> Iterator[World]:
    """Workers of every role and the view from outside; everything sent is landed."""
    collector_port = free_port()
    settings = replace(
        settings,
        metrics_port=free_port(),
        traces_endpoint=f"http://127.0.0.1:{collector_port}/v1/traces",
        traces_ratio=1.0,
        log_format="json",
    )
    named = declare(settings, tmp_path, unique("watched"))
    write_target(Reporter(settings.run_folder, "store", "store"), settings.clickhouse[7:])
    with workers(settings, named, tmp_path, ROLES) as running:
        yield World(settings, named.pipeline, running, tmp_path, collector_port)


async def feed(world: World, prometheus: Prometheus) -> None:
    """Good and bad events and labels, twice, and each time wait until all of it is in the store and
    was seen: a rate needs two samples that differ."""
    for _ in range(2):
        await asyncio.to_thread(feed_once, world)
        mine = f'pipeline="{world.pipeline.name}"'
        bad = world.bad.total()
        await prometheus.until(f"sum(tidemill_dead_letters_total{{{mine}}}) == {bad}")


def feed_once(world: World) -> None:
    topics, now_ms = world.pipeline.topics, int(time.time() * 1000)
    kafka = world.settings.kafka
    world.events |= send(kafka, topics.events.name, events_of_every_kind(now_ms))
    world.labels |= send(kafka, topics.labels.name, labels_of_every_kind(now_ms))
    store = connect(world.settings)
    until_landed(
        store, world.running, world.logs, scored=world.good, dead_letters=world.bad.total()
    )
    store.close()


async def collected(world: World, collector: Collector) -> dict[str, Counter[str]]:
    """Names of spans by service, once every stage has sent a batch with its whole tree."""
    async with asyncio.timeout(60):
        while True:
            found: defaultdict[str, Counter[str]] = defaultdict(Counter)
            for service, span in collector.spans:
                found[service][span.name] += 1
            if all(found[f"tidemill-{role}"]["commit"] for role in ("score", "join", "learn")):
                return found
            await asyncio.sleep(0.2)


def panels(file: Path) -> Iterator[tuple[str, str]]:
    """Title and query of every target of every panel, with the variables filled in."""
    for panel in json.loads(file.read_text())["panels"]:
        for one in panel.get("targets", ()):
            yield f"{file.stem}: {panel['title']}", one["expr"]


@needs_prometheus
@pytest.mark.timeout(600)  # for a saturated machine
async def test_what_an_operator_sees(world: World, tmp_path: Path) -> None:
    """
    Goal: figures in Prometheus are those of the records that were sent; each query of each
    dashboard gives data; the shipped rules evaluate, and say so when a scorer is killed; traces
    have every step of a batch under it; each log line is JSON and each transition one of them.

    Method: all of it in one world, because its processes cost more than what is asked of them.
    """
    async with Collector(world.collector_port) as collector:
        with Prometheus(tmp_path, world.settings.run_folder) as prometheus:
            await feed(world, prometheus)
            await check_figures(world, prometheus)
            await check_dashboards(world, prometheus)
            check_rules(prometheus)
            check_traces(await collected(world, collector), collector)
            await check_a_kill(world, prometheus)
    check_logs(world)


async def check_figures(world: World, prometheus: Prometheus) -> None:
    mine = f'pipeline="{world.pipeline.name}"'
    await prometheus.until('up{job="tidemill"} == 1', count=len(ROLES) + 1)
    await prometheus.until(f"sum(tidemill_predictions_total{{{mine}}}) == {world.good}")
    events = len(world.events)
    await prometheus.until(f"sum(tidemill_events_total{{{mine}}}) == {events}")
    await prometheus.until(f"sum(tidemill_lag_records{{{mine}}}) == 0")
    reasons = prometheus.values(f"sum by (reason) (tidemill_dead_letters_total{{{mine}}}) > 0")
    assert {labels["reason"]: int(value) for labels, value in reasons} == dict(world.bad)
    landed = prometheus.values(f'tidemill_landed_rows_total{{{mine}, table="scored"}}')
    assert [value for _, value in landed] == [world.good]
    sizes = f"tidemill_batch_rows_sum{{{mine}, role='score'}}"
    assert prometheus.values(sizes)[0][1] == events + len(world.labels)
    [(labels, _)] = prometheus.values(f'tidemill_model_info{{{mine}, arm="champion"}}')
    [(announced, _)] = prometheus.values(f'tidemill_announced_info{{{mine}, part="champion"}}')
    assert labels["version"] == announced["version"]
    received = sum(len(value or b"") for _, value, _ in world.events.values())
    received += sum(len(value or b"") for _, value, _ in world.labels.values())
    [(_, bytes_in)] = prometheus.values(f"tidemill_received_bytes_total{{{mine}, role='score'}}")
    assert bytes_in == received


async def check_dashboards(world: World, prometheus: Prometheus) -> None:
    """Two scrapes at least, so that there is a rate; what divides by no label at all may be NaN."""
    await prometheus.until("min(count_over_time(up[1m])) >= 3")
    await prometheus.until("tidemill_books_exact_age_seconds and tidemill_books_missing == 0")
    queries = [one for file in sorted((DEPLOY / "grafana").glob("*.json")) for one in panels(file)]
    assert len(queries) > 40
    empty = []
    for title, expression in queries:
        query = expression.replace("$pipeline", world.pipeline.name)
        query = query.replace("$__rate_interval", "1m")
        if not prometheus.values(query):
            empty.append((title, query))
    assert empty == []


def check_rules(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 20
    assert [(r["name"], r.get("lastError")) for r in rules if r["health"] != "ok"] == []
    by_name = {rule["name"]: rule["state"] for rule in rules}
    assert by_name["TidemillProcessDown"] == by_name["TidemillStoreAway"] == "inactive"
    assert by_name["TidemillDeadLetters"] == "pending", "half of what was sent is bad"


def check_traces(found: dict[str, Counter[str]], collector: Collector) -> None:
    parts = {"fetch", "decode", "features", "score", "encode", "transaction", "produce", "commit"}
    assert set(found["tidemill-score"]) == {"batch", *parts}
    assert set(found["tidemill-join"]) == {"batch", "compute", "transaction", "produce", "commit"}
    spans = {span.span_id: span for _, span in collector.spans}
    for _, span in collector.spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        if span.name == "batch":
            assert not span.parent_span_id
            continue
        parent = spans.get(span.parent_span_id)
        if parent is None:
            continue  # it ends later, and so it is sent later
        assert parent.trace_id == span.trace_id
        wanted = "transaction" if span.name in {"produce", "commit"} else "batch"
        assert parent.name == wanted
        assert parent.start_time_unix_nano <= span.start_time_unix_nano
        assert parent.end_time_unix_nano >= span.end_time_unix_nano
    whole = [span for _, span in collector.spans if span.parent_span_id in spans]
    assert len(whole) > len(parts)


async def check_a_kill(world: World, prometheus: Prometheus) -> None:
    """The rule that a dead worker is seen by, and the lag that grows without it."""
    world.running["score"].kill()
    world.running["score"].wait()
    kafka, topic = world.settings.kafka, world.pipeline.topics.events.name
    send(kafka, topic, events_of_every_kind(int(time.time() * 1000)))
    [(labels, _)] = await prometheus.until('ALERTS{alertname="TidemillProcessDown"}')
    assert labels["worker"] == f"{world.pipeline.name}-score"
    assert labels["alertstate"] == "pending", "it fires after a minute"
    lag = f'sum(tidemill_lag_records{{topic="{topic}"}}) == {len(events_of_every_kind(0))}'
    await prometheus.until(lag)
    await prometheus.until(f'max(tidemill_commit_age_seconds{{topic="{topic}"}}) > 1')


def check_logs(world: World) -> None:
    for role, process in world.running.items():
        if role != "score":
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        lines = (world.logs / f"{role}.log").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        assert all({"timestamp", "level", "event", "worker"} <= set(one) for one in told), role
        speakers = {f"{world.pipeline.name}-{role}"}
        if role == "alerts":  # the check of the books runs in it, and reports under its own name
            speakers.add(f"{world.pipeline.name}-books-0")
        assert {one["worker"] for one in told} == speakers
        states = [one["state"] for one in told if one["event"] == "state changed"]
        assert "running" in states, states
        pairs = [
            (one["worker"], one["state"], one["why"])
            for one in told
            if one["event"] == "state changed"
        ]
        assert all(a != b for a, b in itertools.pairwise(pairs)), "one line each"
        if role not in {"score", "alerts"}:
            assert states[-1] == "stopping"
