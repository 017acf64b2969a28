"""Watches rollouts of a pipeline and takes their steps: reads `<pipeline>.examples`, nothing else.

It keeps nothing: a judge that starts reads the examples of the running rollout again from its
beginning. Of two judges at once one is refused at each step, because the epoch has changed. It acts
only on what it has seen: anything announced in between, or a person's hold, stops it. A version
that the gate has not passed is never promoted: the rollout is held for a person instead.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from models import rollout
from models.engine import Loaded
from models.judge import JudgePolicy, Opinion, RolloutJudge
from models.protocol import FeatureColumns
from models.registry import load_serving, open_registry
from models.rollout import in_canary
from schemas.errors import ModelError
from schemas.examples import read_examples
from schemas.features import split
from schemas.manifest import Announcement, NamedVersion
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.control.announce import champion
from streams.rollout.promotion import existing, promote, steer, unchanged
from streams.telemetry import Reporter

log = structlog.get_logger()

POLL_S = 1.0
LOOK_S = 1.0
"""Time between two decisions at least: what came meanwhile is judged together."""
SETTLE_MS = 10_000
"""After a step, so long workers may still answer by the step before."""


@dataclass(frozen=True, slots=True)
class Rivals:
    """Both versions of a rollout in memory, and what they are asked about."""

    pipeline: Pipeline
    champion: Loaded
    challenger: Loaded

    def observe(self, judge: RolloutJudge, message: bytes, announced: Announcement) -> int:
        """Show one message of examples to ``judge``; return how many rows had a truth.

        Raises:
            SchemaError: it holds no examples.
        """
        examples = read_examples(message)
        labels = examples["label"].to_numpy(zero_copy_only=False).astype(np.float64)
        known = pc.is_in(examples["kind"], pa.array(["final", "provisional"]))
        usable = known.to_numpy(zero_copy_only=False) & (labels >= 0.0) & (labels <= 1.0)
        rows = examples.filter(pa.array(usable))
        count: int = rows.num_rows
        columns = self._columns(rows)
        if not count or columns is None:
            return 0
        judge.observe(
            labels[usable],
            self.champion.score(columns).astype(np.float64),
            self.challenger.score(columns).astype(np.float64),
        )
        if announced.stage == "canary":
            judge.observe_answers(self._failed(rows, announced))
        return count

    def _columns(self, rows: pa.RecordBatch) -> FeatureColumns | None:
        numeric, category = split(self.pipeline.features)
        names = tuple(item.name for item in numeric)
        numbers = rows["numeric"].flatten().to_numpy(zero_copy_only=False)
        words = rows["category"].flatten()
        if (len(numbers), len(words)) != (
            rows.num_rows * len(names),
            rows.num_rows * len(category),
        ):
            log.warning("examples with other features", rows=rows.num_rows)
            return None
        return FeatureColumns(
            names,
            tuple(item.name for item in category),
            numbers.astype(np.float32).reshape(rows.num_rows, len(names)),
            words,
        )

    def _failed(self, rows: pa.RecordBatch, announced: Announcement) -> Any:
        """For rows of the canary's keys since the last step: whether the champion answered."""
        begun = announced.announced_at_ms + SETTLE_MS
        late_enough = rows["predicted_at"].cast(pa.int64()).to_numpy() >= begun
        salt = self.challenger.version
        mine = in_canary(rows["key"].to_pylist(), salt=salt, share=announced.share) & late_enough
        answered = pc.equal(rows["model_version"], salt).to_numpy(zero_copy_only=False)
        return ~answered[mine]


class Judging:
    """Follows what is announced for one pipeline and judges its rollouts, one after the other."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        policy: JudgePolicy,
        *,
        reporter: Reporter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._policy = policy
        self._counters = reporter.counters
        self._clock = clock

    async def run(self, *, once: bool = False) -> None:
        """Judge for ever; with ``once`` until the rollout that runs, or the next one, has ended."""
        while True:
            announced = await champion(self._settings, self._pipeline.name)
            if announced is not None and announced.challenger is not None:
                await self._judge(announced, announced.challenger)
                if once:
                    return
            await asyncio.sleep(POLL_S)

    async def _judge(self, announced: Announcement, challenger: NamedVersion) -> None:
        """One rollout to its end."""
        rivals = Rivals(
            self._pipeline,
            await asyncio.to_thread(self._load, announced, announced.champion),
            await asyncio.to_thread(self._load, announced, challenger),
        )
        judge, began_ms = RolloutJudge(self._policy), announced.tried_at_ms
        log.info("rollout judged", version=challenger.version, stage=announced.stage)
        consumer = await self._examples_since(began_ms)
        try:
            while announced.challenger == challenger and announced.tried_at_ms == began_ms:
                polled = await consumer.getmany(timeout_ms=int(LOOK_S * 1000))
                for records in polled.values():
                    for record in records:
                        self._counters["judged_rows"] += await asyncio.to_thread(
                            rivals.observe, judge, record.value, announced
                        )
                found = await champion(self._settings, self._pipeline.name)
                announced = existing(found, self._pipeline.name)
                if announced.challenger == challenger:
                    self._counters["looks"] += 1
                    announced = await asyncio.to_thread(
                        self._act, judge.decide(announced), announced, challenger
                    )
        finally:
            await consumer.stop()

    async def _examples_since(self, began_ms: int) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client_options(),
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        await consumer.start()
        topic = self._pipeline.topics.examples
        partitions = [TopicPartition(topic.name, p) for p in range(topic.partitions)]
        consumer.assign(partitions)
        starts = await consumer.offsets_for_times(dict.fromkeys(partitions, began_ms))
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            found = starts.get(partition)
            consumer.seek(partition, ends[partition] if found is None else found.offset)
        return consumer

    def _act(self, opinion: Opinion, announced: Announcement, named: NamedVersion) -> Announcement:
        """Take the step that ``opinion`` asks for; what is announced then."""
        now_ms = int(self._clock() * 1000)
        young = now_ms - announced.announced_at_ms < self._policy.stage_s_min * 1000
        if opinion.step == "wait" or (young and opinion.step != "rollback"):
            return announced
        self._counters[f"steps_{opinion.step}"] += 1
        log.info("rollout decided", step=opinion.step, version=named.version, why=opinion.reason)
        name = self._pipeline.name
        try:
            if opinion.step == "promote":
                return self._promote(opinion, announced, named, now_ms=now_ms)
            how = rollout.widen if opinion.step == "widen" else rollout.roll_back
            return self._steer(how, opinion, announced, now_ms=now_ms)
        except ModelError as refused:  # somebody was quicker, or holds it
            log.info("rollout not moved", pipeline=name, why=str(refused))
            return announced

    def _promote(
        self, opinion: Opinion, announced: Announcement, named: NamedVersion, *, now_ms: int
    ) -> Announcement:
        try:
            return promote(
                self._settings,
                self._pipeline.name,
                named.version,
                now_ms=now_ms,
                by=opinion.reason,
                seen_epoch=announced.epoch,
                evidence=opinion.numbers,
            )
        except ModelError as refused:
            told = Opinion(
                step="wait",
                reason=f"{opinion.reason}; but {refused}",
                numbers=opinion.numbers,
            )
            return self._steer(rollout.hold, told, announced, now_ms=now_ms)

    def _steer(
        self,
        how: Callable[..., Announcement],
        opinion: Opinion,
        announced: Announcement,
        *,
        now_ms: int,
    ) -> Announcement:
        def step(before: Announcement | None) -> Announcement:
            present = existing(before, self._pipeline.name)
            unchanged(present, announced.epoch)
            return how(present, at_ms=now_ms, reason=opinion.reason)

        return steer(
            self._settings, self._pipeline.name, step, now_ms=now_ms, evidence=opinion.numbers
        )

    def _load(self, announced: Announcement, named: NamedVersion) -> Loaded:
        told = msgspec.structs.replace(announced, version=named.version, digest=named.digest)
        return load_serving(open_registry(self._settings), told)
