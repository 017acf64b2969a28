"""Feeds a real learn worker with examples, kills it at a named point, and says what it must know."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
from aiokafka import AIOKafkaProducer
from faust.types import TP

from models.hybrid import OnlineModel
from models.observer import PipelineObserver
from models.signing import load_keyring
from schemas.arrow import write_batch
from schemas.examples import EXAMPLES
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.workers.learners import MODEL, OBSERVER, read_snapshots
from tests.connected.chaining import Killer
from tests.connected.copying import read_records

POINTS = ("snapshot", "offer", "computed", "offsets", "committed", "replay")
PARTITIONS = 2
DECLARATION = """
from schemas.pipeline import Pipeline, category, label, numeric, online

shop = Pipeline(
    name="{name}", key="user", features=[numeric("price"), numeric("age"), category("country")],
    target=label("bought"), partitions={partitions}, learner=online("{learner}", {parameters}),
)
"""


def declare(
    folder: Path, name: str, learner: str = "logistic_regression", parameters: str = ""
) -> tuple[Path, Pipeline]:
    """A pipeline file, and what it declares."""
    file = folder / f"{name}.py"
    text = DECLARATION.format(
        name=name, partitions=PARTITIONS, learner=learner, parameters=parameters
    )
    file.write_text(text, encoding="utf-8")
    return file, load_pipeline(str(file))


def settings_of(kafka: str, home: Path) -> Settings:
    return Settings(
        kafka=kafka,
        home=home,
        clickhouse="http://127.0.0.1:1",
        session_timeout_ms=3000,
        transaction_timeout_ms=5000,
        learn_turn_ms_max=40,
    )


def message(number: int, *, rows: int = 12) -> bytes:
    """The examples number ``number * rows`` and so on: some pending, the others with their truth."""
    dice = np.random.default_rng(number)
    numeric = dice.normal(size=(rows, 2)).astype(np.float32)
    kinds = dice.choice(
        ["pending", "final", "provisional", "corrected", "expired"], rows,
        p=[0.45, 0.4, 0.05, 0.05, 0.05],
    )  # fmt: skip
    known = np.isin(kinds, ("final", "provisional", "corrected"))
    truth = (numeric[:, 0] > 0).astype(np.float64)
    first = number * rows
    moment = pa.timestamp("ms", tz="UTC")
    times = pa.array(range(first * 1000, (first + rows) * 1000, 1000), pa.int64())
    columns = {
        "event_id": [f"e{i}" for i in range(first, first + rows)],
        "key": ["k"] * rows,
        "kind": kinds.tolist(),
        "label": pa.array(truth, mask=~known),
        "previous": pa.array(1.0 - truth, mask=kinds != "corrected"),
        "weight": np.where(known, 1.0, 0.0).astype(np.float32),
        "score": dice.random(rows).astype(np.float32),
        "model_score": dice.random(rows).astype(np.float32),
        "learner_position": [-1] * rows,
        "model_version": ["v1" if i % 7 else "v2" for i in range(rows)],
        "event_time": times.view(moment),
        "predicted_at": times.view(moment),
        "label_time": pa.array(times.to_pylist(), pa.int64(), mask=~known).view(moment),
        "revision": [0] * rows,
        "delay_ms": pa.array([0] * rows, pa.int64(), mask=~known),
        "source_partition": [0] * rows,
        "source_offset": list(range(first, first + rows)),
        "numeric": numeric.tolist(),
        "category": [[word] for word in dice.choice(["FI", "SE", "NO"], rows)],
    }
    arrays = [
        found if isinstance(found, pa.Array) else pa.array(found, EXAMPLES.field(name).type)
        for name, found in columns.items()
    ]
    return write_batch(pa.RecordBatch.from_arrays(arrays, schema=EXAMPLES))


class Feed:
    """Sends messages in transactions, as a joiner does, until it is told to stop."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self.stop = asyncio.Event()
        self.sent = 0

    async def run(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._kafka, transactional_id=f"feed-{self._topic}"
        )
        await producer.start()
        try:
            while not self.stop.is_set():
                async with producer.transaction():
                    for _ in range(PARTITIONS):
                        await producer.send(
                            self._topic, message(self.sent), partition=self.sent % PARTITIONS
                        )
                        self.sent += 1
                await asyncio.sleep(0.5)
        finally:
            await producer.stop()

    async def once(self) -> None:
        """One more message to each partition."""
        producer = AIOKafkaProducer(bootstrap_servers=self._kafka)
        await producer.start()
        for partition in range(PARTITIONS):
            await producer.send_and_wait(self._topic, message(self.sent), partition=partition)
            self.sent += 1
        await producer.stop()


async def compared(settings: Settings, pipeline: Pipeline) -> tuple[str, int]:
    """In what the published learners differ from a replay of their examples, empty: in nothing; and
    how many examples the replay learned.

    Weights and observer are compared bit by bit where the snapshot was taken, and behind it there may
    be no example that teaches.
    """
    topic, said, rows = pipeline.topics.examples, [], 0
    keyring = load_keyring(settings.signing_key_file)
    snapshots = await read_snapshots(pipeline, settings, keyring)
    log = await read_records(settings.kafka, topic.name, partitions=topic.partitions)
    for shard, records in log.items():
        state = _learner(pipeline, shard, settings.home)
        snapshot = snapshots.get(shard)
        end = snapshot.header.position if snapshot else 0
        state.turn([[_run(TP(topic.name, shard), records, 0, end)]])
        if snapshot:
            model = OnlineModel(pipeline)
            model.restore(snapshot.parts[MODEL])
            if model.digest() != state.model.digest():
                said.append(f"shard {shard}: other weights at {end}")
            if snapshot.parts[OBSERVER] != state._observer.snapshot():
                said.append(f"shard {shard}: other observations at {end}")
        known = state.model.learner.rows_learned
        state.turn([[_run(TP(topic.name, shard), records, end, 1 << 62)]])
        if known != state.model.learner.rows_learned:
            lacks = state.model.learner.rows_learned - known
            said.append(f"shard {shard}: {lacks} examples are not learned at {end}")
        rows += known
    return "; ".join(said), rows


def _learner(pipeline: Pipeline, shard: int, folder: Path):
    from streams.workers.learn import LearnState

    state = LearnState(
        pipeline,
        shard,
        make_model=lambda: OnlineModel(pipeline),
        observer=PipelineObserver(pipeline, shard),
        keyring=load_keyring(folder / "other.pem"),
        read_back=lambda _shard: None,
        reporter=Reporter(folder, "x", "learn"),
    )
    state.restore("")
    return state


def _run(tp: TP, records: list[tuple[int, bytes]], first: int, end: int) -> Run:
    """The records from offset ``first`` up to, not including, ``end``."""
    kept = [(offset, value) for offset, value in records if first <= offset < end]
    offsets, values = [offset for offset, _ in kept], [value for _, value in kept]
    rows, after = len(kept), offsets[-1] + 1 if kept else first
    return Run(tp, [None] * rows, values, [0] * rows, offsets, after)


async def agrees(settings: Settings, pipeline: Pipeline, feed: Feed, *, worker) -> str:
    """Wait until the worker has published all there is, then compare; empty if it is the same."""
    said = ""
    for _ in range(30):
        await feed.once()  # a snapshot is taken with a turn: so there is always another one
        await asyncio.sleep(1.0)
        if not worker.alive:
            return "the worker ended"
        said, _rows = await compared(settings, pipeline)
        if not said:
            return ""
    return said


def arm(point: str, number: int) -> None:
    """Let this process end itself with SIGKILL the ``number``-th time it passes ``point``.

    Whole snapshots are made rare, so that there are offers between them and much to repeat.
    """
    import streams.workers.learn
    from streams.workers.learn import LearnState

    streams.workers.learn.SNAPSHOT_SHARE_MAX = 0.002
    killer = Killer(point, number)
    hooks = {
        "_publish": "snapshot", "_offer": "offer", "record": "computed", "committed": "committed",
        "verify": "replay",
    }  # fmt: skip
    for name, passed in hooks.items():
        original = getattr(LearnState, name)

        def hooked(self, *arguments, _original=original, _passed=passed):
            killer(_passed)
            return _original(self, *arguments)

        setattr(LearnState, name, hooked)
    ending = AIOKafkaProducer.commit_transaction

    async def commit_transaction(self) -> None:
        killer("offsets")
        await ending(self)

    AIOKafkaProducer.commit_transaction = commit_transaction
