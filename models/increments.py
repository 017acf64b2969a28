"""What one message of the journal adds to which windows: exact, sparse, and written as Arrow."""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.sketches import DELAY_BINS, SCORE_BINS, delay_bins, score_bins
from schemas.evaluations import EVALUATIONS, SUM

_EXACT_MAX: Final = 2.0**53

Flags = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64] | list[int]


def to_nano(values: npt.NDArray[np.float64]) -> Whole:
    """Each value in whole 1e-9, rounded once; Python's numbers where 64 bits could overflow."""
    scaled = np.rint(values * 1e9)
    if len(scaled) and np.abs(scaled).max() * len(scaled) >= _EXACT_MAX:
        return [int(value) for value in scaled]
    return scaled.astype(np.int64)


class Increments:
    """Counts and sums per window and model version, of each score, and features' stability."""

    def __init__(
        self, windows: list[tuple[int, str]], group: npt.NDArray[np.int64], window_ms: int
    ) -> None:
        self._windows = windows
        self._group = group
        self._window_ms = window_ms
        self._counts: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._bins: dict[tuple[str, int], dict[str, tuple[list[int], ...]]] = defaultdict(dict)
        self._scores: dict[str, npt.NDArray[np.int64]] = {}
        self._features: list[dict[str, object]] = []

    @classmethod
    def over(cls, examples: pa.RecordBatch, *, window_ms: int) -> Self:
        """Nothing yet, for the windows and versions of these rows."""
        start = examples["event_time"].cast(pa.int64()).to_numpy() // window_ms * window_ms
        versions = pc.dictionary_encode(examples["model_version"])
        names = versions.dictionary.to_pylist()
        starts, start_code = np.unique(start, return_inverse=True)
        code = start_code * len(names) + versions.indices.to_numpy()
        codes, group = np.unique(code, return_inverse=True)
        windows = [(int(starts[c // len(names)]), names[c % len(names)]) for c in codes.tolist()]
        return cls(windows, group.astype(np.int64), window_ms)

    def add(self, name: str, measure: str, mask: Flags, sign: int = 1) -> None:
        """Count the rows of ``mask``."""
        if mask.any():
            counts = np.bincount(self._group[mask], minlength=len(self._windows)).tolist()
            self._add(name, measure, enumerate(counts), sign)

    def add_sum(self, name: str, measure: str, mask: Flags, nano: Whole, sign: int = 1) -> None:
        """Add values in 1e-9, one for each row of ``mask``."""
        groups = self._group[mask]
        if isinstance(nano, list):
            self._add(name, measure, zip(groups.tolist(), nano, strict=True), sign)
        elif len(nano):
            sums = np.zeros(len(self._windows), np.int64)
            np.add.at(sums, groups, nano)
            self._add(name, measure, enumerate(sums.tolist()), sign)

    def _add(self, name: str, measure: str, values: Iterable[tuple[int, int]], sign: int) -> None:
        for group, value in values:
            if value:
                self._counts[name, group][measure] += sign * value

    def add_score_bins(
        self,
        name: str,
        mask: Flags,
        score: npt.NDArray[np.float64],
        positive: Flags,
        sign: int,
    ) -> None:
        """Count the scores of ``mask`` in their bins, positives apart from negatives."""
        if not mask.any():
            return
        code = self._group[mask] * SCORE_BINS + score_bins(score[mask])
        held = self._scores.get(name)
        if held is None:
            held = self._scores[name] = np.zeros((2, len(self._windows) * SCORE_BINS), np.int64)
        np.add.at(held, (positive[mask].astype(np.int64), code), sign)

    def add_delay_bins(self, name: str, mask: Flags, delay_ms: npt.NDArray[np.int64]) -> None:
        """Count the delays of ``mask`` in their bins."""
        if not mask.any():
            return
        code = self._group[mask] * DELAY_BINS + delay_bins(delay_ms[mask])
        codes, counts = np.unique(code, return_counts=True)
        for group in np.unique(codes // DELAY_BINS).tolist():
            own = codes // DELAY_BINS == group
            bins = (codes[own] % DELAY_BINS).tolist()
            self._bins[name, group]["delay"] = (bins, counts[own].tolist())

    def add_feature(
        self, name: str, *, window_start_ms: int, version: str, rows: int, stability: float
    ) -> None:
        """Say how stable a feature was in a span of its own that began at ``window_start_ms``."""
        row = self._empty(window_start_ms, version)
        row |= {"subject_kind": "feature", "subject": name, "predictions": rows}
        self._features.append(row | {"stability": stability})

    def to_batch(self) -> pa.RecordBatch | None:
        """The rows as `EVALUATIONS`; None if nothing was added."""
        for name, held in self._scores.items():
            for group in np.unique(np.flatnonzero(held.any(axis=0)) // SCORE_BINS).tolist():
                part = held[:, group * SCORE_BINS : (group + 1) * SCORE_BINS]
                bins = np.flatnonzero(part.any(axis=0))
                negatives, positives = part[:, bins].tolist()
                self._bins[name, group]["score"] = (bins.tolist(), positives, negatives)
        found = []
        for name, group in sorted(self._counts.keys() | self._bins.keys()):
            row = self._empty(*self._windows[group])
            row |= {"subject_kind": "score", "subject": name}
            for measure, value in self._counts[name, group].items():
                row[measure] = Decimal(value).scaleb(-9) if measure in _SUMS else value
            own = self._bins[name, group]
            row["delay_bins"], row["delay_counts"] = own.get("delay", ([], []))
            row["score_bins"], row["bin_positives"], row["bin_negatives"] = own.get(
                "score", ([], [], [])
            )
            found.append(row)
        found += self._features
        return pa.RecordBatch.from_pylist(found, schema=EVALUATIONS) if found else None

    def _empty(self, window_start_ms: int, version: str) -> dict[str, object]:
        return _EMPTY | {
            "window_start": window_start_ms,
            "window_ms": self._window_ms,
            "model_version": version,
        }


_SUMS: Final = {field.name for field in EVALUATIONS if field.type == SUM}
_EMPTY: Final[dict[str, object]] = {
    field.name: [] if pa.types.is_list(field.type) else Decimal(0) if field.type == SUM else 0
    for field in EVALUATIONS
} | {"stability": None}
