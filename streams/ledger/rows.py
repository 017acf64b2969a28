"""The predictions of one partition in the order in which they came, as segments of columns.

A row number never changes and never comes again. Rows leave from the front in two steps: first they
*close*, then they are *forgotten*. A closed row keeps its id only. A segment lets go of its memory
when all of its rows have taken the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.examples import EXAMPLES
from streams.ledger.rules import CLOSED_BYTES, ROW_BYTES

Int64 = npt.NDArray[np.int64]

PENDING, EXPIRED, PROVISIONAL, FINAL, CORRECTED = range(5)
"""The states of a row. They only grow."""
STATES = ("pending", "expired", "provisional", "final", "corrected")
NO_REVISION = -1
SEGMENT_ROWS_MAX = 1 << 16
"""Rows of one segment; joining two needs both twice, so it bounds what that costs."""

FEATURES = (
    "event_id", "key", "score", "model_score", "learner_position", "model_version", "event_time",
    "predicted_at", "source_partition", "source_offset", "numeric", "category",
)  # fmt: skip
HELD = pa.schema([EXAMPLES.field(name) for name in FEATURES])
"""What is held of a prediction, exactly as it was made."""


@dataclass(slots=True)
class Segment:
    """Consecutive rows; all columns are equally long."""

    first: int
    """Number of its first row."""
    ids: pa.Array
    rows: pa.RecordBatch | None
    """None once all of them are closed."""
    entered_ms: Int64
    state: npt.NDArray[np.uint8]
    label: npt.NDArray[np.float64]
    revision: Int64
    num_bytes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, first: int, rows: pa.RecordBatch, entered_ms: Int64) -> "Segment":
        """New rows, all pending."""
        count = rows.num_rows
        return cls(
            first,
            rows["event_id"],
            rows,
            entered_ms,
            np.zeros(count, np.uint8),
            np.zeros(count),
            np.full(count, NO_REVISION, np.int64),
            row_bytes(rows),
        )

    def __len__(self) -> int:
        return len(self.entered_ms)

    @property
    def end(self) -> int:
        """Number of the row behind its last."""
        return self.first + len(self)

    def followed_by(self, other: "Segment") -> "Segment":
        """Both in one."""
        rows = pa.concat_batches([self.rows, other.rows])
        return Segment(
            self.first,
            rows["event_id"],
            rows,
            np.concatenate([self.entered_ms, other.entered_ms]),
            np.concatenate([self.state, other.state]),
            np.concatenate([self.label, other.label]),
            np.concatenate([self.revision, other.revision]),
            np.concatenate([self.num_bytes, other.num_bytes]),
        )

    def let_go(self) -> None:
        """Keep the ids only; copied, because they share their memory with everything else."""
        self.rows = None
        self.ids = self.ids.take(pa.array(np.arange(len(self))))
        self.state = np.zeros(0, np.uint8)
        self.label = np.zeros(0)
        self.revision = np.zeros(0, np.int64)
        self.num_bytes = np.zeros(0, np.int32)


class Rows:
    """All rows that are not forgotten.

    Attributes:
        first: The first row that is not forgotten.
        closed: The first row that is not closed.
        due: The first row whose horizon has not passed.
        end: The number of the next row.
    """

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.first = self.closed = self.due = self.end = 0

    # -- in

    def append(self, rows: pa.RecordBatch, entered_ms: Int64) -> int:
        """Add pending rows at the end; the bytes that they take."""
        if not rows.num_rows:
            return 0
        added = Segment.of(self.end, rows, entered_ms)
        self.segments.append(added)
        self.end += rows.num_rows
        # Like the digits of a counter: each row is copied a few times, and few segments are short.
        while len(self.segments) > 1:
            before, last = self.segments[-2:]
            if (
                before.rows is None
                or len(before) > 2 * len(last)
                or len(before) + len(last) > SEGMENT_ROWS_MAX
            ):
                break
            self.segments[-2:] = [before.followed_by(last)]
        return int(added.num_bytes.sum())

    # -- look

    def parts(self, first: int, end: int) -> Iterator[tuple[Segment, slice]]:
        """The segments of rows ``first`` up to ``end``, each with the places in it."""
        for segment in self.segments:
            low, high = max(first, segment.first), min(end, segment.end)
            if low < high:
                yield segment, slice(low - segment.first, high - segment.first)

    def of(self, rows: Int64) -> Iterator[tuple[Segment, slice, Int64]]:
        """The segments of ascending ``rows``: which of them lie there, and at which places."""
        starts = np.fromiter((s.first for s in self.segments), np.int64, len(self.segments))
        bounds = np.searchsorted(rows, starts).tolist()
        for segment, low, high in zip(self.segments, bounds, [*bounds[1:], len(rows)], strict=True):
            if low < high:
                yield segment, slice(low, high), rows[low:high] - segment.first

    def held(self, rows: Int64) -> pa.RecordBatch:
        """The predictions at ascending ``rows``, none of them closed."""
        found = []
        for segment, _part, places in self.of(rows):
            assert segment.rows is not None, "closed rows have no features"
            found.append(segment.rows.take(pa.array(places)))
        return pa.concat_batches(found) if found else pa.RecordBatch.from_pylist([], schema=HELD)

    def same_id(self, ids: pa.Array, rows: Int64) -> npt.NDArray[np.bool_]:
        """For each row, in any order, whether it holds the id at its place in ``ids``."""
        order = np.argsort(rows, kind="stable")
        found = [s.ids.take(pa.array(places)) for s, _, places in self.of(rows[order])]
        same = np.empty(len(rows), bool)
        wanted = ids.take(pa.array(order))
        same[order] = pc.equal(pa.concat_arrays(found), wanted).to_numpy(zero_copy_only=False)
        return same

    def truth(self, rows: Int64) -> tuple[Int64, npt.NDArray[np.float64], Int64]:
        """State, label and revision of ascending ``rows``."""
        state = np.empty(len(rows), np.int64)
        label = np.empty(len(rows))
        revision = np.empty(len(rows), np.int64)
        for segment, part, places in self.of(rows):
            state[part] = segment.state[places]
            label[part] = segment.label[places]
            revision[part] = segment.revision[places]
        return state, label, revision

    def set_truth(
        self, rows: Int64, state: Int64, label: npt.NDArray[np.float64], revision: Int64
    ) -> None:
        """Change ascending, distinct ``rows``."""
        for segment, part, places in self.of(rows):
            segment.state[places] = state[part]
            segment.label[places] = label[part]
            segment.revision[places] = revision[part]

    def entered_before(self, first: int, limit_ms: int) -> int:
        """The first row from ``first`` on that entered after ``limit_ms``; `entered_ms` never
        falls.
        """
        for segment in self.segments:
            if segment.end <= first:
                continue
            low = max(first, segment.first) - segment.first
            place = int(np.searchsorted(segment.entered_ms[low:], limit_ms, side="right"))
            if low + place < len(segment):
                return segment.first + low + place
        return max(first, self.end)

    # -- out

    def close(self, end: int) -> None:
        """Rows below ``end`` are closed."""
        self.closed = max(self.closed, end)
        for segment in self.segments:
            if segment.end <= self.closed and segment.rows is not None:
                segment.let_go()

    def forget(self, end: int) -> None:
        """Rows below ``end`` are forgotten; they must be closed."""
        self.first = max(self.first, end)
        while self.segments and self.segments[0].end <= self.first:
            self.segments.pop(0)


def row_bytes(rows: pa.RecordBatch) -> npt.NDArray[np.int32]:
    """What each row takes; depends on the row alone, not on how rows are held."""
    total = np.full(rows.num_rows, ROW_BYTES, np.int64)
    for name in ("event_id", "key", "model_version"):
        total += _lengths(pc.binary_length(rows[name]))
    total += 4 * _lengths(pc.list_value_length(rows["numeric"]))
    words = _lengths(pc.list_value_length(rows["category"]))
    ends = np.cumsum(words)
    letters = np.concatenate(
        [[0], np.cumsum(_lengths(pc.binary_length(rows["category"].flatten())))]
    )
    total += 4 * words + letters[ends] - letters[ends - words]
    return total.astype(np.int32)


def _lengths(array: pa.Array) -> Int64:
    found: Int64 = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def id_bytes(ids: pa.Array) -> Int64:
    """What closed rows take: their ids, and what finds them."""
    return _lengths(pc.binary_length(ids)) + CLOSED_BYTES
