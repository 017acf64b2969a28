"""Columns as rows, for learners that take one row at a time."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from models.protocol import FeatureColumns, Floats

Row = dict[str, Any]


def check_labels(columns: FeatureColumns, labels: Floats, weights: Floats) -> None:
    """Raise `ValueError` unless ``labels`` and ``weights`` fit ``columns``; see `Learner`."""
    shape = (columns.num_rows,)
    right = labels.shape == shape == weights.shape
    if not right or not (weights >= 0.0).all() or not np.isfinite(labels[weights > 0.0]).all():
        raise ValueError(
            f"could not learn: rows={columns.num_rows} labels={labels.shape} "
            f"weights={weights.shape}; one weight of at least 0 per row, and a finite "
            "label where it is more"
        )


def number_rows(columns: FeatureColumns) -> list[Row]:
    """The numbers of each row by name, those that are missing left out."""
    names, numeric_BF = columns.numeric, columns.numeric_BF
    rows = [dict(zip(names, row, strict=True)) for row in numeric_BF.tolist()]
    for index in np.flatnonzero(np.isnan(numeric_BF).any(axis=1)):
        rows[index] = {name: value for name, value in rows[index].items() if value == value}  # noqa: PLR0124  # false for NaN only
    return rows


def word_rows(columns: FeatureColumns) -> list[tuple[str | None, ...]]:
    """The words of each row in the order of ``columns.category``; None where one is missing."""
    if not columns.category:
        return [()] * columns.num_rows
    flat = iter(columns.words.to_pylist())
    return list(zip(*[flat] * len(columns.category), strict=True))


def part(columns: FeatureColumns, start: int, stop: int) -> FeatureColumns:
    """Rows ``start`` to ``stop`` of ``columns``, without copying them."""
    width = len(columns.category)
    return FeatureColumns(
        columns.numeric,
        columns.category,
        columns.numeric_BF[start:stop],
        columns.words.slice(start * width, (stop - start) * width),
    )


def stretches(weights: Floats) -> Iterator[tuple[int, int, bool]]:
    """Rows in order, cut where those to learn and those only to score meet: start, stop, learn."""
    learned = weights > 0.0
    cuts = [0, *(np.flatnonzero(learned[1:] != learned[:-1]) + 1).tolist(), len(weights)]
    for start, stop in pairwise(cuts):
        if stop > start:
            yield start, stop, bool(learned[start])
