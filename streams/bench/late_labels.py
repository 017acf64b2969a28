"""`late-labels`: River's question-and-answer order through real topics gives River's figures.

River publishes what its models reach when labels come late: a question is answered by the model as
it is then, and the model learns the answer when it comes (`evaluate.progressive_val_score` with a
delay). Here the same order goes the platform's way: the label ledger writes the journal of examples
to a topic of the embedded broker, a real ``tidemill worker learn`` scores and learns it, and what
is compared is the sum of its evaluations, read back from their topic. So a label that is learned
twice, too early, too late or not at all, or judged by a later score, shows in a digit.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from aiokafka import AIOKafkaProducer

from models.hybrid import OnlineModel
from models.measures import Measures, summed
from models.observer import PipelineObserver
from schemas.arrow import spare_pandas
from schemas.errors import KafkaUnavailable
from schemas.evaluations import read_evaluations
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.bench.delayed import ANCHORS, Anchor, by_river, journal, messages_of, rows_of
from streams.books.committed import CommittedReader
from streams.cli.console import console, print_json
from streams.local.child import ChildProcess
from streams.local.kafka import EmbeddedKafka
from streams.transport.administration import create_topics
from streams.workers.learn import ExampleReader

LIMIT_S: Final = 600.0
"""For all learners together; a minute on two cores that others use as well."""


_DECLARATION = """from schemas.pipeline import Pipeline, label, numeric, online

late = Pipeline(
    name="{name}",
    key="row",
    features=[{features}],
    target=label("truth", kind="{kind}", prior={prior}),
    partitions=1,
    horizon="3650d",
    learner=online("{learner}", shards="single"),
    champion="online",
)
"""


@click.command("late-labels")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(as_json: bool) -> None:
    """Replay River's delayed labels through real topics and compare with its figures.

    Prints each anchor with its expected value, with what River gives here, and with what came out
    of the topics. Exit code 1 if one is off.

    \b
    Example:
      tidemill bench late-labels --json | jq '.anchors[] | {anchor, expected, measured}'
    """  # noqa: D301
    spare_pandas()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tidemill-late-labels-") as folder:
        measured = asyncio.run(through_topics(ANCHORS, Path(folder)))
    rows = [
        {
            "anchor": f"{anchor.dataset} {_late(anchor)}",
            "measure": "accuracy %" if anchor.binary else "MAE",
            "expected": anchor.expected,
            "tolerance": anchor.tolerance,
            "river": round(by_river(anchor), 4),
            "measured": round(value, 4),
            "met": abs(value - anchor.expected) <= anchor.tolerance,
        }
        for anchor, value in zip(ANCHORS, measured, strict=True)
    ]
    met = all(row["met"] for row in rows)
    if as_json:
        seconds = round(time.monotonic() - started, 1)
        print_json({"name": "late-labels", "met": met, "seconds": seconds, "anchors": rows})
    else:
        _print(rows)
    sys.exit(0 if met else 1)


def _late(anchor: Anchor) -> str:
    if anchor.delay is None:
        return "at once"
    unit = "events" if anchor.binary else "days" if anchor.delay > 1 else "day"
    return f"{anchor.delay} {unit} late"


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("labels", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("expected", "River", "topics", ""):
        table.add_column(name, justify="right")
    for row in rows:
        digits = 2 if row["measure"].startswith("accuracy") else 3
        figures = [f"{row[key]:.{digits}f}" for key in ("expected", "river", "measured")]
        verdict = "[green]ok[/green]" if row["met"] else "[red]off[/red]"
        table.add_row(row["anchor"], row["measure"], *figures, verdict)
    console().print(table)


def declare(anchor: Anchor, folder: Path) -> tuple[Path, Pipeline]:
    """A pipeline file for this anchor, and what it declares."""
    names = list(rows_of(anchor)[0][0])
    file = folder / f"{anchor.name}.py"
    text = _DECLARATION.format(
        name=anchor.name,
        features=", ".join(f'numeric("{name}")' for name in names),
        kind="binary" if anchor.binary else "number",
        prior=0.5 if anchor.binary else 0.0,
        learner="logistic_regression" if anchor.binary else "linear_regression",
    )
    file.write_text(text, encoding="utf-8")
    return file, load_pipeline(str(file))


def figure(anchor: Anchor, online: Measures) -> float:
    """The anchor's measure, from sums of evaluations."""
    return 100 * online.accuracy if anchor.binary else online.mae


def in_one_process(anchor: Anchor, folder: Path) -> float:
    """The same learner and observer over the same messages, without any topic."""
    _file, pipeline = declare(anchor, folder)
    model, observer, reader = (
        OnlineModel(pipeline),
        PipelineObserver(pipeline),
        ExampleReader(pipeline),
    )
    found = []
    for message in messages_of(journal(anchor)):
        examples = reader.read(message)
        assert reader.columns is not None
        scores = model.take(
            reader.columns,
            np.asarray(examples["model_score"], np.float32),
            examples["model_version"].to_pylist(),
            reader.labels,
            reader.weights,
        )
        seen = observer.observe(examples, scores).evaluations
        found += [] if seen is None else [seen]
    return figure(anchor, summed(found)["online"])


async def through_topics(anchors: Sequence[Anchor], folder: Path) -> list[float]:
    """The figures of real learn workers, over the topics of an embedded broker.

    Raises:
        SetupError, TransientError: broker or workers did not do it within `LIMIT_S`.
    """
    kafka = EmbeddedKafka(folder / "kafka")
    await asyncio.to_thread(kafka.start)
    try:
        return await on_broker(kafka.address, anchors, folder)
    finally:
        await asyncio.to_thread(kafka.stop)


async def on_broker(kafka: str, anchors: Sequence[Anchor], folder: Path) -> list[float]:
    """The same on a broker that runs; topics are named by the anchors."""
    declared = [declare(anchor, folder) for anchor in anchors]
    settings = Settings(home=folder, kafka=kafka, clickhouse="http://127.0.0.1:1")
    create_topics(settings, [t for _, pipeline in declared for t in pipeline.topics.all()])
    with _learners(settings, declared) as workers:
        await _send(settings, anchors, declared)
        return await _figures(settings, anchors, declared, workers)


@contextmanager
def _learners(
    settings: Settings, declared: Sequence[tuple[Path, Pipeline]]
) -> Iterator[list[ChildProcess]]:
    mine = {name: v for name, v in os.environ.items() if not name.startswith("TIDEMILL_")}
    workers: list[ChildProcess] = []
    try:
        for file, pipeline in declared:
            name = f"{pipeline.name}-learn-0"
            program = [sys.executable, "-P", "-m", "streams.cli.main", "worker", "learn"]
            workers.append(
                ChildProcess(
                    [*program, "--pipeline", str(file), "--name", name],
                    log=settings.home / "logs" / f"{name}.log",
                    env=mine | settings.environment(),
                )
            )
        yield workers
    finally:
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.stop(grace_s=25)


async def _send(
    settings: Settings, anchors: Sequence[Anchor], declared: Sequence[tuple[Path, Pipeline]]
) -> None:
    producer = AIOKafkaProducer(**settings.kafka_client_options(), enable_idempotence=True)
    await producer.start()
    try:
        for anchor, (_file, pipeline) in zip(anchors, declared, strict=True):
            for message in messages_of(journal(anchor)):
                await producer.send_and_wait(pipeline.topics.examples.name, message, partition=0)
    finally:
        await producer.stop()


async def _figures(
    settings: Settings,
    anchors: Sequence[Anchor],
    declared: Sequence[tuple[Path, Pipeline]],
    workers: Sequence[ChildProcess],
) -> list[float]:
    """Wait until every truth is in the evaluations, then say what they add up to."""
    deadline = time.monotonic() + LIMIT_S
    found = []
    async with CommittedReader(settings) as reader:
        for anchor, (_file, pipeline), worker in zip(anchors, declared, workers, strict=True):
            wanted = len(rows_of(anchor))
            while (online := await _online(reader, pipeline)).counts.get("labels", 0) < wanted:
                if worker.exit_code() is not None or time.monotonic() > deadline:
                    raise KafkaUnavailable(
                        f"could not measure {anchor.name}: {online.counts.get('labels', 0)} of "
                        f"{wanted} truths within {LIMIT_S:.0f} s, learner's exit code "
                        f"{worker.exit_code()}. Its log ends:\n{worker.log_tail(20)}"
                    )
                await asyncio.sleep(1.0)
            assert online.counts["labels"] == wanted, (anchor.name, online.counts)
            found.append(figure(anchor, online))
    return found


async def _online(reader: CommittedReader, pipeline: Pipeline) -> Measures:
    topic = pipeline.topics.evaluations.name
    batches = [
        read_evaluations(record.value or b"")
        async for _partition, records in reader.read(topic, await reader.spans(topic))
        for record in records
    ]
    return summed(batches).get("online", Measures())
