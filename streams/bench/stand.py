"""The stand that benchmarks run on: broker, store, topics, tables, a trained model, workers."""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.topics import Topic, control_topics
from streams.bench import reading
from streams.bench.rivals.request import Request, environment
from streams.bench.sampling import Race, Sampler
from streams.cli.training import Made
from streams.control.announce import announce
from streams.local.child import ChildProcess
from streams.local.ports import free_port
from streams.local.tree import LocalStack
from streams.replay import Encoder, Pace, Replay, history_slice
from streams.store.client import connect
from streams.store.migrations import migrate
from streams.store.views import create_views
from streams.telemetry import configure_logging, read_reports
from streams.transport.administration import create_topics

PIPELINE = "flights"
TRAINING_DAYS = "7"
"""Enough for a model of the usual shape; how good it is does not matter here."""
READY_S_MAX = 120.0
PRODUCE_ROWS = 50_000


@dataclass(eq=False)
class Stand:
    """One broker and one store for a whole benchmark run; each benchmark leaves them drained."""

    settings: Settings
    stack: LocalStack
    pipeline: Pipeline
    client: Any
    version: str = ""
    env: dict[str, str] = field(default_factory=dict)
    """Settings of every worker, see `workers`."""
    _rounds: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # -- input

    def flights(self, rows: int, *, prefix: str) -> pa.Table:
        """So many real flights, the year repeated as often as needed; each id occurs once."""
        year = history_slice(self.pipeline, events=rows, skip=0, start_ms=None)
        year = year.drop_columns(["label", "label_time_ms"])
        parts, left = [], rows
        for lap in itertools.count():
            part = year.slice(0, left)
            ids = pc.binary_join_element_wise(
                f"{prefix}{lap}", part["event_id"].cast("string"), "-"
            )
            parts.append(part.set_column(part.column_names.index("event_id"), "event_id", ids))
            left -= part.num_rows
            if left <= 0:
                return pa.concat_tables(parts).combine_chunks()
        raise AssertionError

    def preload(self, rows: int) -> str:
        """Put so many events on the topic; returns the prefix of their ids."""
        prefix = f"b{next(self._rounds)}x"
        replay = Replay(self.pipeline, self.settings, self.flights(rows, prefix=prefix), Pace())
        sent = asyncio.run(replay.run())
        assert sent.events == rows, (sent.events, rows)
        return prefix

    def copy_events(self, topic: str, *, rows: int) -> None:
        """Put so many events on ``topic`` instead of the pipeline's own."""
        encoder = Encoder(self.pipeline, self.flights(rows, prefix=f"c{next(self._rounds)}x"))
        for start in range(0, rows, PRODUCE_ROWS):
            values = encoder.events(np.arange(start, min(rows, start + PRODUCE_ROWS)))
            self.produce(topic, ((None, value, -1) for value in values))

    def copy_last(self, topic: str, *, rows: int, prefix: str) -> int:
        """Copy about ``rows`` of the last events, those with this prefix; how many it were."""
        found = reading.last_events(
            self.settings, self.pipeline.topics.events.name, self.partitions, rows
        )
        mark = prefix.encode()
        copied = self.produce(topic, (item for item in found if mark in item[1]))
        assert copied > rows // 2, (copied, rows)
        return copied

    def produce(self, topic: str, records: Iterable[tuple[bytes | None, bytes, int]]) -> int:
        """Send key, value and partition (-1: any); returns how many, all acknowledged."""
        from confluent_kafka import Producer

        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka,
                "compression.type": "zstd",
                "enable.idempotence": True,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        sent = 0
        for key, value, partition in records:
            producer.produce(topic, value, key=key, partition=partition)
            sent += 1
            if sent % 1000 == 0:
                producer.poll(0)
        left = producer.flush(60)
        assert left == 0, f"{left} records were not acknowledged"
        return sent

    @staticmethod
    def now_s() -> float:
        """Unix seconds, as the sampler counts them."""
        return time.time()

    def reference(self, delivery: str) -> str:
        """The pipeline of this stand with another delivery, as a file that a worker can load."""
        if delivery == "exactly-once":
            return PIPELINE
        file = self.settings.home / f"{PIPELINE}_{delivery.replace('-', '_')}.py"
        file.write_text(
            "from dataclasses import replace\n"
            f"from schemas.pipelines import {PIPELINE} as ready\n"
            f"pipeline = replace(ready.{PIPELINE}, delivery={delivery!r})\n",
            encoding="utf-8",
        )
        return str(file)

    # -- rivals

    @contextmanager
    def rival(self, module: str, request: Request) -> Iterator[ChildProcess]:
        """Run ``streams.bench.rivals.MODULE`` on ``request``; stopped when left."""
        child = ChildProcess(
            [sys.executable, "-P", "-m", f"streams.bench.rivals.{module}"],
            log=self.settings.home / "logs" / f"{module}-{next(self._rounds)}.log",
            env={**os.environ, **self.settings.environment(), **environment(request)},
        )
        try:
            yield child
        finally:
            child.stop(grace_s=5)

    def race(self, module: str, request: Request, *, limit_s: float = 300.0) -> Race:
        """Run a rival to the end of its work and hand back what it did."""
        with self.rival(module, request) as child, Sampler(self.pids({module: child})) as sampler:
            deadline = time.monotonic() + limit_s
            while (code := child.exit_code()) is None:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{module} is not done in {limit_s} s:\n{child.log_tail(20)}")
                time.sleep(0.1)
            if code != 0:
                raise SystemExit(f"{module} ended with {code}:\n{child.log_tail(40)}")
        return Race.read(Path(request.answer), sampler, module)

    def topic(self, name: str) -> str:
        """Create a topic with as many partitions as the pipeline's; returns a name of its own."""
        own = f"bench.{name}.{next(self._rounds)}"
        create_topics(
            self.settings, [Topic(name=own, record="", key="", partitions=self.partitions)]
        )
        return own

    def request(self, **more: Any) -> Request:
        """A request that names this stand's broker and model."""
        number = next(self._rounds)
        return Request(
            kafka=self.settings.kafka,
            registry=self.settings.registry_root,
            home=str(self.settings.home),
            pipeline=PIPELINE,
            version=self.version,
            group=f"bench-{number}-{os.getpid()}",
            answer=str(self.settings.home / f"rival-{number}.json"),
            **more,
        )

    # -- workers

    @contextmanager
    def workers(
        self, *roles: str, env: Mapping[str, str] | None = None, pipeline: str = PIPELINE
    ) -> Iterator[dict[str, ChildProcess]]:
        """Run one worker of each role; stopped in order when left.

        A name in ``env`` may begin with a role and a dot: then only that worker gets it.
        """
        children: dict[str, ChildProcess] = {}
        try:
            for role in roles:
                children[role] = self._spawn(role, {**self.env, **(env or {})}, pipeline)
            yield children
        finally:
            for child in children.values():
                child.ask_to_stop()
            for child in children.values():
                child.stop(grace_s=25)

    def _spawn(self, role: str, env: Mapping[str, str], pipeline: str) -> ChildProcess:
        own = {
            name.removeprefix(f"{role}."): value
            for name, value in env.items()
            if "." not in name or name.startswith(f"{role}.")
        }
        name = f"{self.pipeline.name}-{role}-{next(self._rounds)}"
        program = [sys.executable, "-P", "-m", "streams.cli.main", "worker", role]
        return ChildProcess(
            [*program, "--pipeline", pipeline, "--name", name],
            log=self.settings.home / "logs" / f"{name}.log",
            env={**os.environ, **self.settings.environment(), **own},
        )

    def counters(self, child: ChildProcess) -> dict[str, float]:
        """What the worker says of itself; waits for its next report, which comes once a second."""
        asked_ms, deadline = time.time() * 1000, time.monotonic() + 5
        while time.monotonic() < deadline:
            for report in read_reports(self.settings.run_folder):
                if report.pid == child.pid and report.updated_at_ms >= asked_ms:
                    return report.counters
            time.sleep(0.1)
        raise SystemExit(f"a worker has not reported for 5 s:\n{child.log_tail(20)}")

    def wait_running(self, children: Mapping[str, ChildProcess]) -> None:
        """Return when each has said that it works."""
        pids = {child.pid for child in children.values()}

        def all_running() -> bool:
            reports = read_reports(self.settings.run_folder)
            return pids <= {report.pid for report in reports if report.state == "running"}

        self.until(all_running, children, what="workers running", limit_s=READY_S_MAX)

    def until(
        self,
        condition: Callable[[], bool],
        children: Mapping[str, ChildProcess],
        *,
        what: str,
        limit_s: float = 300.0,
        poll_s: float = 0.25,
    ) -> None:
        """Wait for a condition; ends with the log of a worker that died, or at the limit."""
        deadline = time.monotonic() + limit_s
        while not condition():
            for role, child in children.items():
                if child.exit_code() is not None:
                    raise SystemExit(f"{role} ended before {what}:\n{child.log_tail(40)}")
            if time.monotonic() > deadline:
                tails = "\n".join(f"{r}:\n{c.log_tail(15)}" for r, c in children.items())
                raise SystemExit(f"not reached in {limit_s:.0f} s: {what}\n{tails}")
            time.sleep(poll_s)

    def pids(self, children: Mapping[str, ChildProcess]) -> dict[str, int]:
        """Process ids of the workers and of both servers, by the name they have in results."""
        servers = self.stack.pids
        workers = {role: child.pid for role, child in children.items()}
        return {**workers, "broker": servers["kafka"], "store": servers["store"]}

    def committed(self, role: str) -> int:
        """The group's committed offsets of that role's data topic, all partitions together."""
        topics = self.pipeline.topics
        topic = topics.events.name if role == "score" else topics.scored.name
        group = f"tidemill.{self.pipeline.name}.{role}"
        return reading.committed_total(
            self.settings, group=group, topic=topic, partitions=self.partitions
        )

    @property
    def partitions(self) -> int:
        """Partitions of every topic of the pipeline."""
        return self.pipeline.partitions

    # -- the store

    def rows(self, prefix: str) -> tuple[int, int]:
        """Rows and distinct ids that have landed of the events with this prefix."""
        found = self.client.query(
            "SELECT count(), uniqExact(event_id) FROM scored "
            "WHERE startsWith(event_id, {p:String})",
            parameters={"p": prefix},
        ).result_rows[0]
        return int(found[0]), int(found[1])

    def landed(self) -> int:
        """Rows of the table, from its metadata: cheap enough to ask while the store is measured."""
        return int(self.client.query("SELECT count() FROM scored").result_rows[0][0])

    def stamps(self, column: str, prefix: str) -> list[tuple[float, int]]:
        """Unix seconds at which rows were predicted or landed, with the number of rows of each."""
        found = self.client.query(
            f"SELECT toUnixTimestamp64Milli({column}) / 1000 AS s, count() FROM scored "
            "WHERE startsWith(event_id, {p:String}) GROUP BY s ORDER BY s",
            parameters={"p": prefix},
        ).result_rows
        return [(float(s), int(n)) for s, n in found]


@contextmanager
def standing(home: Path, *, say: Callable[[str], None]) -> Iterator[Stand]:
    """Everything but workers, running on ``home``; settings come from the environment otherwise."""
    configure_logging("human", level=30)
    settings = replace(
        Settings.from_environment(),
        home=home,
        kafka="",
        clickhouse="",
        # Not the default ports: workers of another home, whose broker is gone, would join ours.
        kafka_port=free_port(),
        clickhouse_port=free_port(),
    )
    pipeline = load_pipeline(PIPELINE)
    started = time.monotonic()
    with LocalStack(settings, pipelines=[PIPELINE]) as stack:
        create_topics(stack.settings, [*pipeline.topics.all(), *control_topics()])
        migrate(stack.settings)
        client = connect(stack.settings)
        create_views(client, pipeline)
        say(f"broker and store ready after {time.monotonic() - started:.1f} s")
        stand = Stand(stack.settings, stack, pipeline, client)
        stand.version = train(stand)
        say(f"model {stand.version} trained after {time.monotonic() - started:.1f} s")
        yield stand


def train(stand: Stand) -> str:
    """Train and announce the first model; returns its version."""
    log = stand.stack.log_file("training")
    training = ChildProcess(
        [
            sys.executable,
            "-P",
            "-m",
            "trainers",
            "--json",
            "--pipeline",
            PIPELINE,
            "--days",
            TRAINING_DAYS,
        ],
        log=log,
        env={**os.environ, **stand.settings.environment()},
    )
    while (code := training.exit_code()) is None:
        time.sleep(0.1)
    assert code == 0, training.log_tail(20)
    made = msgspec.json.decode(training.log_tail(1), type=Made)
    announce(
        stand.settings,
        pipeline=PIPELINE,
        version=made.version,
        digest=made.digest,
        now_ms=time.time_ns() // 1_000_000,
    )
    return made.version


def resident_mib(pid: int) -> float:
    """Resident memory of one process."""
    return float(psutil.Process(pid).memory_info().rss / 2**20)
