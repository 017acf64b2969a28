"""A judge on real Kafka: nobody steers, and each rollout ends as it should."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer

from models.dense import build
from models.judge import JudgePolicy
from models.registry import Registry, open_registry
from schemas.arrow import write_batch
from schemas.examples import EXAMPLES
from schemas.loading import load_pipeline
from schemas.manifest import Announcement
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.topics import control_topics
from schemas.training import Check, Verdict
from streams.control.announce import announce, champion
from streams.rollout import judging
from streams.rollout.promotion import try_out
from streams.telemetry import Reporter
from streams.transport.administration import create_topics
from tests.connected.test_bad_input import DECLARATION, constant

ROWS = 100
POLICY = JudgePolicy(step_rows=200, rows_max=50_000, shift_max=0.9, stage_s_min=0.0)


def message(rng: np.random.Generator) -> bytes:
    """Rows that a champion answered; a quarter of them come true."""
    moment = pa.scalar(1, pa.timestamp("ms", tz="UTC"))
    fixed = {
        "kind": pa.repeat("final", ROWS),
        "model_version": pa.repeat("a" * 12, ROWS),
        "label": pa.array((rng.random(ROWS) < 0.25).astype(np.float64)),
        "numeric": pa.array([[1.0, 2.0]] * ROWS, EXAMPLES.field("numeric").type),
        "category": pa.array([["FI", "app"]] * ROWS, EXAMPLES.field("category").type),
        "event_id": pa.array([str(i) for i in range(ROWS)]),
        "key": pa.array([str(i) for i in range(ROWS)]),
        "event_time": pa.repeat(moment, ROWS),
        "predicted_at": pa.repeat(moment, ROWS),
    }
    columns = [
        fixed[field.name]
        if field.name in fixed
        else pa.nulls(ROWS, field.type)
        if field.nullable
        else pa.repeat(pa.scalar(0, field.type), ROWS)
        for field in EXAMPLES
    ]
    return write_batch(pa.RecordBatch.from_arrays(columns, schema=EXAMPLES))


def publish(registry: Registry, pipeline: Pipeline, probability: float) -> tuple[str, str]:
    manifest, _ = constant(pipeline)
    parameters = {"probability": probability}
    manifest = msgspec.structs.replace(manifest, parameters=parameters)
    return registry.publish(manifest, build(manifest.architecture, parameters).state_dict())


@pytest.mark.parametrize(
    ("before", "tried", "gate", "action"),
    [(0.25, 0.8, True, "rollback"), (0.8, 0.25, True, "promote"), (0.8, 0.25, False, "hold")],
)
def test_a_rollout_ends_as_its_labels_say(
    before: float, tried: float, gate: bool, action: str, kafka: str,
    unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The worse is rolled back, the better promoted, what the gate refused waits for a person."""
    monkeypatch.setattr(judging, "LOOK_S", 0.1)
    monkeypatch.setattr(judging, "POLL_S", 0.1)
    name = unique("judged")
    file = tmp_path / f"{name}.py"
    file.write_text(DECLARATION.format(name=name))
    pipeline = load_pipeline(str(file))
    settings = Settings(kafka=kafka, home=tmp_path)
    create_topics(settings, [*pipeline.topics.all(), *control_topics()])
    registry = open_registry(settings)
    old, old_digest = publish(registry, pipeline, before)
    new, new_digest = publish(registry, pipeline, tried)
    check = Check(name="loss_excess", passed=gate, value=0.0, limit=0.0, why="so it is")
    registry.store_verdict(
        Verdict(
            pipeline=name,
            version=new,
            digest=new_digest,
            champion=old,
            judged_at_ms=1,
            rows=1,
            event_time_ms_first=1,
            event_time_ms_last=1,
            checks=(check,),
        )
    )
    announce(settings, pipeline=name, version=old, digest=old_digest, now_ms=1)
    try_out(settings, name, new, now_ms=2, force_reason="" if gate else "to see")

    reporter = Reporter(tmp_path, "j", "judge", name)

    async def run() -> Announcement:
        judging_it = judging.Judging(pipeline, settings, POLICY, reporter=reporter)
        judge = asyncio.create_task(judging_it.run(once=True))
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        rng = np.random.default_rng(7)
        try:
            for turn in itertools.count():
                await producer.send_and_wait(
                    pipeline.topics.examples.name, message(rng), partition=turn % 2
                )
                await asyncio.sleep(0.05)
                if judge.done():
                    judge.result()
                    break
                if turn % 10 == 0:
                    told = await champion(settings, name)
                    if told is not None and told.held:
                        break
        finally:
            judge.cancel()
            await producer.stop()
        found = await champion(settings, name)
        assert found is not None
        return found

    told = asyncio.run(asyncio.wait_for(run(), 60))
    assert told.action == action, told.reason
    assert told.version == (new if action == "promote" else old)
    assert {"rollback": "beyond doubt", "promote": "beyond doubt", "hold": "the gate refused"}[
        action
    ] in told.reason
    if action == "promote":
        assert told.epoch == 2 + 3 + 1  # three steps, none left out
