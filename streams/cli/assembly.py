"""What `up` and `demo` start: servers, topics, tables, workers and, if need be, a first model."""

import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from schemas.errors import KafkaUnavailable, SetupError
from schemas.settings import Settings
from streams.cli.console import console, step
from streams.cli.named import Named
from streams.cli.training import early_trainings, first_model

if TYPE_CHECKING:
    from structlog.typing import EventDict

    from streams.local.tree import Child, LocalStack

POLL_S = 0.1
SERVING = ("score", "land")
"""The roles that predictions need: what `up` waits for."""
FOLLOWING = ("join", "learn")
"""The roles that work on what the others have made: they catch up, so nothing waits for them."""
READY_S_MAX = 180.0
"""How long workers may take to say `running` on a saturated machine; 4 s on a quiet one."""


@contextmanager
def assembled(
    settings: Settings, named: Sequence[Named], *, workers: int
) -> "Iterator[LocalStack]":
    """Everything that `named` need, running; stopped in order when left.

    Raises:
        SetupError, TransientError: something could not be started; nothing is left running.
        ModelError: there is no first model.
    """
    from models.online import check_learner
    from streams.local.ports import free_port
    from streams.local.tree import LocalStack
    from streams.local.watching import Watching
    from streams.telemetry import configure_logging

    configure_logging(settings.log_format, level=logging.WARNING)
    if settings.log_format == "human":
        structlog.configure(processors=[_one_line, *structlog.get_config()["processors"]])
    for item in named:
        check_learner(item.pipeline)
    names = [item.pipeline.name for item in named]
    if len(set(names)) != len(names):
        raise SetupError(f"could not start {', '.join(names)}: two have the same name")
    settings = replace(settings, home=settings.home.absolute())
    if not settings.kafka:
        settings = replace(settings, kafka_port=free_port(settings.kafka_port))
    stack = LocalStack(settings, pipelines=[item.reference for item in named])
    own = [
        name
        for name, address in (("Kafka", settings.kafka), ("ClickHouse", settings.clickhouse))
        if not address
    ]
    with (
        early_trainings(settings, named) as early,
        _entered(stack, " and ".join(own) or "nothing to start: both are elsewhere"),
    ):
        with step("topics and tables"):
            prepare(stack.settings, named)
        for child in _children(named, SERVING, workers):
            stack.add(child)
        for item in named:
            first_model(stack.settings, item, early.get(item.reference))
        with step("workers"):
            _wait_for_workers(stack, named)
        # Only now: their imports would take the processor from the first training.
        for child in _children(named, FOLLOWING, 1):
            stack.add(child)
        with Watching(stack, stack.settings, [item.pipeline for item in named]):
            yield stack


def start_delivery(stack: "LocalStack", named: Sequence[Named]) -> None:
    """One process per pipeline that trains, tries and judges without being asked."""
    from streams.local.tree import Child

    for item in named:
        name = f"{item.pipeline.name}-deliver-0"
        program = [sys.executable, "-P", "-m", "streams.cli.main", "deliver", item.reference]
        stack.add(
            Child(
                name=name,
                argv=[*program, "--name", name],
                role="deliver",
                pipeline=item.pipeline.name,
            )
        )


def start_alerts(stack: "LocalStack", named: Sequence[Named]) -> None:
    """One process that watches all of it and tells people."""
    from streams.local.tree import Child

    program = [sys.executable, "-P", "-m", "streams.cli.main", "alerts", "run"]
    references = [item.reference for item in named]
    stack.add(Child(name="alerts", argv=[*program, *references], role="alerts"))


def start_dashboard(stack: "LocalStack") -> str:
    """Serve the pages as a child of the tree; the address. Nothing waits for it.

    Called when predictions flow or nothing else starts: its imports take a second of processor.
    """
    from streams.local.ports import free_port
    from streams.local.tree import Child

    port = free_port(stack.settings.dashboard_port)
    program = [sys.executable, "-P", "-m", "streams.cli.main", "dashboard"]
    stack.add(Child(name="dashboard", argv=[*program, "--port", str(port)], role="dashboard"))
    return f"http://127.0.0.1:{port}"


def start_metrics(stack: "LocalStack") -> None:
    """One process that sees from outside how far the others are, unless metrics are off."""
    from streams.local.tree import Child

    if stack.settings.metrics_host:
        program = [sys.executable, "-P", "-m", "streams.cli.main", "metrics"]
        stack.add(Child(name="metrics", argv=[*program, "--name", "metrics"], role="metrics"))


def _one_line(_logger: Any, _method: str, event: "EventDict") -> "EventDict":
    """A person gets one line per event: what a dead process logged is in its file."""
    if event.pop("log", ""):
        name = event.get("worker") or event.get("server")
        event["see"] = f"logs/{name}.log"
    return event


@contextmanager
def _entered(stack: "LocalStack", what: str) -> "Iterator[LocalStack]":
    with step(what):
        stack.__enter__()
    try:
        yield stack
    finally:
        with console().status("stopping"), _uninterrupted():
            stack.__exit__(None, None, None)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not stop the stopping; it takes seconds and has deadlines of its own."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def prepare(settings: Settings, named: Sequence[Named]) -> None:
    """Create what does not exist yet: topics, tables and views.

    Raises:
        SetupError, TransientError: it could not be created.
    """
    from schemas.topics import control_topics
    from streams.store.client import connect
    from streams.store.expiry import keep_rows
    from streams.store.migrations import migrate
    from streams.store.views import create_views
    from streams.transport.administration import create_topics

    topics = [topic for item in named for topic in item.pipeline.topics.all()]
    create_topics(settings, [*topics, *control_topics()])
    changed = migrate(settings)
    client = connect(settings)
    try:
        if changed:  # new tables keep rows as long as the settings say; old ones are left alone
            keep_rows(client, settings)
        for item in named:
            create_views(client, item.pipeline)
    finally:
        client.close()


def _children(named: Sequence[Named], roles: Sequence[str], workers: int) -> "list[Child]":
    """A worker of each role for every pipeline; ``workers`` of them where the role is `score`."""
    from streams.local.tree import Child

    def child(item: Named, role: str, index: int) -> Child:
        name = f"{item.pipeline.name}-{role}-{index}"
        program = [sys.executable, "-P", "-m", "streams.cli.main", "worker", role]
        return Child(
            name=name,
            argv=[*program, "--pipeline", item.reference, "--name", name],
            role=role,
            pipeline=item.pipeline.name,
        )

    return [
        child(item, role, index)
        for item in named
        for role in roles
        for index in range(workers if role == "score" else 1)
    ]


def _wait_for_workers(stack: "LocalStack", named: Sequence[Named]) -> None:
    """Return when every pipeline has one running worker of each role that predictions need."""
    from streams.telemetry import read_reports

    wanted = {(item.pipeline.name, role) for item in named for role in SERVING}
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        reports = read_reports(stack.settings.run_folder)
        if wanted <= {(r.pipeline, r.role) for r in reports if r.state == "running"}:
            return
        time.sleep(POLL_S)
    slow = [
        f"{r.name} {r.state}: {r.detail}"
        for r in read_reports(stack.settings.run_folder)
        if r.state != "running"
    ]
    raise KafkaUnavailable(
        f"could not get all workers running within {READY_S_MAX:.0f} s.\n"
        + "\n".join(slow)
        + f"\nTheir logs are in {stack.log_file('x').parent}."
    )
