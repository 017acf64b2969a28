"""`tidemill bench ledger`: the joiner's own work per row, and what an open prediction weighs.

No broker and no store: what is measured is decoding, joining, encoding and the offset commit's
text, on one core. The rows have 24 numbers, as wide as what the goal speaks of.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa
from faust.types import TP

from schemas.arrow import spare_pandas, write_batch
from schemas.pipeline import Pipeline, label, numeric
from schemas.scored import SCORED
from schemas.settings import Settings
from streams.bench.result import Goal, Result
from streams.cli.console import console, print_json
from streams.ledger.columns import NO_LABELS
from streams.ledger.core import Ledger
from streams.ledger.dump import digest, dump, load
from streams.ledger.rules import Rules
from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.workers.join import Joiner

NUMBERS = 24
MESSAGE_ROWS = 4_096
DELAY_ROWS = 20_000
"""How many predictions later a label comes."""
ROWS_PER_SECOND_MIN = 150_000
OPEN_ROWS = 1_000_000
OPEN_MEGABYTES_MAX = 400

wide = Pipeline(
    name="wide",
    key="k",
    features=[numeric(f"n{i}") for i in range(NUMBERS)],
    target=label("yes"),
    horizon="30d",
)


@click.command("ledger")
@click.option("--rows", type=click.IntRange(MESSAGE_ROWS), default=400_000, show_default=True)
@click.option("--open", "open_rows", type=click.IntRange(1_000), default=OPEN_ROWS)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(rows: int, open_rows: int, as_json: bool) -> None:
    """Rows per second and core of the joiner, and the memory of open predictions.

    \b
    Example:
      tidemill bench ledger --json | jq .results
    """  # noqa: D301
    spare_pandas()
    found = measure(rows, open_rows)
    if as_json:
        print_json(found.document())
    else:
        for line in found.results:
            console().print(", ".join(f"{name} {value}" for name, value in line.items()))
        for goal in found.goals:
            console().print(f"{'met' if goal.met else '[red]missed[/red]'}  {goal.text}")


def measure(rows: int, open_rows: int) -> Result:
    """Both measurements."""
    held = _held(open_rows)
    joined = _joined(rows)
    speed, weight = joined["rows_per_cpu_second"], held["megabytes"] * OPEN_ROWS / open_rows
    return Result(
        "ledger",
        [joined, held],
        goals=[
            Goal(f"at least {ROWS_PER_SECOND_MIN:,} rows/s per core", speed >= ROWS_PER_SECOND_MIN),
            Goal(f"1 M open in at most {OPEN_MEGABYTES_MAX} MB", weight <= OPEN_MEGABYTES_MAX),
        ],
    )


def _joined(rows: int) -> dict[str, Any]:
    """Predictions and their labels, a message of each per turn, through everything but Kafka."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        reporter = Reporter(settings.run_folder, "bench", "join", wide.name)
        joiner = Joiner(wide, 0, settings, reporter)
        spent, taken = 0.0, 0
        offsets = (0, 0)
        for scored, labels in _traffic(rows):
            started = time.thread_time()
            joiner.turn([[scored], [labels] if len(labels) else []])
            offsets = (scored.next_offset, max(offsets[1], labels.next_offset))
            joiner.record(offsets)
            spent += time.thread_time() - started
            taken += MESSAGE_ROWS + len(labels)
            joiner.committed()
        counts = joiner.ledger.counts()
    assert counts["joined"] == counts["labels"] > 0, counts
    return {
        "who": "joiner",
        "rows": taken,
        "joined": counts["joined"],
        "us_per_row": round(1e6 * spent / taken, 2),
        "rows_per_cpu_second": round(taken / spent),
    }


def _traffic(rows: int) -> Iterator[tuple[Run, Run]]:
    for turn, first in enumerate(range(0, rows, MESSAGE_ROWS)):
        message = write_batch(_predictions(first, MESSAGE_ROWS))
        scored = Run(TP("scored", 0), [None], [message], [first], [turn], turn + 1)
        known = range(max(0, first - DELAY_ROWS), max(0, first + MESSAGE_ROWS - DELAY_ROWS))
        values: Sequence[bytes | None] = [
            b'{"event_id":"%s","value":1,"label_time_ms":%d}' % (_id(i).encode(), i + 1)
            for i in known
        ]
        count = len(values)
        yield (
            scored,
            Run(
                TP("labels", 0), [b"k"] * count, list(values), [1 << 50] * count, known, known.stop
            ),
        )


def _held(rows: int) -> dict[str, Any]:
    """Memory of open predictions, and how long their snapshot takes."""
    process = psutil.Process()
    Ledger(Rules(horizon_ms=1)).turn([_predictions(0, 100)], NO_LABELS)
    pool = pa.default_memory_pool()
    before = process.memory_info().rss
    ledger = Ledger(Rules(horizon_ms=1 << 40, rows_max=2 * rows, bytes_max=1 << 40))
    for first in range(0, rows, MESSAGE_ROWS):
        message = write_batch(_predictions(first, min(MESSAGE_ROWS, rows - first)))
        with pa.ipc.open_stream(pa.py_buffer(message)) as reader:
            ledger.turn([reader.read_next_batch()], NO_LABELS)
    pool.release_unused()
    grown = process.memory_info().rss - before
    started = time.process_time()
    content = dump(ledger)
    dumped = time.process_time()
    again = load(content)
    loaded = time.process_time()
    assert digest(again) == digest(ledger)
    return {
        "who": "ledger",
        "open": rows,
        "megabytes": round(grown / 1e6, 1),
        "bytes_per_open": round(grown / rows),
        "counted_bytes_per_open": round(ledger.open_bytes / rows),
        "snapshot_megabytes": round(len(content) / 1e6, 1),
        "dump_cpu_ms": round(1e3 * (dumped - started)),
        "load_cpu_ms": round(1e3 * (loaded - dumped)),
    }


def _id(number: int) -> str:
    return f"2013-02-12-UA{number:08d}-EWR"


def _predictions(first: int, rows: int) -> pa.RecordBatch:
    dice = np.random.default_rng(first)
    moments = pa.array(np.arange(first, first + rows)).view(pa.timestamp("ms", tz="UTC"))
    scores = pa.array(dice.random(rows, dtype=np.float32))
    bounds = np.arange(0, rows * NUMBERS + 1, NUMBERS, dtype=np.int32)
    numbers = pa.array(dice.random(rows * NUMBERS, dtype=np.float32))
    columns = {
        "event_id": pa.array([_id(i) for i in range(first, first + rows)], pa.utf8()),
        "key": pa.array([f"N{i % 9_999:05d}" for i in range(first, first + rows)], pa.utf8()),
        "event_time": moments,
        "produced_at": moments,
        "predicted_at": moments,
        "score": scores,
        "model_version": pa.repeat("9c2b4b811d5c", rows),
        "model_age_ms": pa.repeat(pa.scalar(1, pa.int64()), rows),
        "source_partition": pa.repeat(pa.scalar(0, pa.int32()), rows),
        "source_offset": pa.array(np.arange(first, first + rows)),
        "numeric": pa.ListArray.from_arrays(pa.array(bounds), numbers),
        "category": pa.array([[]] * rows, pa.list_(pa.utf8())),
        "model_score": scores,
        "learner_position": pa.repeat(pa.scalar(-1, pa.int64()), rows),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCORED.names], schema=SCORED)
