"""Prequential quality of every score, as increments of windows of event time.

What is judged is the prediction as it was when it was made. So the scores that the journal does not
carry (the online learner's, the no-change baseline's) are remembered from the ``pending`` row until
no truth and no correction can come any more, by the clock of the latest event. The memory is
bounded besides; what it forgot is not judged rather than judged by a later, better informed score.

Sums are whole numbers of 1e-9: adding them is exact and their order does not matter, so a corrected
label takes back exactly what it had added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.calibration import Calibration
from models.increments import Increments, to_nano
from models.memory import MemoryContent, PredictionMemory

LOSS_FLOOR: Final = 1e-15
"""Probabilities are kept this far from 0 and 1, so one row costs at most 34.5 nats."""
ERROR_MAX: Final = 1e9
"""Errors of a number target count at most this much, so that their sums always fit."""
MEMORY_ROWS_MAX: Final = 262_144
"""Predictions remembered per shard: about 40 MB, and 10 MB of a snapshot."""
NEVER_MS: Final = 1 << 60

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class QualityContent(msgspec.Struct, array_like=True, frozen=True):
    """The state between two messages."""

    binary: bool
    scores: tuple[str, ...]
    last_label: float
    memory: MemoryContent
    calibration: bytes
    forgotten: int
    clock_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """The columns of one message that quality depends on; all are equally long."""

    key: list[int]
    time_ms: npt.NDArray[np.int64]
    """of the event"""
    pending: Flags
    known: Flags
    """the truth is known with this row"""
    first: Flags
    """known, and it was not known before"""
    provisional: Flags
    expired: Flags
    evicted: Flags
    label: Floats
    previous: Floats
    served: Floats
    model: Floats
    delay_ms: npt.NDArray[np.int64]
    """-1 where there is none"""


class Quality:
    """Turns the journal of one shard into rows of evaluations.

    Args of the constructor:
        binary: The target is 0 or 1; otherwise it is a number.
        prior: What a constant baseline says.
        window_ms: Span of event time of a window.
        remembered: Names of the scores that `observe` is given beside the journal.
        memory_rows_max: Predictions that are remembered at most.
        memory_ms_max: By how much the latest event may be later than it was at a prediction, until
            that is forgotten.
    """

    def __init__(
        self,
        *,
        binary: bool,
        prior: float,
        window_ms: int,
        remembered: Sequence[str] = ("online", "hybrid"),
        memory_rows_max: int = MEMORY_ROWS_MAX,
        memory_ms_max: int = NEVER_MS,
    ) -> None:
        self.forgotten = 0
        """Truths that could not be judged in full, because the prediction was forgotten."""
        self._binary = binary
        self._prior = prior
        self._window_ms = window_ms
        self._remembered = tuple(remembered)
        self._last_label = prior
        self._clock_ms = 0
        self._memory_ms_max = memory_ms_max
        self._memory = PredictionMemory(len(self._remembered) + 2, rows_max=memory_rows_max)
        self._calibration = Calibration()

    @property
    def evicted(self) -> int:
        """Predictions that left the memory because it was full."""
        return self._memory.evicted

    def observe(self, examples: pa.RecordBatch, scores: Mapping[str, Floats]) -> Increments | None:
        """Take one message; what it adds to which windows. See `models.observer.Observer`."""
        if not examples.num_rows:
            return None
        rows = _rows(examples)
        remembered = self._recall(rows, scores)
        judged = {
            "served": rows.served,
            "model": rows.model,
            **{name: remembered[:, i] for i, name in enumerate(self._remembered)},
            "no_change": remembered[:, -2],
            "prior": np.full(len(rows.served), self._prior),
        }
        found = Increments.over(examples, window_ms=self._window_ms)
        for name, score in judged.items():
            self._count(found, name, rows, score)
        self._count_once(found, rows)
        if self._binary:
            self._estimate(found, rows, remembered[:, -1])
            self._calibration.learn(rows.served[rows.first], rows.label[rows.first])
        return found

    def _recall(self, rows: _Rows, scores: Mapping[str, Floats]) -> Floats:
        """What was remembered of each row: the given scores, no change, calibrated confidence."""
        now = np.column_stack(
            [
                *(scores.get(name, np.full(len(rows.key), np.nan)) for name in self._remembered),
                self._labels_before(rows),
                self._calibration.probability(rows.served) if self._binary else rows.served,
            ]
        ).astype(np.float64)
        memory = self._memory
        self._look_at_clock(rows)
        self._put(rows, now, rows.pending)
        late = now.copy()
        late[:, -1] = np.nan  # an estimate is made before the truth is known, or not at all
        known_before, _ = memory.find(rows.key)
        unseen = rows.first & ~known_before
        self._put(rows, late, unseen)
        found, then = memory.find(rows.key)
        self.forgotten += int((unseen | (rows.known & ~found)).sum())
        memory.forget(before_ms=self._clock_ms - self._memory_ms_max)
        return then

    def _look_at_clock(self, rows: _Rows) -> None:
        """It is the latest event that was predicted, as in the ledger that wrote the journal."""
        newest_ms = int(rows.time_ms[rows.pending].max(initial=0))
        if not self._clock_ms:
            self._memory.date(newest_ms)
        self._clock_ms = max(self._clock_ms, newest_ms)

    def _put(self, rows: _Rows, values: Floats, mask: Flags) -> None:
        chosen = np.flatnonzero(mask)
        if len(chosen):
            keys = [rows.key[i] for i in chosen]
            self._memory.put(keys, values[chosen], at_ms=self._clock_ms)

    def _labels_before(self, rows: _Rows) -> Floats:
        """The label that was known last, at each row's place in the journal."""
        index = np.where(rows.known, np.arange(len(rows.label)), -1)
        newest = np.maximum.accumulate(index)
        before = np.concatenate([[-1], newest[:-1]])
        labels = np.where(before >= 0, rows.label[np.maximum(before, 0)], self._last_label)
        if newest[-1] >= 0:
            self._last_label = float(rows.label[newest[-1]])
        return labels

    def _count(self, found: Increments, name: str, rows: _Rows, score: Floats) -> None:
        """Add the truths of these rows, and take back those that they replace."""
        scored = np.isfinite(score)
        found.add(name, "predictions", rows.pending & scored)
        replaced = scored & rows.known & np.isfinite(rows.previous)
        for mask, truth, sign in (
            (scored & rows.known, rows.label, 1),
            (replaced, rows.previous, -1),
        ):
            found.add(name, "labels", mask, sign)
            squared = np.minimum(np.abs(score - truth), ERROR_MAX)
            found.add_sum(name, "absolute_error", mask, to_nano(squared[mask]), sign)
            found.add_sum(name, "squared_error", mask, to_nano(squared[mask] ** 2), sign)
            if self._binary:
                found.add(name, "correct", mask & ((score > 0.5) == (truth > 0.5)), sign)
                found.add(name, "positives", mask & (truth > 0.5), sign)
                found.add(name, "predicted_positives", mask & (score > 0.5), sign)
                loss = to_nano(log_loss(score[mask], truth[mask]))
                found.add_sum(name, "log_loss", mask, loss, sign)
                found.add_score_bins(name, mask, score, truth > 0.5, sign)
        found.add(name, "corrected", replaced)
        found.add(name, "provisional", scored & rows.provisional)
        # The journal does not say which replaced truth was provisional, so none is taken back here.

    def _count_once(self, found: Increments, rows: _Rows) -> None:
        """What concerns the event and not one of its scores is counted with ``served``."""
        found.add("served", "expired", rows.expired)
        found.add("served", "evicted", rows.evicted)
        timed = rows.first & (rows.delay_ms >= 0) & ~rows.provisional
        found.add_delay_bins("served", timed, rows.delay_ms)

    def _estimate(self, found: Increments, rows: _Rows, calibrated: Floats) -> None:
        """Expected values where nothing is known yet, and what they foretold where it is."""
        score, yes = rows.served, rows.served > 0.5
        asked = rows.pending & np.isfinite(calibrated)
        expected = np.where(yes, calibrated, 1 - calibrated)
        share, certain = calibrated[asked], np.ones(int(asked.sum()))
        loss = share * log_loss(score[asked], certain)
        loss += (1 - share) * log_loss(score[asked], 1 - certain)
        squared = share * (1 - score[asked]) ** 2 + (1 - share) * score[asked] ** 2
        found.add_sum("served", "estimated_correct", asked, to_nano(expected[asked]))
        found.add_sum("served", "estimated_log_loss", asked, to_nano(loss))
        found.add_sum("served", "estimated_squared_error", asked, to_nano(squared))
        had = rows.known & np.isfinite(calibrated)
        again = had & np.isfinite(rows.previous)
        for mask, truth, sign in ((had, rows.label, 1), (again, rows.previous, -1)):
            found.add("served", "checked", mask, sign)
            found.add("served", "checked_correct", mask & (yes == (truth > 0.5)), sign)
            foretold = to_nano(expected[mask])
            found.add_sum("served", "checked_estimated_correct", mask, foretold, sign)

    def content(self) -> QualityContent:
        """The whole state, in one canonical form."""
        return QualityContent(
            self._binary,
            self._remembered,
            self._last_label,
            self._memory.content(),
            self._calibration.content(),
            self.forgotten,
            self._clock_ms,
        )

    def load(self, content: QualityContent) -> None:
        """Continue from ``content``.

        Raises:
            ValueError: it is of another target or of other scores.
        """
        if (content.binary, content.scores) != (self._binary, self._remembered):
            raise ValueError(
                f"could not load quality of binary={content.binary}, scores={content.scores} into "
                f"binary={self._binary}, scores={self._remembered}"
            )
        self._memory.load(content.memory)
        self._calibration.load(content.calibration)
        self._last_label = content.last_label
        self.forgotten = content.forgotten
        self._clock_ms = content.clock_ms


def log_loss(score: Floats, truth: Floats) -> Floats:
    """Nats per row, of a probability of yes and a truth of 0 or 1."""
    right = np.where(truth > 0.5, score, 1.0 - score)
    return np.asarray(-np.log(np.clip(right, LOSS_FLOOR, 1.0)), np.float64)


def _rows(examples: pa.RecordBatch) -> _Rows:
    kind = examples["kind"]

    def of(*names: str) -> Flags:
        chosen = pc.is_in(kind, value_set=pa.array(names, pa.utf8()))
        return np.asarray(chosen.to_numpy(zero_copy_only=False), np.bool_)

    def numbers(name: str) -> Floats:
        return np.asarray(examples[name].to_numpy(zero_copy_only=False), np.float64)

    label, previous = numbers("label"), numbers("previous")
    known = of("final", "provisional", "corrected") & ~np.isnan(label)
    partition = examples["source_partition"].to_numpy().astype(np.int64)
    return _Rows(
        key=((partition << 44) + examples["source_offset"].to_numpy()).tolist(),
        time_ms=examples["event_time"].cast(pa.int64()).to_numpy(),
        pending=of("pending"),
        known=known,
        first=known & np.isnan(previous),
        provisional=of("provisional") & known,
        expired=of("expired"),
        evicted=of("evicted"),
        label=label,
        previous=previous,
        served=numbers("score"),
        model=numbers("model_score"),
        delay_ms=examples["delay_ms"].fill_null(-1).to_numpy(),
    )
