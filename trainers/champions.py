"""``python -P -m trainers.champions``: frozen, online and hybrid on history, with its real delays.

The classes that serve and learn live are driven here in the order of time: every event is scored
with what was known at its time, and every truth is learned when it was known, never earlier. The
first model is trained as `tidemill up` trains it and then never changes.

Differs from live: time moves in steps of a quarter of an hour, within which all events are scored
before any truth is learned (live it is about a second: so the learners are better there), and keys
are spread over shards by CRC-32.
"""

import dataclasses
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models.features import Encoder, from_table
from models.hybrid import OnlineModel
from models.online import check_learner
from models.protocol import FeatureColumns, Floats
from models.registry import open_registry
from schemas.arrow import spare_pandas
from schemas.errors import SetupError, TidemillError
from schemas.loading import load_pipeline
from schemas.pipeline import Online, Pipeline
from schemas.settings import Settings
from trainers.evaluate import measure, predict
from trainers.first import train_first

STEP_MS = 15 * 60_000
DAY_MS = 86_400_000
CHAMPIONS = ("frozen", "online", "hybrid")
Months = npt.NDArray[np.datetime64]


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """Events after the training, in order of time; all arrays are ``[B]``.

    Attributes:
        columns: Their features.
        deep: What the first model said.
        label: The truth, NaN where it never came.
        event_ms: When they happened.
        label_ms: When the truth was known.
        shard: Which learner they belong to.
    """

    columns: FeatureColumns
    deep: npt.NDArray[np.float32]
    label: Floats
    event_ms: npt.NDArray[np.int64]
    label_ms: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]


def replay(pipeline: Pipeline, later: Later, version: str) -> dict[str, Floats]:
    """The score of every champion for every event, float64 ``[B]`` by name."""
    scores = {name: later.deep.astype(np.float64) for name in CHAMPIONS}
    for shard in np.unique(later.shard):
        rows = np.flatnonzero(later.shard == shard)
        model = OnlineModel(pipeline)
        for due, known in _steps(later, rows):
            if len(due):
                columns = _pick(later.columns, due)
                scores["online"][due] = model.learner.score(columns)
                scores["hybrid"][due] = model.hybrid(columns, later.deep[due], version)
            if len(known):
                model.take(
                    _pick(later.columns, known),
                    later.deep[known],
                    [version] * len(known),
                    later.label[known],
                    np.ones(len(known)),
                )
    return scores


def _steps(
    later: Later, rows: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each step in which something happens: the events in it, and the truths known in it."""
    known = rows[np.isfinite(later.label[rows])]
    known = known[np.argsort(later.label_ms[known], kind="stable")]
    event_step, label_step = later.event_ms[rows] // STEP_MS, later.label_ms[known] // STEP_MS
    steps = np.union1d(event_step, label_step)
    events = np.searchsorted(event_step, [steps, steps + 1])
    labels = np.searchsorted(label_step, [steps, steps + 1])
    for (a, b), (c, d) in zip(events.T.tolist(), labels.T.tolist(), strict=True):
        yield rows[a:b], known[c:d]


def _pick(columns: FeatureColumns, rows: npt.NDArray[np.int64]) -> FeatureColumns:
    width = len(columns.category)
    words = (rows[:, None] * width + np.arange(width)).ravel()
    return FeatureColumns(
        columns.numeric,
        columns.category,
        np.ascontiguousarray(columns.numeric_BF[rows]),
        columns.words.take(pa.array(words)),
    )


def prepare(pipeline: Pipeline, *, seed: int, progress: Any) -> tuple[Later, str]:
    """Train the first model and score all later events with it; also the version's name.

    Raises:
        SetupError: the pipeline has no history or no learner.
    """
    if pipeline.history is None or pipeline.learner is None:
        raise SetupError("could not compare champions: a history= and a learner= are needed")
    check_learner(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        registry = open_registry(Settings(home=Path(folder)))
        found = train_first(
            pipeline, registry, seed=seed, now_ms=lambda: time.time_ns() // 1_000_000,
            progress=progress,
        )  # fmt: skip
        manifest, module = registry.load(pipeline.name, found.version)
    table = pipeline.history()
    event_ms = _integers(table["event_time_ms"])
    table = table.filter(pa.array(event_ms >= event_ms[0] + pipeline.first_training_days * DAY_MS))
    columns = from_table(pipeline.features, table)
    deep = predict(module, Encoder(manifest.features)(columns)).astype(np.float32)
    keys = table[pipeline.key].to_pylist()
    shards = 1 if pipeline.learner.shards == "single" else pipeline.partitions
    label = table["label"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return Later(
        columns,
        deep,
        label,
        _integers(table["event_time_ms"]),
        _integers(table["label_time_ms"].fill_null(0)),
        np.array([zlib.crc32(key.encode()) % shards for key in keys], np.int64),
    ), found.version


def _integers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return found


def by_month(later: Later, scores: Mapping[str, Floats]) -> list[dict[str, Any]]:
    """AUC and log-loss of every champion per month of event time, the whole time last."""
    months = later.event_ms.astype("datetime64[ms]").astype("datetime64[M]")
    known = np.isfinite(later.label)
    rows = []
    for month in [*np.unique(months), None]:
        chosen = known if month is None else known & (months == month)
        if not chosen.any():
            continue
        found = {name: measure(later.label[chosen], scores[name][chosen]) for name in CHAMPIONS}
        rows.append(
            {
                "month": "all" if month is None else str(month),
                "labels": int(chosen.sum()),
                **{f"auc {name}": round(found[name].auc, 4) for name in CHAMPIONS},
                **{f"log-loss {name}": round(found[name].log_loss, 4) for name in CHAMPIONS},
            }
        )
    return rows


def page(pipeline: Pipeline, rows: list[dict[str, Any]], command: str) -> str:
    """The table as Markdown, with what it was made from."""
    names = list(rows[0])
    lines = [f"# Champions of {pipeline.name}: frozen, online, hybrid", ""]
    lines += ["Written by the program that measured it: `trainers/champions.py` says how.", ""]
    lines += [f"- date: {datetime.now(UTC):%Y-%m-%d}", f"- command: `{command}`"]
    lines += [f"- learner: `{pipeline.learner}`", ""]
    lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command(epilog="Example: python -P -m trainers.champions --pipeline flights")
@click.option(
    "--pipeline", "reference", default="flights", show_default=True, help="Or a .py file."
)
@click.option("--learner", default="", help="Another learner than the declared one, by its name.")
@click.option("--single", is_flag=True, help="With --learner: one for all partitions.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first training.")
@click.option("--write", type=click.Path(path_type=Path), help="Also write a Markdown page.")
def main(reference: str, learner: str, single: bool, seed: int, write: Path | None) -> None:
    """Compare the champions of a pipeline on the part of its history after the first training."""
    spare_pandas()
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        pipeline = load_pipeline(reference)
        if learner:
            declared = Online(name=learner, shards="single" if single else "partition")
            pipeline = dataclasses.replace(pipeline, learner=declared)
        later, version = prepare(
            pipeline, seed=seed, progress=lambda line: click.echo(line, err=True)
        )
        rows = by_month(later, replay(pipeline, later, version))
    except (TidemillError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    text = page(pipeline, rows, "python -P -m trainers.champions " + " ".join(sys.argv[1:]))
    click.echo(text)
    click.echo(f"{len(later.label):,} events in {time.perf_counter() - started:.0f} s", err=True)
    if write is not None:
        write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
