"""One worker process: builds the Faust app of a role, waits for what it needs, runs until told to
stop.

A worker is crash-only. It ends itself when a transaction or a commit fails in a way that leaves
doubt; whoever watches it (`tidemill up`, systemd, Kubernetes) starts it again, and recovery is the
ordinary start.
"""

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import faust
import structlog
import uvloop
from aiokafka.errors import KafkaError

from schemas.errors import PreflightError, SetupError
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.topics import models_topic
from streams.metrics.endpoint import Endpoint
from streams.telemetry import Reporter, configure_logging
from streams.tracing import Tracer, open_tracer
from streams.transport import codec, connection, preflight
from streams.transport.app import build_app
from streams.transport.driver import attach_stage
from streams.transport.stage import crash
from streams.workers.standing import Standing

if TYPE_CHECKING:
    from streams.transport.commit import GroupCommit

log = structlog.get_logger()

Role = Literal["score", "join", "learn", "land"]
ROLES: tuple[Role, ...] = ("score", "join", "learn", "land")
REPORT_S = 1.0
STOP_S_MAX = 20.0


def group_of(pipeline: Pipeline, role: Role) -> str:
    """The consumer group of a role."""
    return f"tidemill.{pipeline.name}.{role}"


def run_worker(role: Role, reference: str, settings: Settings, *, name: str) -> int:
    """Run the worker ``name``, unique in the cluster, until SIGTERM or SIGINT; the exit code.

    Raises:
        SetupError: a setting, the pipeline, a topic or a right is wrong.
    """
    configure_logging(settings.log_format, worker=name)
    pipeline = load_pipeline(reference)
    reporter = Reporter(settings.run_folder, name, role, pipeline.name)
    connection.install()
    codec.install()
    try:
        with (
            Endpoint(reporter, settings),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(_run(role, pipeline, settings, reporter))
    except SetupError as error:
        reporter.change("failed", str(error))
        raise


async def _run(role: Role, pipeline: Pipeline, settings: Settings, reporter: Reporter) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reporter.write()
    reports = asyncio.create_task(_report(reporter, settings))
    work = asyncio.create_task(_work(role, pipeline, settings, reporter, stop))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            reporter.change("stopping")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(work), STOP_S_MAX)
        if work.done():
            return work.result()
        log.error("worker did not stop in time", limit_s=STOP_S_MAX)
        os._exit(1)
    finally:
        reports.cancel()
        stopped.cancel()


async def _work(
    role: Role, pipeline: Pipeline, settings: Settings, reporter: Reporter, stop: asyncio.Event
) -> int:
    builds = {"score": _build_score, "join": _build_join, "learn": _build_learn}
    build = builds.get(role, _build_land)
    ready = asyncio.create_task(build(pipeline, settings, reporter))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():  # told to stop while waiting for Kafka, the store or a model
        ready.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ready
        return 0
    stopping.cancel()
    app, background, close = ready.result()
    gc.collect()
    gc.freeze()  # what was imported and loaded stays: each full collection looked at it for 0.2 s
    reporter.change("starting", "joining the consumer group")
    tasks = [asyncio.create_task(item) for item in background]
    await app.start()
    standing = Standing(reporter)
    try:
        while not stop.is_set() and not app.should_stop and not any(t.done() for t in tasks):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.25)
            standing.look(app)
            _end_if_lost(app.consumer)
        for task in tasks:
            if task.done():
                task.result()
        if not stop.is_set():
            raise RuntimeError(f"the Faust app stopped by itself: {app.crash_reason!r}")
    finally:
        await app.stop()
        for task in tasks:
            task.cancel()
        await close()
    return 0


def _end_if_lost(consumer: Any) -> None:
    """A consumer whose background task has failed neither fetches nor joins again, in silence."""
    if failure := consumer.failure():
        crash("following the consumer group", failure)


Built = tuple[faust.App, list[Coroutine[Any, Any, None]], Callable[[], Awaitable[None]]]


async def _build_score(pipeline: Pipeline, settings: Settings, reporter: Reporter) -> Built:
    import torch

    from streams.transport.at_once import AtOnce
    from streams.transport.commit import GroupCommit
    from streams.transport.stage import TransactionalStage
    from streams.workers.learners import follow_learners
    from streams.workers.score import Scorer
    from streams.workers.updates import ModelUpdates

    torch.set_num_threads(1)  # one process per core; a second thread costs more than it brings
    topics = pipeline.topics
    group = group_of(pipeline, "score")
    transactional_id = f"tidemill-{reporter.name}"
    blended = follow_learners(pipeline, settings, reporter)
    await _ready(
        settings,
        reporter,
        group=group,
        read=[topics.events, topics.labels, *([topics.learners] * bool(blended)), models_topic()],
        write=[topics.predictions, topics.scored, topics.dead_letters],
        transactional_id=transactional_id,
    )
    updates = ModelUpdates(pipeline, settings, reporter)
    engine = await updates.first()
    commit = GroupCommit(settings, transactional_id=transactional_id)
    await commit.start()
    champion = blended[0] if blended else None
    tracer = open_tracer(settings, reporter)
    scorer = Scorer(pipeline, engine, settings, reporter, champion=champion, tracer=tracer)
    at_once = AtOnce(settings) if pipeline.delivery == "at-least-once" else None
    if at_once:
        await at_once.start()
    stage = TransactionalStage(
        commit,
        scorer.compute,
        reporter,
        transaction_rows_max=settings.batch_rows_max,
        inline_rows_max=settings.inline_rows_max,
        finish=scorer.finish,
        at_once=at_once,
        at_once_topics=frozenset({topics.predictions.name}),
        gather_ms=0 if at_once is None else settings.at_once_commit_ms_max,
        tracer=tracer,
    )
    wait_ms_max = settings.at_once_fetch_wait_ms_max if at_once else settings.fetch_wait_ms_max
    app = build_app(settings, group=group, owner=stage, wait_ms_max=wait_ms_max)
    # Of labels only the broken ones count here.
    attach_stage(app, f"{pipeline.name}-score", (topics.events.name, topics.labels.name), stage)

    follow = [updates.follow(engine)]
    if blended:
        follow.append(blended[1].follow(blended[0]))

    async def close() -> None:
        await updates.stop()
        scorer.close()
        if at_once is not None:
            await at_once.stop()
        if blended is not None:
            await blended[1].stop()
        await commit.stop()
        await asyncio.to_thread(tracer.stop)

    return app, follow, close


async def _build_join(pipeline: Pipeline, settings: Settings, reporter: Reporter) -> Built:
    from streams.transport.again import read_again
    from streams.transport.commit import GroupCommit
    from streams.transport.turns import TurnStage
    from streams.workers.join import Joiner

    topics = pipeline.topics
    group = group_of(pipeline, "join")
    transactional_id = f"tidemill-{reporter.name}"
    await _ready(
        settings,
        reporter,
        group=group,
        read=[topics.scored, topics.labels],
        write=[topics.examples],
        transactional_id=transactional_id,
    )
    commit = GroupCommit(settings, transactional_id=transactional_id)
    await commit.start()
    stage = TurnStage(
        commit,
        (topics.scored.name, topics.labels.name),
        lambda partition: Joiner(pipeline, partition, settings, reporter),
        partial(read_again, settings),
        reporter,
        tracer=open_tracer(settings, reporter),
    )
    app = build_app(settings, group=group, owner=stage, read_committed=True)
    attach_stage(app, f"{pipeline.name}-join", stage.topics, stage)
    return app, [], partial(_close, commit, stage.tracer)


async def _build_learn(pipeline: Pipeline, settings: Settings, reporter: Reporter) -> Built:
    from models.hybrid import OnlineModel
    from models.observer import PipelineObserver
    from models.online import check_learner
    from models.signing import load_keyring
    from streams.transport.again import read_again
    from streams.transport.commit import GroupCommit
    from streams.transport.turns import TurnStage
    from streams.workers.learn import DRAIN_MESSAGES_MAX, LearnState
    from streams.workers.learners import Snapshot, read_snapshots

    check_learner(pipeline)
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    reporter.change("starting", "loading the learner")
    make_model = partial(OnlineModel, pipeline) if pipeline.learner else lambda: None
    await asyncio.to_thread(make_model)  # seconds of imports, before the group waits for us
    if pipeline.learner and pipeline.learner.name == "torch_mlp":
        import torch

        torch.set_num_threads(1)  # sums on more threads round in another order
    topics = pipeline.topics
    group = group_of(pipeline, "learn")
    transactional_id = f"tidemill-{reporter.name}"
    await _ready(
        settings,
        reporter,
        group=group,
        read=[topics.examples, topics.learners],
        write=[topics.evaluations, topics.alarms, topics.learners, topics.dead_letters],
        transactional_id=transactional_id,
    )
    commit = GroupCommit(settings, transactional_id=transactional_id)
    await commit.start()

    def read_back(shard: int) -> Snapshot | None:  # called in the stage's thread, which has no loop
        return asyncio.run(read_snapshots(pipeline, settings, keyring)).get(shard)

    def make_state(shard: int) -> LearnState:
        return LearnState(
            pipeline,
            shard,
            make_model=make_model,
            observer=PipelineObserver(pipeline, shard),
            keyring=keyring,
            read_back=read_back,
            reporter=reporter,
        )

    stage = TurnStage(
        commit,
        (topics.examples.name,),
        make_state,
        partial(read_again, settings),
        reporter,
        turn_ms_max=settings.learn_turn_ms_max,
        tracer=open_tracer(settings, reporter),
    )
    # One record holds up to thousands of examples.
    few = replace(
        settings,
        batch_rows_max=min(settings.batch_rows_max, DRAIN_MESSAGES_MAX),
        partition_rows_max=min(settings.partition_rows_max, DRAIN_MESSAGES_MAX),
        in_flight_rows_max=min(settings.in_flight_rows_max, 4 * DRAIN_MESSAGES_MAX),
    )
    app = build_app(few, group=group, owner=stage, read_committed=True)
    attach_stage(app, f"{pipeline.name}-learn", stage.topics, stage)
    return app, [], partial(_close, commit, stage.tracer)


async def _close(commit: "GroupCommit", tracer: Tracer) -> None:
    await commit.stop()
    await asyncio.to_thread(tracer.stop)


async def _build_land(pipeline: Pipeline, settings: Settings, reporter: Reporter) -> Built:
    from streams.workers.land import Lander, attach, wait_for_store

    group = group_of(pipeline, "land")
    await _ready(settings, reporter, group=group, read=list(pipeline.topics.landed), write=[])
    store = await wait_for_store(settings, reporter)
    lander = Lander(pipeline, settings, reporter, store)
    app = build_app(
        settings,
        group=group,
        owner=lander,
        read_committed=True,
        wait_ms_max=settings.land_fetch_wait_ms_max,
        gather_rows_per_s_min=0.0,  # it waits for a range to fill anyway
    )
    attach(app, pipeline, lander)

    async def close() -> None:
        lander.close()

    return app, [], close


async def _ready(settings: Settings, reporter: Reporter, **wanted: Any) -> None:
    """Wait for Kafka, then check topics and rights; a broker that goes away is waited for again."""
    while True:
        await preflight.wait_for_kafka(settings, reporter)
        try:
            await preflight.check(settings, **wanted)
        except PreflightError:
            raise
        except (KafkaError, TimeoutError) as error:
            reporter.change("waiting", f"Kafka is not ready: {error!r}")
            await asyncio.sleep(REPORT_S)
        else:
            return


async def _report(reporter: Reporter, settings: Settings) -> None:
    """Write the report once a second, and notice when Kafka is gone."""
    while True:
        await asyncio.sleep(REPORT_S)
        if reporter.state in {"running", "waiting"}:
            lost = f"lost Kafka: nothing answers at {settings.kafka}"
            if not await asyncio.to_thread(preflight.reachable, settings.kafka):
                reporter.change("waiting", lost)
            elif reporter.state == "waiting" and reporter.detail == lost:
                reporter.change("running")
        reporter.counters["uptime_s"] += REPORT_S
        reporter.counters["cpu_s"] = time.process_time()
        await asyncio.to_thread(reporter.write)
