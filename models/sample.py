"""A bounded sample of rows of features that is the same however often it is drawn."""

from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.stability import priorities


class SampleContent(msgspec.Struct, array_like=True, frozen=True):
    """A sample as bytes and words, by rising priority."""

    seen: int
    first_ms: int
    last_ms: int
    priority: bytes
    numeric: bytes
    category: list[list[str]]


class Sample:
    """At most ``rows_max`` of the rows that it was shown: those with the smallest priority."""

    def __init__(self, rows_max: int) -> None:
        self.seen = 0
        self.first_ms = 0
        """Smallest event time of the rows shown; 0 before the first."""
        self.last_ms = 0
        self._rows_max = rows_max
        self._priority = np.empty(0, np.uint64)
        self._numeric = np.empty((0, 0))
        self._category: list[list[str]] = []

    def __len__(self) -> int:
        """Rows in the sample."""
        return len(self._priority)

    def show(self, rows: pa.RecordBatch) -> None:
        """Show rows of examples, which all have the same features."""
        count = rows.num_rows
        if not count:
            return
        times = rows["event_time"].cast(pa.int64()).to_numpy()
        self.first_ms = min(int(times.min()), self.first_ms if self.seen else int(times.min()))
        self.last_ms = max(int(times.max()), self.last_ms)
        partition = rows["source_partition"].to_numpy().astype(np.int64)
        priority = priorities((partition << 44) + rows["source_offset"].to_numpy())
        numeric = numeric_columns(rows)
        kept = np.arange(count)
        if len(self) == self._rows_max:  # most rows have no chance: spare them the sorting
            kept = np.flatnonzero(priority < self._priority[-1])
        held = self._numeric if self.seen else np.empty((0, numeric.shape[1]))
        self.seen += count
        if not len(kept):
            return
        taken = rows["category"].take(pa.array(kept)).to_pylist()
        words = [["" if word is None else word for word in row] for row in taken]
        together = np.concatenate([self._priority, priority[kept]])
        order = np.argsort(together, kind="stable")[: self._rows_max]
        self._priority = together[order]
        self._numeric = np.concatenate([held, numeric[kept]])[order]
        category = self._category + words
        self._category = [category[i] for i in order.tolist()]

    def numeric(self, index: int) -> npt.NDArray[np.float64]:
        """The values of a numeric feature."""
        return self._numeric[:, index]

    def category(self, index: int) -> list[str]:
        """The words of a category."""
        return [row[index] for row in self._category]

    def content(self) -> SampleContent:
        """The sample, in one canonical form."""
        return SampleContent(
            self.seen,
            self.first_ms,
            self.last_ms,
            self._priority.tobytes(),
            np.ascontiguousarray(self._numeric).tobytes(),
            self._category,
        )

    @classmethod
    def of(cls, content: SampleContent, rows_max: int) -> Self:
        """The sample that wrote ``content``."""
        found = cls(rows_max)
        found.seen, found.first_ms, found.last_ms = content.seen, content.first_ms, content.last_ms
        found._priority = np.frombuffer(content.priority, np.uint64)
        rows = len(found._priority)
        found._numeric = np.frombuffer(content.numeric).reshape(rows, -1 if rows else 0)
        found._category = content.category
        return found


def numeric_columns(rows: pa.RecordBatch) -> npt.NDArray[np.float64]:
    """The numeric features of examples.

    Shape:
        (rows, numeric features), float64.
    """
    values = np.asarray(rows["numeric"].flatten().to_numpy(zero_copy_only=False), np.float64)
    return values.reshape(rows.num_rows, -1 if rows.num_rows else 0)
