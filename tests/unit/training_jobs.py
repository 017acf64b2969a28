"""Small retrainings for tests: machines that fail when hot, except those of plant B, when cold."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch

from schemas.features import Feature
from schemas.pipeline import category, numeric
from schemas.topics import DAY_MS
from schemas.training import Recipe, RowsSource, TrainingJob
from trainers.start import START, cold
from trainers.windows import ENCODED, EncodedRows, Plan, prepare

FEATURES: tuple[Feature, ...] = (numeric("heat"), category("plant"))
LABEL_DELAY_MS = 3_600_000


def history(
    *, rows: int = 6_000, days: int = 20, seed: int = 0, shuffled_until: float = 0.0
) -> pa.Table:
    """Labels of the share ``shuffled_until`` of the rows, the oldest, say nothing."""
    random = np.random.default_rng(seed)
    heat = random.normal(size=rows)
    plant = random.choice(["A", "B"], rows)
    log_odds = 3.0 * heat * np.where(plant == "A", 1.0, -1.0)
    failed = random.random(rows) < 1.0 / (1.0 + np.exp(-log_odds))
    spoiled = int(rows * shuffled_until)
    failed[:spoiled] = random.permutation(failed[:spoiled])
    times = np.sort(random.integers(0, days * DAY_MS, rows))
    times[0] = 0
    return pa.table(
        {
            "event_time_ms": times,
            "heat": heat,
            "plant": plant,
            "label": failed.astype(float),
            "label_time_ms": times + LABEL_DELAY_MS,
        }
    )


def job_in(folder: Path, table: pa.Table | None = None, **recipe: Any) -> tuple[TrainingJob, Plan]:
    """A prepared job: what `trainers.distributed` finds in its folder."""
    folder.mkdir(parents=True)
    plan = prepare(
        FEATURES,
        history() if table is None else table,
        RowsSource(words="made up"),
        folder,
        as_of_ms=None,
        days=None,
    )
    job = TrainingJob(
        run="r",
        pipeline="machines",
        reference="none",
        registry="none",
        recipe=Recipe(**{"epochs_max": 2, **recipe}),
    )
    numbers = np.arange(plan.rows[0])
    sample = EncodedRows(folder / ENCODED, plan.spec).gather(numbers).x.numeric_BF
    weights = cold(plan.spec, sample, seed=0).state_dict()
    safetensors.torch.save_file(weights, folder / START)
    return job, plan


def distance(one: Path, other: Path) -> float:
    """The largest difference between two files of weights."""
    a, b = safetensors.torch.load_file(one), safetensors.torch.load_file(other)
    assert a.keys() == b.keys()
    return max(
        float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel()
    )


def same(one: Path, other: Path) -> bool:
    """Whether two files of weights are equal, bit for bit."""
    a, b = safetensors.torch.load_file(one), safetensors.torch.load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
