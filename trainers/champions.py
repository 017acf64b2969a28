"""``python -P -m trainers.champions``: frozen, online and hybrid on history, with its real delays.

The classes that serve and learn live are driven here in the order of time: every event is scored
with what was known at its time, and every truth is learned when it was known, never earlier. The
first model is trained as `tidemill up` trains it and then never changes; with ``--monthly`` also
one that is trained anew at the beginning of each month, on every label that was known then, and the
learner that corrects it.

Differs from live: time moves in steps of a quarter of an hour, within which all events are scored
before any truth is learned (live it is about a second: so the learners are better there), and keys
are spread over shards by CRC-32.
"""

import dataclasses
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
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
MONTH_ROWS_MIN = 1_000
CHAMPIONS = ("frozen", "online", "hybrid")
MONTHLY = {"frozen": "monthly", "hybrid": "monthly hybrid"}
Say = Callable[[FeatureColumns], npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """Events after the training, in order of time; all arrays are ``[B]``.

    Attributes:
        columns: Their features.
        deep: What the deep model of the time said.
        version: Which one that was.
        label: The truth, NaN where it never came.
        event_ms: When they happened.
        label_ms: When the truth was known.
        shard: Which learner they belong to.
    """

    columns: FeatureColumns
    deep: npt.NDArray[np.float32]
    version: npt.NDArray[np.str_]
    label: Floats
    event_ms: npt.NDArray[np.int64]
    label_ms: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]


def replay(pipeline: Pipeline, later: Later) -> dict[str, Floats]:
    """The score of every champion for every event, float64 ``[B]`` by name."""
    scores = {name: later.deep.astype(np.float64) for name in CHAMPIONS}
    for shard in np.unique(later.shard):
        rows = np.flatnonzero(later.shard == shard)
        model = OnlineModel(pipeline)
        for due, known in _steps(later, rows):
            if len(due):
                columns = _pick(later.columns, due)
                scores["online"][due] = model.learner.score(columns)
                for version in np.unique(later.version[due]):
                    own = due[later.version[due] == version]
                    mine = _pick(later.columns, own)
                    scores["hybrid"][own] = model.hybrid(mine, later.deep[own], str(version))
            if len(known):
                model.take(
                    _pick(later.columns, known),
                    later.deep[known],
                    later.version[known].tolist(),
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


def prepare(pipeline: Pipeline, *, seed: int, progress: Any) -> Later:
    """Train the first model and score all later events with it.

    Raises:
        SetupError: the pipeline has no history or no learner.
    """
    if pipeline.history is None or pipeline.learner is None:
        raise SetupError("could not compare champions: a history= and a learner= are needed")
    check_learner(pipeline)
    table = pipeline.history()
    event_ms = _integers(table["event_time_ms"])
    table = table.filter(pa.array(event_ms >= event_ms[0] + pipeline.first_training_days * DAY_MS))
    columns = from_table(pipeline.features, table)
    version, say = _trained(pipeline, days=None, seed=seed, progress=progress)
    deep = say(columns)
    keys = table[pipeline.key].to_pylist()
    shards = 1 if pipeline.learner.shards == "single" else pipeline.partitions
    label = table["label"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return Later(
        columns,
        deep,
        np.full(len(deep), version),
        label,
        _integers(table["event_time_ms"]),
        _integers(table["label_time_ms"].fill_null(0)),
        np.array([zlib.crc32(key.encode()) % shards for key in keys], np.int64),
    )


def _trained(pipeline: Pipeline, *, days: int | None, seed: int, progress: Any) -> tuple[str, Say]:
    """A version of the first ``days`` of the history (None: as declared), and what it says."""
    with tempfile.TemporaryDirectory() as folder:
        registry = open_registry(Settings(home=Path(folder)))
        found = train_first(
            pipeline, registry, seed=seed, now_ms=lambda: time.time_ns() // 1_000_000,
            progress=progress, days=days,
        )  # fmt: skip
        manifest, module = registry.load(pipeline.name, found.version)
    encode = Encoder(manifest.features)
    return found.version, lambda columns: predict(module, encode(columns)).astype(np.float32)


def retrained(pipeline: Pipeline, later: Later, *, seed: int, progress: Any) -> Later:
    """The same events, those of each month scored by a version that was trained at its beginning.

    It learned every label of the history that was known then. The month that the first training
    ended in keeps the first model, and one of fewer than `MONTH_ROWS_MIN` events the model before.
    """
    assert pipeline.history is not None
    began_ms = int(_integers(pipeline.history()["event_time_ms"])[0])
    deep, version = later.deep.copy(), later.version.copy()
    months = later.event_ms.astype("datetime64[ms]").astype("datetime64[M]")
    name, say = "", None
    for month in np.unique(months)[1:]:
        rows = np.flatnonzero(months == month)
        if len(rows) >= MONTH_ROWS_MIN or say is None:
            days = (int(month.astype("datetime64[ms]").astype(np.int64)) - began_ms) // DAY_MS
            progress(f"{month}: training on the first {days} days")
            name, say = _trained(pipeline, days=days, seed=seed, progress=lambda _line: None)
        deep[rows], version[rows] = say(_pick(later.columns, rows)), name
    return dataclasses.replace(later, deep=deep, version=version)


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
        found = {name: measure(later.label[chosen], said[chosen]) for name, said in scores.items()}
        rows.append(
            {
                "month": "all" if month is None else str(month),
                "labels": int(chosen.sum()),
                **{f"auc {name}": round(one.auc, 4) for name, one in found.items()},
                **{f"log-loss {name}": round(one.log_loss, 4) for name, one in found.items()},
            }
        )
    return rows


def page(pipeline: Pipeline, rows: list[dict[str, Any]], command: str) -> str:
    """The table as Markdown, with what it was made from."""
    names = list(rows[0])
    lines = [f"# Champions of {pipeline.name}", ""]
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
@click.option("--monthly", is_flag=True, help="Also with a training each month: ten minutes.")
def main(  # noqa: PLR0917  # click passes them by name
    reference: str, learner: str, single: bool, seed: int, write: Path | None, monthly: bool
) -> None:
    """Compare the champions of a pipeline on the part of its history after the first training."""
    spare_pandas()
    torch.set_num_threads(1)
    started = time.perf_counter()

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        pipeline = load_pipeline(reference)
        if learner:
            declared = Online(name=learner, shards="single" if single else "partition")
            pipeline = dataclasses.replace(pipeline, learner=declared)
        later = prepare(pipeline, seed=seed, progress=say)
        scores = replay(pipeline, later)
        if monthly:
            again = replay(pipeline, retrained(pipeline, later, seed=seed, progress=say))
            scores |= {name: again[of] for of, name in MONTHLY.items()}
        rows = by_month(later, scores)
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
