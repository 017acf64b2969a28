"""Scored rows and labels in, examples out: each prediction with its truth, exactly once.

`ledger/core.py` decides what becomes of a prediction; `transport/turns.py` carries the state over a
crash. Here they meet: messages become columns, the ledger's examples become messages, and every
offset commit carries a pointer to the state (`ledger/pointer.py`).
"""

import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import structlog

from schemas.arrow import write_batches
from schemas.errors import ChecksumMismatch, SchemaError, SetupError
from schemas.events import Source
from schemas.labels import decode_labels
from schemas.pipeline import Pipeline
from schemas.scored import read_scored
from schemas.settings import Settings
from streams.ledger.canonical import batch_parts
from streams.ledger.columns import LabelColumns
from streams.ledger.core import Ledger
from streams.ledger.dump import dump, load
from streams.ledger.pointer import CHECKSUM_END, Pointer, checksum_of
from streams.ledger.rules import Rules
from streams.ledger.snapshots import SnapshotStore
from streams.telemetry import Reporter
from streams.transport.commit import Outgoing
from streams.transport.records import Run
from streams.transport.turns import Offsets

log = structlog.get_logger()

EXAMPLES_BYTES_MAX = 4 << 20
"""Bytes of one Arrow message, half of what the topic allows."""
ROOM_CHARACTERS_MIN = 200
"""What one more turn and larger counts may need of the pointer; below it a snapshot is due."""
REPLAY_S_MAX = 2.0
"""Processor seconds of turns since the last snapshot after which the next is due: a restart repeats
them. Turns, not records, are what costs time while events are few."""
SNAPSHOT_SHARE_MAX = 0.05
"""Of the time of turns that snapshots may take: a large ledger is written less often."""


def rules_of(pipeline: Pipeline, settings: Settings) -> Rules:
    """What the declaration and the settings say."""
    return Rules(
        horizon_ms=pipeline.horizon_ms,
        silence=pipeline.silence,
        corrections_ms=pipeline.corrections_ms,
        rows_max=settings.ledger_rows_max,
        bytes_max=settings.ledger_bytes_max,
        waiting_rows_max=settings.ledger_waiting_rows_max,
        label_bytes_max=settings.event_bytes_max,
    )


def snapshots_of(pipeline: Pipeline, partition: int, settings: Settings) -> str:
    """The fsspec address of one partition's snapshots."""
    return f"{settings.ledger_root.rstrip('/')}/{pipeline.name}/{partition}"


class Joiner:
    """The ledger of one partition as a `streams.transport.turns.State`."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        settings: Settings,
        reporter: Reporter,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """``clock``: seconds of work of the thread that makes the turns."""
        self._pipeline = pipeline
        self._rules = rules_of(pipeline, settings)
        self._counters = reporter.counters
        self._snapshots = SnapshotStore(snapshots_of(pipeline, partition, settings))
        self._place = f"partition {partition} of {pipeline.name}"
        examples = pipeline.topics.examples
        self._target = (examples.name, 0 if examples.partitions == 1 else partition)
        self.ledger = Ledger(self._rules)
        self._pointer = Pointer(snapshot="", scored_offset=0, labels_offset=0)
        self._sent = _Sent()
        self._snapshot_due = True
        self._swept = ""
        self._clock = clock
        self._worked_s = self._snapshot_s = 0.0

    # -- recovery

    def restore(self, metadata: str) -> tuple[Offsets, Sequence[Offsets]]:
        """See `State.restore`. Under the rules of the snapshot, until all turns are repeated."""
        if not metadata:
            return (0, 0), []
        try:
            self._pointer = pointer = Pointer.decode(metadata)
            self.ledger = load(self._snapshots.read(pointer.snapshot))
        except (SchemaError, ChecksumMismatch, OSError) as cause:
            raise SetupError(
                f"could not restore the label ledger of {self._place}: {cause}. Its snapshots are "
                "under TIDEMILL_LEDGER; restore the file, or give the group another name."
            ) from cause
        self._swept = pointer.snapshot
        place, turns = (pointer.scored_offset, pointer.labels_offset), []
        for scored, labels in pointer.turns:
            place = (place[0] + scored, place[1] + labels)
            turns.append(place)
        return (pointer.scored_offset, pointer.labels_offset), turns

    def verify(self) -> None:
        """See `State.verify`: the same examples, as counted and summed when they were sent."""
        found = (self._sent.rows, self._sent.checksum % CHECKSUM_END, self.ledger.counts())
        wanted = (self._pointer.rows, self._pointer.checksum, self._pointer.counts)
        if found != wanted:
            raise SetupError(
                f"could not rebuild the label ledger of {self._place}: rows, checksum and "
                f"counts={found}, recorded were {wanted}. Start the release that wrote it."
            )
        self._sent = _Sent()
        # What the declaration says now holds from here on, never for what is repeated.
        self._snapshot_due = self.ledger.rules != self._rules
        self.ledger.rules = self._rules

    # -- the work

    def turn(self, runs: Sequence[Sequence[Run]]) -> list[Outgoing]:
        """See `State.turn`."""
        scored, labels = runs
        began_s = self._clock()
        examples = self.ledger.turn(
            [batch for run in scored for batch in self._predictions(run)], self._labels(labels)
        )
        self._sent.add(examples)
        self._worked_s += self._clock() - began_s
        if not examples.num_rows:
            return []
        messages = write_batches(examples, bytes_max=EXAMPLES_BYTES_MAX)
        return [Outgoing(*self._target, messages)]

    def _predictions(self, run: Run) -> list[pa.RecordBatch]:
        found = []
        for offset, value in zip(run.offsets, run.values, strict=True):
            try:
                found.append(read_scored(value or b""))
            except SchemaError as error:  # not written by a scorer; the lander makes a dead letter
                log.warning("scored message not understood", offset=offset, why=str(error))
                self._counters["scored_rejected"] += 1
        return found

    def _labels(self, runs: Sequence[Run]) -> LabelColumns:
        labels, times_ms = [], []
        for run in runs:
            good, positions, _rejects = decode_labels(  # the scorer makes dead letters of the rest
                Source(run.tp.topic, run.tp.partition),
                run.offsets,
                run.keys,
                run.values,
                now_ms=run.timestamps_ms,
                bytes_max=self.ledger.rules.label_bytes_max,
                kind=self._pipeline.target.kind,
            )
            labels += good
            times_ms += [run.timestamps_ms[position] for position in positions]
        return LabelColumns.of(labels, times_ms)

    def record(self, offsets: Offsets) -> str:
        """See `State.record`."""
        before, sent, self._sent = self._pointer.offsets, self._sent, _Sent()
        moved = (offsets[0] - before[0], offsets[1] - before[1])
        self._counters["examples"] += sent.rows
        counts = self.ledger.counts()
        pointer = self._pointer.emitted(
            moved, rows=sent.rows, checksum=sent.checksum, counts=counts
        )
        if self._due(pointer):
            began_s = self._clock()
            name = self._snapshots.write(
                dump(self.ledger), scored_offset=offsets[0], labels_offset=offsets[1]
            )
            pointer = Pointer(
                snapshot=name, scored_offset=offsets[0], labels_offset=offsets[1], counts=counts
            )
            self._snapshot_due, self._worked_s = False, 0.0
            self._snapshot_s = self._clock() - began_s
        self._pointer = pointer
        return pointer.encode()

    def _due(self, pointer: Pointer) -> bool:
        """Whether the state must be written down anew.

        Also when a topic moves for the first time: before that its base is 0, where a log that
        retention has cut does not begin, so that it could never be read again from there.
        """
        base = (pointer.scored_offset, pointer.labels_offset)
        begins = any(b == 0 < o for b, o in zip(base, pointer.offsets, strict=True))
        return (
            self._snapshot_due
            or begins
            or self._worked_s > max(REPLAY_S_MAX, self._snapshot_s / SNAPSHOT_SHARE_MAX)
            or pointer.room() < ROOM_CHARACTERS_MIN
        )

    def committed(self) -> None:
        """See `State.committed`."""
        if self._pointer.snapshot != self._swept:
            self._snapshots.sweep(self._pointer.snapshot)
            self._swept = self._pointer.snapshot


class _Sent:
    """What was emitted since the last `record`, or since the snapshot while turns are repeated."""

    def __init__(self) -> None:
        self.rows = self.checksum = 0

    def add(self, examples: pa.RecordBatch) -> None:
        self.rows += examples.num_rows
        self.checksum += checksum_of(batch_parts(examples))
