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
from streams.learners import MODEL, OBSERVER, read_snapshots
from streams.telemetry import Reporter
from streams.transport.records import Run
from tests.connected.chaining import Killer
from tests.connected.copying import read_all

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


async def knowledge(settings: Settings, pipeline: Pipeline) -> dict[int, tuple]:
    """Of each shard what is published: digest, the observer's state, rows learned, epoch."""
    keyring = load_keyring(settings.signing_key_file)
    found = {}
    for shard, snapshot in (await read_snapshots(pipeline, settings, keyring)).items():
        model = OnlineModel(pipeline)
        model.restore(snapshot.parts[MODEL])
        found[shard] = (
            model.digest(), snapshot.parts[OBSERVER], snapshot.header.rows_learned,
        )  # fmt: skip
    return found


async def expected(settings: Settings, pipeline: Pipeline, folder: Path) -> dict[int, tuple]:
    """Of each shard what a learner knows that nothing interrupted: the log, folded here."""
    from streams.learn import LearnState

    topic = pipeline.topics.examples
    log = await read_all(settings.kafka, topic.name, partitions=topic.partitions)
    found = {}
    for shard, values in log.items():
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
        rows = len(values)
        run = Run(TP(topic.name, shard), [None] * rows, list(values), [0] * rows, range(rows), rows)
        state.turn([[run]])
        found[shard] = (
            state.model.digest(), state._observer.snapshot(), state.model.learner.rows_learned,
        )  # fmt: skip
    return found


async def agrees(settings: Settings, pipeline: Pipeline, feed: Feed, *, worker) -> str:
    """Wait until the worker has published all there is, then compare; empty if it is the same."""
    said = ""
    for _ in range(30):
        await feed.once()  # a snapshot is taken with a turn: so there is always another one
        await asyncio.sleep(1.0)
        if not worker.alive:
            return "the worker ended"
        wanted = await expected(settings, pipeline, settings.home)
        found = await knowledge(settings, pipeline)
        if found == wanted:
            return ""
        said = (
            f"learned {[(s, f[2]) for s, f in found.items()]}, "
            f"expected {[(s, f[2]) for s, f in wanted.items()]}"
        )
    return said


def arm(point: str, number: int) -> None:
    """Let this process end itself with SIGKILL the ``number``-th time it passes ``point``.

    Whole snapshots are made rare, so that there are offers between them and much to repeat.
    """
    import streams.learn
    from streams.learn import LearnState

    streams.learn.SNAPSHOT_SHARE_MAX = 0.002
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
