"""The set of a retraining: which rows teach, stop, calibrate and judge, and files of them.

    |------- training -------|- validation -|- calibration -|--- judged ---|
    from                    stop         calibrate        judge          as of

Everything before ``judge`` uses only labels that were known before ``judge``, and everything uses
only labels known before ``as of``: a live training at that moment saw no more. What is judged is
later than everything that was learned, by the challenger and by the champion before it.

Rows are encoded and written in parts of `PART_ROWS`; the ranks map the file and gather the rows of
a step, so that they hold one copy of it together.

Shape letters: B = rows, F = numeric features, C = categories.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.features import Encoder, from_table, learn_spec
from models.protocol import ModelInput
from schemas.errors import SetupError
from schemas.features import Feature, FeatureSpec
from schemas.manifest import TrainingData
from schemas.topics import DAY_MS
from schemas.training import RowsSource
from trainers.dataset import Examples, check_labels, fingerprint

PART_ROWS = 65_536

JUDGED_MS_MAX = 14 * DAY_MS
HELD_OUT_MS_MAX = 7 * DAY_MS
"""Validation and calibration are a week each and the judged rows two, or together the last 40
percent of a shorter time."""
JUDGED_SHARE_MAX = 0.2
HELD_OUT_SHARE_MAX = 0.1

ROWS_MIN = 100
"""Fewer training or validation rows are refused."""

_TRUTH = ("event_time_ms", "label", "label_time_ms")


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """The borders, Unix epoch in milliseconds; each belongs to what follows it."""

    start: int
    stop: int
    calibrate: int
    judge: int
    as_of: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared set.

    Attributes:
        windows: The borders.
        spec: The features with the vocabularies of the training rows.
        rows: Rows of training, validation and calibration, in this order in `ENCODED`; then those
            that are judged, in `JUDGED`.
        labels_mean: Share of ones among the training rows.
        data: What the manifest says about the rows that are not judged.
    """

    windows: Windows
    spec: FeatureSpec
    rows: tuple[int, int, int, int]
    labels_mean: float
    data: TrainingData


PLAN = "plan.json"
ENCODED = "encoded.arrow"
JUDGED = "judged.arrow"


def borders(first_ms: int, as_of_ms: int) -> Windows:
    """The windows of events from ``first_ms`` on, for a training at ``as_of_ms``."""
    span = as_of_ms - first_ms
    held_out = min(HELD_OUT_MS_MAX, int(span * HELD_OUT_SHARE_MAX))
    judge = as_of_ms - min(JUDGED_MS_MAX, int(span * JUDGED_SHARE_MAX))
    return Windows(
        start=first_ms,
        stop=judge - 2 * held_out,
        calibrate=judge - held_out,
        judge=judge,
        as_of=as_of_ms,
    )


def prepare(
    features: Sequence[Feature],
    table: pa.Table,
    source: RowsSource,
    folder: Path,
    *,
    as_of_ms: int | None,
    days: int | None,
) -> Plan:
    """Split ``table`` and write `ENCODED`, `JUDGED` and, last, `PLAN` into ``folder``.

    Args:
        features: As declared.
        table: As a history, sorted by event time; may be a mapped file. Rows without a label are
            passed over.
        source: Where it came from.
        folder: Of the job.
        as_of_ms: See `TrainingJob`; None: after the last label.
        days: See `TrainingJob`.

    Raises:
        SetupError: columns are missing, rows are not in order, or there are too few.
        FeatureError: a value breaks the declaration.
    """
    _check(table)
    table = table.filter(pc.and_(pc.is_valid(table["label"]), pc.is_valid(table["label_time_ms"])))
    if as_of_ms is None:
        as_of_ms = int(pc.max(table["label_time_ms"]).as_py() or 0) + 1
    table = table.filter(pc.less(table["label_time_ms"], as_of_ms))
    if days is not None:
        table = table.filter(pc.greater_equal(table["event_time_ms"], as_of_ms - days * DAY_MS))
    if not table.num_rows:
        raise SetupError(
            f"could not train: no label was known before as_of_ms={as_of_ms} in days={days}. "
            "Choose a later moment, or more days."
        )
    times = table["event_time_ms"].to_numpy()
    windows = borders(int(times[0]), max(as_of_ms, int(times[-1]) + 1))
    cut = np.searchsorted(times, [windows.stop, windows.calibrate, windows.judge])
    known = pc.less(table["label_time_ms"], windows.judge)
    bounds = [0, *map(int, cut)]
    parts = [
        table.slice(first, last - first).filter(known.slice(first, last - first))
        for first, last in itertools.pairwise(bounds)
    ]
    judged = table.slice(bounds[-1])
    _enough(parts, windows)
    spec = learn_spec(features, (from_table(features, part) for part in _pieces(parts[0])))
    learned = pa.concat_tables(parts)
    digest = _write_encoded(folder / ENCODED, features, spec, learned)
    _write(folder / JUDGED, judged)
    plan = Plan(
        windows=windows,
        spec=spec,
        rows=(len(parts[0]), len(parts[1]), len(parts[2]), len(judged)),
        labels_mean=float(pc.mean(parts[0]["label"]).as_py()),
        data=TrainingData(
            source=source.words,
            rows=len(learned),
            event_time_ms_first=int(times[0]),
            event_time_ms_last=int(pc.max(learned["event_time_ms"]).as_py()),
            fingerprint=digest,
            as_of_ms=as_of_ms,
            sql=source.sql,
            offsets=source.offsets,
            label_revision_max=source.label_revision_max,
        ),
    )
    (folder / PLAN).write_bytes(msgspec.json.encode(plan))
    return plan


def read_plan(folder: Path) -> Plan:
    """The plan that `prepare` wrote."""
    return msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)


def read_rows(path: Path) -> pa.Table:
    """A file of rows, mapped: it takes no memory until it is used."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


class EncodedRows:
    """`ENCODED`, mapped; rows are gathered by their numbers.

    Args of the constructor:
        path: The file.
        spec: The features that it was encoded with.
    """

    def __init__(self, path: Path, spec: FeatureSpec) -> None:
        self._widths = (len(spec.numeric), len(spec.category))
        self._parts = [
            (_matrix(batch["numeric"]), _matrix(batch["category"]), batch["label"].to_numpy())
            for batch in read_rows(path).to_batches()
        ]

    def labels(self, first: int, last: int) -> npt.NDArray[np.float32]:
        """Labels of the rows from ``first`` to before ``last``."""
        whole = np.concatenate([label_B for _, _, label_B in self._parts])
        return whole[first:last]

    def gather(self, numbers: npt.NDArray[np.int64]) -> Examples:
        """The rows with these numbers, in this order; none for no numbers."""
        wide_F, wide_C = self._widths
        numeric_BF = np.empty((len(numbers), wide_F), np.float32)
        category_BC = np.empty((len(numbers), wide_C), np.int64)
        label_B = np.empty(len(numbers), np.float32)
        part_B, place_B = np.divmod(numbers, PART_ROWS)
        for part in np.unique(part_B):
            chosen = part_B == part
            place = place_B[chosen]
            numbers_BF, words_BC, labels_B = self._parts[part]
            numeric_BF[chosen] = numbers_BF.reshape(-1, wide_F)[place]
            category_BC[chosen] = words_BC.reshape(-1, wide_C)[place]
            label_B[chosen] = labels_B[place]
        return Examples(
            ModelInput(torch.from_numpy(numeric_BF), torch.from_numpy(category_BC)),
            torch.from_numpy(label_B),
        )


def _matrix(column: pa.Array) -> npt.NDArray[np.generic]:
    """The values of a list column, row after row, without copying them."""
    values: npt.NDArray[np.generic] = column.flatten().to_numpy()
    return values


def _check(table: pa.Table) -> None:
    lacking = {*_TRUTH} - {*table.column_names}
    if lacking:
        raise SetupError(f"could not train: the rows lack the columns {sorted(lacking)}")
    times = table["event_time_ms"].to_numpy()
    if (np.diff(times) < 0).any():
        raise SetupError("could not train: the rows are not sorted by event_time_ms. Sort them.")
    check_labels(table)


def _enough(parts: Sequence[pa.Table], windows: Windows) -> None:
    for name, part in zip(("training", "validation", "calibration"), parts, strict=True):
        classes = len(pc.unique(part["label"]))
        if len(part) < ROWS_MIN or classes < 2:
            raise SetupError(
                f"could not train: {name}_rows={len(part)} with label_values={classes} from "
                f"{windows.start} to {windows.as_of}; at least {ROWS_MIN} rows with both labels "
                "are needed. Take more days, or wait for more labels."
            )


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for first in range(0, len(table), PART_ROWS):
        yield table.slice(first, PART_ROWS)


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        for piece in _pieces(table):
            writer.write_table(piece.combine_chunks())


def _write_encoded(
    path: Path, features: Sequence[Feature], spec: FeatureSpec, table: pa.Table
) -> str:
    """Write the encoded rows; return the digest of the raw ones, in parts of `PART_ROWS`."""
    encode = Encoder(spec)
    schema = pa.schema(
        [
            ("numeric", pa.list_(pa.float32())),
            ("category", pa.list_(pa.int64())),
            ("label", pa.float32()),
        ]
    )
    digest = hashlib.sha256()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for piece in _pieces(table):
            columns = from_table(features, piece)
            digest.update(fingerprint(columns, piece).encode())
            rows = encode(columns)
            writer.write_batch(
                pa.record_batch(
                    [
                        _lists(rows.numeric_BF.numpy()),
                        _lists(rows.category_BC.numpy()),
                        piece["label"].combine_chunks().cast(pa.float32()),
                    ],
                    schema=schema,
                )
            )
    return digest.hexdigest()


def _lists(rows_BX: npt.NDArray[np.generic]) -> pa.ListArray:
    count, width = rows_BX.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows_BX.reshape(-1)))
