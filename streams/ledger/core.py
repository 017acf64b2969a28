"""The label ledger of one partition: every prediction waits here for its truth.

    pending -> final                      the label came
    pending -> provisional -> corrected   the horizon passed, silence means something; another truth
    pending -> expired -> corrected       the horizon passed, silence means nothing; a late truth
    final -> corrected -> corrected       the same label again: another value, a higher revision

Time is the partition's own clock: the latest event or label time seen in it, never ahead of the
broker's time stamp of the same record. It depends on the records alone, so a replay of the same
turns gives the same state, whenever it runs. It stands still while a partition is silent.

A prediction enters at the clock or at its own time, whichever is later, so rows leave in the order
in which they came, and an event that arrives late is waited for as long as any other. It waits
`horizon` for its truth, takes corrections for `corrections` more, then closes; its id is known for
`corrections` more, so that a late label is told from one that belongs to nothing.

A label that overtook its prediction waits `horizon` by the predictions' own clock, the latest event
time among them. Labels run ahead of predictions by as much as scoring takes; where history is
replayed at a thousand times its speed that second is days, and says nothing of what is to come.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.examples import EXAMPLES
from streams.ledger.columns import LabelColumns
from streams.ledger.examples import Truths, examples_of
from streams.ledger.index import Index, hash_ids
from streams.ledger.rows import (
    CORRECTED,
    EXPIRED,
    FEATURES,
    FINAL,
    NO_REVISION,
    PENDING,
    PROVISIONAL,
    STATES,
    Rows,
    id_bytes,
)
from streams.ledger.rules import SHARE, Balance, Rules
from streams.ledger.waiting import Waiting, WaitingLabels

Int64 = npt.NDArray[np.int64]

NO_EXAMPLES: pa.RecordBatch = pa.RecordBatch.from_pylist([], schema=EXAMPLES)


class Ledger:
    """The state of one partition. Not for concurrent use.

    Attributes:
        rules: May be replaced between two turns; they hold for what is here already.
        clock_ms: See above.
        predicted_ms: The predictions' own clock.
        balance: What became of everything.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.clock_ms = 0
        self.predicted_ms = 0
        self.balance = Balance()
        self.rows = Rows()
        self.waiting = WaitingLabels()
        self.open_states = np.zeros(len(STATES), np.int64)
        """Rows that are not closed, by state."""
        self.open_bytes = 0
        self.closed_bytes = 0
        self._index = Index()

    def turn(self, predictions: Sequence[pa.RecordBatch], labels: LabelColumns) -> pa.RecordBatch:
        """Take in what was read, predictions before labels; the examples that follow, in order.

        ``predictions`` have the columns of `schemas.scored.SCORED`. Deterministic in its arguments
        and the state. How the same records are cut into turns may matter: record the cuts.
        """
        emitted = [self._predict(batch) for batch in predictions if batch.num_rows]
        opened = [batch for batch in emitted if batch.num_rows]
        ids = [event_id for batch in opened for event_id in batch["event_id"].to_pylist()]
        if len(labels):
            known_ms = np.minimum(labels.label_time_ms, labels.record_time_ms)
            self.clock_ms = max(self.clock_ms, int(known_ms.max()))
        out = [*opened, self._label(self.waiting.take(ids), labels)]
        out += self._pass_horizon()
        out += self._evict()
        self._leave()
        return pa.concat_batches([NO_EXAMPLES, *out])

    # -- predictions

    def _predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Open the predictions of one message; their ``pending`` examples."""
        self.balance.predictions += batch.num_rows
        known_ms = np.minimum(_times(batch, "event_time"), _times(batch, "produced_at"))
        entered_ms = np.maximum.accumulate(np.maximum(known_ms, self.clock_ms))
        self.clock_ms = int(entered_ms[-1])
        self.predicted_ms = max(self.predicted_ms, int(known_ms.max()))
        ids = batch["event_id"].to_pylist()
        hashes = hash_ids(ids)
        new = (self._find(batch["event_id"], hashes) < 0) & _first_of_each(batch["event_id"])
        held = batch.select(FEATURES)
        if not new.all():
            self.balance.repeated += int(np.count_nonzero(~new))
            held = held.filter(pa.array(new))
            hashes, entered_ms = hashes[new], entered_ms[new]
        rows = np.arange(self.rows.end, self.rows.end + held.num_rows)
        self.open_bytes += self.rows.append(held, entered_ms)
        self._index.add(hashes, rows, self.rows.first)
        self.open_states[PENDING] += len(rows)
        return examples_of(held, Truths.none("pending", len(rows)))

    def index(self, ids: pa.Array, rows: Int64) -> None:
        """Make ``rows`` findable by their ``ids``; for those who build a ledger from its parts."""
        self._index.add(hash_ids(ids.to_pylist()), rows, self.rows.first)

    def _find(self, ids: pa.Array, hashes: Int64) -> Int64:
        def same(positions: Int64, rows: Int64) -> npt.NDArray[np.bool_]:
            return self.rows.same_id(ids.take(pa.array(positions)), rows)

        return self._index.find(hashes, self.rows.first, same)

    # -- labels

    def _label(self, released: Sequence[Waiting], labels: LabelColumns) -> pa.RecordBatch:
        """Apply labels: first those whose prediction has just come, then those just read."""
        self.balance.labels += len(labels)
        ids = [*(one.event_id for one in released), *labels.event_id]
        if not ids:
            return NO_EXAMPLES
        value = np.concatenate([np.array([w.value for w in released], float), labels.value])
        time_ms = np.concatenate(
            [np.array([w.label_time_ms for w in released], np.int64), labels.label_time_ms]
        )
        revision = np.concatenate(
            [np.array([w.revision for w in released], np.int64), labels.revision.astype(np.int64)]
        )
        rows = self._find(pa.array(ids, pa.utf8()), hash_ids(ids))
        for place in np.flatnonzero(rows < 0).tolist():
            self.waiting.add(
                Waiting(
                    ids[place],
                    float(value[place]),
                    int(time_ms[place]),
                    int(revision[place]),
                    self.clock_ms,
                )
            )
        self.balance.late += int(np.count_nonzero((rows >= 0) & (rows < self.rows.closed)))
        live = np.flatnonzero(rows >= self.rows.closed)
        if not len(live):
            return NO_EXAMPLES
        order = live[np.argsort(rows[live], kind="stable")]
        return self._apply(rows[order], value[order], time_ms[order], revision[order], order)

    def _apply(
        self,
        rows: Int64,
        value: npt.NDArray[np.float64],
        time_ms: Int64,
        revision: Int64,
        position: Int64,
    ) -> pa.RecordBatch:
        """Labels of open rows, sorted by row and then as they came; examples as they came."""
        state, held_label, held_revision = self.rows.truth(rows)
        keep = _newer(rows, revision, held_revision)
        self.balance.duplicates += int(np.count_nonzero(~keep))
        rows, value, time_ms, revision = rows[keep], value[keep], time_ms[keep], revision[keep]
        position, state, held_label = position[keep], state[keep], held_label[keep]
        held_revision = held_revision[keep]
        if not len(rows):
            return NO_EXAMPLES
        first = np.concatenate([[True], rows[1:] != rows[:-1]])
        previous = np.where(first, held_label, np.concatenate([[0.0], value[:-1]]))
        known = ~first | (state >= PROVISIONAL)
        changes = ~known | (value != previous)
        corrects = changes & (known | (state == EXPIRED))
        self.balance.joined += int(np.count_nonzero(changes))
        self.balance.confirmed += int(np.count_nonzero(~changes))
        self.balance.corrected += int(np.count_nonzero(corrects))
        starts = np.flatnonzero(first)
        self.balance.labelled += int(np.count_nonzero(held_revision[starts] == NO_REVISION))
        lasts = np.concatenate([starts[1:], [len(rows)]]) - 1
        after = np.maximum.reduceat(np.maximum(np.where(corrects, CORRECTED, FINAL), state), starts)
        self._move(state[starts], after)
        self.rows.set_truth(rows[starts], after, value[lasts], revision[lasts])
        sent = np.flatnonzero(changes)
        examples = examples_of(
            self.rows.held(rows[sent]),
            Truths.sent(
                corrects[sent],
                value[sent],
                np.where(known, previous, np.nan)[sent],
                time_ms[sent],
                revision[sent],
            ),
        )
        return examples.take(pa.array(np.argsort(position[sent], kind="stable")))

    def _move(self, before: Int64, after: Int64) -> None:
        count = len(STATES)
        self.open_states += np.bincount(after, minlength=count)
        self.open_states -= np.bincount(before, minlength=count)

    # -- time

    def _pass_horizon(self) -> list[pa.RecordBatch]:
        """Predictions whose horizon has passed without a label."""
        rows, rules = self.rows, self.rules
        end = rows.entered_before(rows.due, self.clock_ms - rules.horizon_ms)
        silent = self._in_state(PENDING, rows.due, end)
        rows.due = end
        if not len(silent):
            return []
        count, assumed = len(silent), rules.silence is not None
        after = PROVISIONAL if assumed else EXPIRED
        if assumed:
            self.balance.provisional += count
        else:
            self.balance.expired += count
        label = np.full(count, rules.silence if assumed else 0.0)
        self._move(np.full(count, PENDING), np.full(count, after))
        rows.set_truth(silent, np.full(count, after), label, np.full(count, NO_REVISION))
        return [examples_of(rows.held(silent), Truths.assumed(STATES[after], rules.silence, count))]

    def _in_state(self, state: int, first: int, end: int) -> Int64:
        found = [
            np.flatnonzero(segment.state[part] == state) + segment.first + part.start
            for segment, part in self.rows.parts(first, end)
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _evict(self) -> list[pa.RecordBatch]:
        """Give up the oldest predictions until the rest fits."""
        end = self._fitting()
        rows = self.rows
        if end <= rows.closed:
            return []
        pending = self._in_state(PENDING, rows.closed, end)
        examples = examples_of(rows.held(pending), Truths.none("evicted", len(pending)))
        self.balance.evicted += end - rows.closed
        self._close(end)
        rows.due = max(rows.due, end)
        return [examples]

    def _fitting(self) -> int:
        """The first row from which on all open ones fit into their bounds."""
        rows, rules = self.rows, self.rules
        end = max(rows.closed, rows.end - rules.rows_max)
        sizes = ((s.first + p.start, s.num_bytes[p]) for s, p in rows.parts(rows.closed, rows.end))
        return max(end, _behind(rows.closed, sizes, self.open_bytes - rules.bytes_max))

    def _leave(self) -> None:
        """Close and forget what is due, and give up labels that waited in vain."""
        rows, rules, clock_ms = self.rows, self.rules, self.clock_ms
        open_ms = rules.horizon_ms + rules.corrections_ms
        end = rows.entered_before(rows.closed, clock_ms - open_ms)
        self.balance.closed += end - rows.closed
        self._close(end)
        self._forget(rows.entered_before(rows.first, clock_ms - open_ms - rules.corrections_ms))
        ids = (
            (s.first + p.start, id_bytes(s.ids[p])) for s, p in rows.parts(rows.first, rows.closed)
        )
        early = max(
            rows.closed - rules.rows_max,
            _behind(rows.first, ids, self.closed_bytes - rules.bytes_max // SHARE),
        )
        self.balance.forgotten += max(0, early - rows.first)
        self._forget(early)
        self.balance.orphans_expired += self.waiting.expire(self.predicted_ms - rules.horizon_ms)
        self.balance.orphans_evicted += self.waiting.evict(
            rules.waiting_rows_max, rules.bytes_max // SHARE
        )

    def _close(self, end: int) -> None:
        rows = self.rows
        for segment, part in rows.parts(rows.closed, end):
            self.open_states -= np.bincount(segment.state[part], minlength=len(STATES))
            self.open_bytes -= int(segment.num_bytes[part].sum())
            self.closed_bytes += int(id_bytes(segment.ids[part]).sum())
        rows.close(end)

    def _forget(self, end: int) -> None:
        rows = self.rows
        end = min(end, rows.closed)
        for segment, part in rows.parts(rows.first, end):
            self.closed_bytes -= int(id_bytes(segment.ids[part]).sum())
        rows.forget(end)

    # -- what it says of itself

    def counts(self) -> dict[str, int]:
        """The balance, and what is here now: open predictions by state, labels that wait."""
        return {
            **asdict(self.balance),
            **{f"open_{n}": int(c) for n, c in zip(STATES, self.open_states, strict=True)},
            "waiting": len(self.waiting),
            "clock_ms": self.clock_ms,
        }


def _newer(rows: Int64, revision: Int64, held_revision: Int64) -> npt.NDArray[np.bool_]:
    """Which labels have a higher revision than what is held and than all before them of their row.

    ``rows`` are sorted. Each row's revisions are lifted above those of the row before, so that one
    running maximum serves all.
    """
    group = np.cumsum(np.concatenate([[0], rows[1:] != rows[:-1]])).astype(np.int64)
    lift = (group << 33) + 1
    lifted = lift + revision
    before = np.concatenate([[-1], np.maximum.accumulate(lifted)[:-1]])
    newer: npt.NDArray[np.bool_] = lifted > np.maximum(before, lift + held_revision)
    return newer


def _behind(first: int, sizes: Iterable[tuple[int, npt.NDArray[Any]]], over: int) -> int:
    """The row behind as many of the oldest as together take ``over`` bytes or more.

    ``sizes`` are those of consecutive rows from ``first`` on, in pieces: (first row, sizes).
    """
    end = first
    if over <= 0:
        return end
    for start, piece in sizes:
        total = np.cumsum(piece, dtype=np.int64)
        if over <= total[-1]:
            return start + int(np.searchsorted(total, over)) + 1
        over -= int(total[-1])
        end = start + len(piece)
    return end


def _first_of_each(ids: pa.Array) -> npt.NDArray[np.bool_]:
    """Where each id stands for the first time."""
    _ids, places = np.unique(pc.dictionary_encode(ids).indices.to_numpy(), return_index=True)
    first = np.zeros(len(ids), bool)
    first[places] = True
    return first


def _times(batch: pa.RecordBatch, name: str) -> Int64:
    times: Int64 = batch[name].view(pa.int64()).to_numpy()
    return times
