"""`learn`: examples a second that one core scores and learns, from Arrow messages to weights."""

import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from models.hybrid import OnlineModel
from schemas.arrow import write_batch
from schemas.examples import EXAMPLES
from schemas.pipeline import Pipeline, label, numeric, online
from streams.bench import report
from streams.bench.result import Goal, Result
from streams.cli.console import console, print_json
from streams.workers.learn import ExampleReader

FEATURES = 20
MESSAGE_ROWS = 500
WARM_ROWS = 1000
GOAL_PER_S = 8_000
QUICK = ("logistic_regression", "torch_mlp", "naive_bayes", "half_space_trees")
SLOW = ("hoeffding_adaptive_tree", "adaptive_random_forest")


def messages(rows: int, *, seed: int) -> list[bytes]:
    """Final examples of 20 numbers whose sum of the first three decides the truth."""
    dice = np.random.default_rng(seed)
    found = []
    for start in range(0, rows, MESSAGE_ROWS):
        count = min(MESSAGE_ROWS, rows - start)
        values = dice.normal(size=(count, FEATURES)).astype(np.float32)
        truth = (values[:, :3].sum(1) + dice.normal(size=count) > 0).astype(np.float64)
        moment = pa.timestamp("ms", tz="UTC")
        zeros = pa.array(np.zeros(count, np.int64))
        columns = {
            "event_id": pa.array([f"e{i}" for i in range(start, start + count)]),
            "key": pa.repeat("k", count),
            "kind": pa.repeat("final", count),
            "label": pa.array(truth),
            "previous": pa.nulls(count, pa.float64()),
            "weight": pa.array(np.ones(count, np.float32)),
            "score": pa.array(np.full(count, 0.5, np.float32)),
            "model_score": pa.array(np.full(count, 0.5, np.float32)),
            "learner_position": zeros,
            "model_version": pa.repeat("v", count),
            "event_time": zeros.view(moment),
            "predicted_at": zeros.view(moment),
            "label_time": zeros.view(moment),
            "revision": zeros.cast(pa.uint32()),
            "delay_ms": zeros,
            "source_partition": zeros.cast(pa.int32()),
            "source_offset": zeros,
            "numeric": pa.array(values.tolist(), pa.list_(pa.float32())),
            "category": pa.array([[]] * count, pa.list_(pa.utf8())),
        }
        arrays = [columns[name] for name in EXAMPLES.names]
        found.append(write_batch(pa.RecordBatch.from_arrays(arrays, schema=EXAMPLES)))
    return found


def run(*, rows: int) -> Result:
    """CPU seconds of one thread, reading the message, scoring and learning each row included."""
    results = []
    for name in (*QUICK, *SLOW):
        pipeline = Pipeline(
            name="bench",
            key="k",
            features=[numeric(f"number_{i}") for i in range(FEATURES)],
            target=label("truth"),
            learner=online(name),
        )
        count = rows if name in QUICK else max(rows // 20, 2 * MESSAGE_ROWS)
        reader, model = ExampleReader(pipeline), OnlineModel(pipeline)
        said, truths = [], []
        for part in (messages(WARM_ROWS, seed=1), messages(count, seed=2)):
            started = time.thread_time()
            for message in part:
                examples = reader.read(message)
                assert reader.columns is not None
                scores = model.take(
                    reader.columns,
                    examples["model_score"].to_numpy(),
                    examples["model_version"].to_pylist(),
                    reader.labels,
                    reader.weights,
                )
                said.append(scores["online"])
                truths.append(reader.labels)
            spent_s = time.thread_time() - started
        assert model.learner.rows_learned == WARM_ROWS + count, model.learner.rows_learned
        right = (np.concatenate(said)[-count // 2 :] > 0.5) == (
            np.concatenate(truths)[-count // 2 :] > 0.5
        )
        results.append(
            {
                "who": name,
                "examples_per_cpu_s": round(count / spent_s),
                "us_per_example": round(1e6 * spent_s / count, 1),
                "snapshot_bytes": len(model.snapshot()),
                "accuracy_second_half": round(float(right.mean()), 3),
            }
        )
    rate = results[0]["examples_per_cpu_s"]
    goal = f"logistic_regression at least {GOAL_PER_S:,} examples per second and core"
    return Result("learn", results, goals=[Goal(goal, int(str(rate)) >= GOAL_PER_S)])


@click.command("learn")
@click.option("--rows", type=click.IntRange(2_000), default=40_000, show_default=True)
@click.option("--write", type=click.Path(path_type=Path), help="FILE.md; .json beside it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(rows: int, write: Path | None, as_json: bool) -> None:
    """Score and learn examples of 20 numbers on one thread, with every kind of learner.

    \b
    Example:
      tidemill bench learn --rows 100000
    """  # noqa: D301
    import torch

    torch.set_num_threads(1)
    result = run(rows=rows)
    found = report.document([result])
    if as_json:
        print_json({**found["results"][0], "machine": found["machine"]})
    else:
        for table in report.tables(result):
            console().print(table)
        console().print(report.goals([result]))
    if write is not None:
        report.write(found, [result], write)
