"""Which rows teach, which stop the training and which judge the result: split by time.

    |---- training ----|- validation -|---------- evaluation ----------|
    start         a week before     cut      the four weeks that follow

A label is used before the cut only if it was known before the cut, as a live training would see it.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.features import Encoder, from_table, learn_spec
from models.protocol import FeatureColumns, ModelInput
from schemas.errors import SetupError
from schemas.features import Feature, FeatureSpec
from schemas.manifest import TrainingData
from schemas.topics import DAY_MS

VALIDATION_MS_MAX = 7 * DAY_MS
VALIDATION_SHARE_MAX = 0.2
"""Validation is the last week before the cut, or the last fifth of a shorter time."""

EVALUATION_MS = 28 * DAY_MS

ROWS_MIN = 100
"""Fewer training rows are refused: the declared prior serves better than what they would teach."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled rows, encoded.

    Shape:
        x: a `ModelInput` of B rows. y_B: float32 of 0.0 and 1.0.
    """

    x: ModelInput
    y_B: torch.Tensor

    def __len__(self) -> int:
        return int(self.y_B.shape[0])

    @property
    def labels(self) -> npt.NDArray[np.float64]:
        """``y_B`` for code that takes NumPy."""
        return self.y_B.numpy().astype(np.float64)


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one training and what is known about them.

    Attributes:
        spec: The features with the vocabularies of the training rows.
        training: Teaches.
        validation: Says when to stop.
        evaluation: Later rows, for the figures in the manifest; may be empty.
        source: What the manifest says about the training and validation rows.
    """

    spec: FeatureSpec
    training: Examples
    validation: Examples
    evaluation: Examples
    source: TrainingData


def split_history(features: tuple[Feature, ...], history: pa.Table, *, days: int) -> Split:
    """Split the labelled rows of ``history`` by time; the cut is ``days`` after its first event.

    Raises:
        SetupError: the history lacks a column, is not sorted, or has too few rows before the cut.
    """
    times = _times(history)
    start = int(times[0])
    cut = start + days * DAY_MS
    until = min(cut, int(times[-1]) + 1)
    stop = until - min(VALIDATION_MS_MAX, int((until - start) * VALIDATION_SHARE_MAX))
    labelled = pc.is_valid(history["label"])
    known = pc.and_(labelled, pc.less(history["label_time_ms"], cut))
    event_ms = history["event_time_ms"]
    training = history.filter(pc.and_(known, pc.less(event_ms, stop)))
    validation = history.filter(
        _all(known, pc.greater_equal(event_ms, stop), pc.less(event_ms, cut))
    )
    evaluation = history.filter(
        _all(labelled, pc.greater_equal(event_ms, cut), pc.less(event_ms, cut + EVALUATION_MS))
    )
    for name, part in (("training", training), ("validation", validation)):
        classes = len(pc.unique(part["label"]))
        if len(part) < ROWS_MIN or classes < 2:
            raise SetupError(
                f"could not train: {name}_rows={len(part)} with label_values={classes} in the "
                f"first days={days}; at least {ROWS_MIN} rows with both labels are needed. Raise "
                "first_training_days, or declare no history to serve the prior."
            )
    columns = from_table(features, training)
    spec = learn_spec(features, [columns])
    encode = Encoder(spec)
    used = pa.concat_tables([training, validation])
    return Split(
        spec=spec,
        training=Examples(encode(columns), _labels(training)),
        validation=Examples(encode(from_table(features, validation)), _labels(validation)),
        evaluation=Examples(encode(from_table(features, evaluation)), _labels(evaluation)),
        source=TrainingData(
            source=f"history of the pipeline, first {days} days",
            rows=len(used),
            event_time_ms_first=start,
            event_time_ms_last=int(pc.max(used["event_time_ms"]).as_py()),
            fingerprint=fingerprint(from_table(features, used), used),
        ),
    )


def fingerprint(columns: FeatureColumns, rows: pa.Table) -> str:
    """SHA-256 over times, labels and features in order: equal rows, equal fingerprint."""
    sha256 = hashlib.sha256()
    sha256.update(rows["event_time_ms"].to_numpy().astype("<i8").tobytes())
    sha256.update(rows["label"].to_numpy().astype("<f4").tobytes())
    sha256.update(columns.numeric_BF.astype("<f4").tobytes())
    for word in columns.words.to_pylist():
        sha256.update(f"{len(word)}:{word}".encode())
    return sha256.hexdigest()


def _times(history: pa.Table) -> npt.NDArray[np.int64]:
    lacking = {"event_time_ms", "label", "label_time_ms"} - {*history.column_names}
    if lacking:
        raise SetupError(f"could not train: the history lacks the columns {sorted(lacking)}")
    times: npt.NDArray[np.int64] = history["event_time_ms"].to_numpy().astype(np.int64)
    if not len(times):
        raise SetupError("could not train: the history has no rows. Declare no history instead.")
    if (np.diff(times) < 0).any():
        raise SetupError("could not train: the history is not sorted by event_time_ms. Sort it.")
    check_labels(history)
    return times


def _all(*conditions: pa.ChunkedArray) -> pa.ChunkedArray:
    met = conditions[0]
    for condition in conditions[1:]:
        met = pc.and_(met, condition)
    return met


def check_labels(rows: pa.Table) -> None:
    """Return if every label is 0, 1 or null.

    Raises:
        SetupError: one is not; the first is named.
    """
    labels = rows["label"].to_numpy()
    known = rows["label"].is_valid().to_numpy()
    bad = np.flatnonzero(known & (labels != 0.0) & (labels != 1.0))
    if len(bad):
        raise SetupError(
            f"could not use a history: label={labels[bad[0]]} in row={bad[0]}, and {len(bad)} such "
            "in all. A label is 0, 1 or, where it is not known, null (not NaN)."
        )


def _labels(rows: pa.Table) -> torch.Tensor:
    return torch.from_numpy(rows["label"].to_numpy().astype(np.float32))
