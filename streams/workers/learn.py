"""Examples in; a learner that has learned each of them once, its snapshots, and what was observed.

The learner of a shard, the observer beside it and the offset up to which both have seen the
examples are one state. Every turn takes what has arrived, and commits in one fenced transaction:
evaluations and alarms, the offset, and, when one is due, a signed snapshot of the whole state. A
worker that dies is continued from the last committed snapshot and the examples since; one that was
replaced and does not know it yet is refused by the broker, so it can neither commit nor publish.
Scorers do not wait for whole snapshots: between them the learner alone is offered.

The state follows from the messages of the log and their order alone. So whatever dies when, the
weights in the end are bit by bit those of a run that nothing interrupted.
"""

import time
import zlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from models.hybrid import OnlineModel
from models.observer import Observed, Observer
from models.online import fingerprint
from models.protocol import FeatureColumns, Floats
from models.signing import Keyring
from schemas.alarms import encode_alarm
from schemas.dead_letters import DeadLetter, Reason
from schemas.errors import SchemaError, SetupError
from schemas.evaluations import write_evaluations
from schemas.examples import read_examples
from schemas.features import split
from schemas.learners import LearnerHeader
from schemas.pipeline import Pipeline
from streams.telemetry import Reporter
from streams.transport.commit import Outgoing
from streams.transport.records import Run
from streams.transport.turns import Offsets
from streams.workers.learners import MODEL, OBSERVER, OFFER, Snapshot, pack

log = structlog.get_logger()

TEACHING = ("final", "provisional", "corrected")
"""Kinds of examples that are learned, each with its weight."""
SNAPSHOT_SHARE_MAX = 0.02
"""Part of its time that a learner may spend on whole snapshots, and on offers as much again: what
is large is published more rarely."""
OFFER_S_MIN = 0.2
"""Seconds between two offers of a shard: scorers load each of them."""
DRAIN_MESSAGES_MAX = 256
"""Messages that one drain hands over, each of up to thousands of examples."""
SNAPSHOT_MESSAGES_MAX = 512
"""Messages after which a snapshot is due, whatever it costs: bounds what a restart reads again."""


METERED = (
    "predictions", "labels", "provisional", "corrected", "expired", "evicted", "correct",
    "log_loss", "squared_error", "absolute_error", "checked", "checked_correct",
    "checked_estimated_correct",
)  # fmt: skip
"""Sums of what was served that are metrics as well, as ``served_<name>``, since the worker began;
what they mean is in `schemas.evaluations`."""


class _Record(msgspec.Struct, array_like=True):
    """The text beside the committed offset: which snapshot, and what came after it."""

    version: int
    epoch: int
    signed: str
    base: int
    end: int
    messages: int
    check: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Record).decode


class LearnState:
    """Learner and observer of one shard as a `streams.transport.turns.State`.

    Args of the constructor:
        make_model: A new online model, or None if the pipeline declares no learner.
        observer: A new observer of this shard.
        read_back: The newest snapshot of this shard on the topic, if there is any.
        clock: Seconds, that snapshots are stamped with.
        timer: Seconds that never jump: when the next snapshot is due.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        shard: int,
        *,
        make_model: Callable[[], OnlineModel | None],
        observer: Observer,
        keyring: Keyring,
        read_back: Callable[[int], Snapshot | None],
        reporter: Reporter,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._shard = pipeline, shard
        self._topics = pipeline.topics
        self._rows = ExampleReader(pipeline)
        self.model, self._observer = make_model(), observer
        self._keyring, self._read_back = keyring, read_back
        self._clock, self._timer = clock, timer
        self._counters = reporter.counters
        learner = pipeline.learner
        self._fingerprint = fingerprint(learner, pipeline.target) if learner else "none"
        self._record = _Record(1, 0, "", 0, 0, 0, 0)
        self._messages = self._check = 0
        """Messages since the snapshot, and a checksum over them and what was said about them."""
        self._unpublished = 0
        """Examples learned that no published snapshot knows."""
        self._reset = False
        self._live = False
        self._due_at_s = self._offer_at_s = 0.0

    # -- recovery

    def restore(self, metadata: str) -> tuple[Offsets, Sequence[Offsets]]:
        """See `State.restore`."""
        found = self._read_back(self._shard)
        if not metadata:
            # A group that starts anew goes on with the epochs of what it finds: they only grow.
            self._record.epoch = max(found.header.epoch, found.epoch_newest) if found else 0
            self._live = True
            return (0,), []
        try:
            self._record = record = _decode(metadata)
        except msgspec.MsgspecError as cause:
            raise SetupError(
                f"could not read what was committed for shard {self._shard} of "
                f"{self._pipeline.name}: {cause}; metadata={metadata[:80]!r}"
            ) from cause
        if found is None or found.signed != record.signed:
            raise SetupError(
                f"could not restore shard {self._shard} of {self._pipeline.name}: the newest "
                f"trusted snapshot on {self._topics.learners.name} is of offset="
                f"{found.header.position if found else None}, committed is one of {record.base}. "
                "Was the topic made anew, or the signing key replaced? Trust the old key, or start "
                "the group under another name: it then learns again from the oldest example."
            )
        self._load(found)
        turns = [(record.end,)] if record.end > record.base else []
        return (record.base,), turns

    def _load(self, found: Snapshot) -> None:
        self._observer.restore(found.parts[OBSERVER])
        self._reset = found.header.fingerprint != self._fingerprint
        if self._reset:
            self._counters["learners_reset"] += 1
            log.warning(
                "learner starts anew: the declaration or its library has changed",
                shard=self._shard,
                was=found.header.fingerprint,
                now=self._fingerprint,
            )
        elif self.model is not None:
            self.model.restore(found.parts[MODEL])

    def verify(self) -> None:
        """See `State.verify`: the same messages, and the same said about each of their rows."""
        found, wanted = (self._messages, self._check), (self._record.messages, self._record.check)
        if not self._reset and found != wanted:
            raise SetupError(
                f"could not rebuild shard {self._shard} of {self._pipeline.name}: messages and "
                f"checksum={found}, committed were {wanted}. Start the release that wrote it."
            )
        self._live = True

    # -- the work

    def turn(self, runs: Sequence[Sequence[Run]]) -> list[Outgoing]:
        """See `State.turn`. While live it adds a snapshot when one is due."""
        # One batch of records per topic: each batch is a request of its own.
        evaluations: list[bytes] = []
        alarms: list[bytes] = []
        outgoing: list[Outgoing] = []
        learned = 0
        for run in runs[0]:
            for index, value in enumerate(run.values):
                seen = self._message(run, index, value or b"", outgoing)
                if seen.evaluations is not None and seen.evaluations.num_rows:
                    evaluations.append(write_evaluations(seen.evaluations))
                    self._meter(seen.evaluations)
                alarms.extend(encode_alarm(alarm) for alarm in seen.alarms)
                for alarm in seen.alarms if self._live else ():
                    self._counters[f"alarms_{alarm.detector}"] += 1
                learned += self._rows.teaching
                self._messages += 1
            self._record.end = run.next_offset
        self._unpublished += learned
        if self._live and self._due():
            outgoing.append(self._publish(self._record.end))
        elif self._live and self._unpublished and self.model and self._timer() >= self._offer_at_s:
            outgoing.append(self._offer(self.model, self._record.end))
        self._counters["examples_learned"] += learned
        self._counters["alarms"] += len(alarms)
        for topic, values in (
            (self._topics.evaluations, evaluations),
            (self._topics.alarms, alarms),
        ):
            if values:
                outgoing.append(Outgoing(topic.name, self._shard, values))
        return outgoing

    def _message(self, run: Run, index: int, value: bytes, outgoing: list[Outgoing]) -> Observed:
        self._check = zlib.crc32(value, self._check)
        try:
            examples = self._rows.read(value)
        except SchemaError as error:
            outgoing.append(self._dead_letter(run, index, value, str(error)))
            return Observed()
        scores: dict[str, Floats] = {}
        if self.model is not None and self._rows.columns is not None:
            scores = self.model.take(
                self._rows.columns,
                examples["model_score"].to_numpy(),
                examples["model_version"].to_pylist(),
                self._rows.labels,
                self._rows.weights,
            )
        for said in scores.values():
            self._check = zlib.crc32(said.tobytes(), self._check)
        return self._observer.observe(examples, scores)

    def _meter(self, evaluations: pa.RecordBatch) -> None:
        if self._live:  # what is repeated after a crash was counted before it
            served = evaluations.filter(pc.equal(evaluations["subject"], "served"))
            for name in METERED:
                self._counters[f"served_{name}"] += float(pc.sum(served[name]).as_py() or 0)

    def _dead_letter(self, run: Run, index: int, value: bytes, why: str) -> Outgoing:
        self._counters["dead_letters"] += 1
        self._counters[f"dead_letters_{Reason.SCHEMA}"] += 1
        letter = DeadLetter(
            reason=Reason.SCHEMA,
            detail=why[:500],
            topic=run.tp.topic,
            partition=run.tp.partition,
            offset=run.offsets[index],
            key=run.keys[index],
            value=value,
        )
        return Outgoing(
            self._topics.dead_letters.name,
            self._shard,
            [letter.value],
            [letter.key],
            [letter.headers()],
        )

    # -- snapshots

    def _due(self) -> bool:
        if not self._record.signed or self._reset or self._messages >= SNAPSHOT_MESSAGES_MAX:
            return True
        return self._unpublished > 0 and self._timer() >= self._due_at_s

    def _publish(self, position: int) -> Outgoing:
        started_s, started = self._timer(), time.thread_time()
        parts = {OBSERVER: self._observer.snapshot()}
        if self.model is not None:
            parts[MODEL] = self.model.snapshot()
        records, epoch, signed = self._pack(parts, position)
        self._record = _Record(1, epoch, signed, position, position, 0, 0)
        self._messages = self._check = 0
        self._reset = False
        cost_s = time.thread_time() - started
        self._due_at_s = started_s + cost_s / SNAPSHOT_SHARE_MAX
        self._offer_at_s = started_s + OFFER_S_MIN
        self._counters["snapshots"] += 1
        self._counters["snapshot_s"] += cost_s
        return records

    def _offer(self, model: OnlineModel, position: int) -> Outgoing:
        started_s, started = self._timer(), time.thread_time()
        records, self._record.epoch, _ = self._pack({OFFER: model.snapshot()}, position)
        cost_s = time.thread_time() - started
        self._offer_at_s = started_s + max(OFFER_S_MIN, cost_s / SNAPSHOT_SHARE_MAX)
        self._counters["offers"] += 1
        self._counters["offer_s"] += cost_s
        return records

    def _pack(self, parts: dict[str, bytes], position: int) -> tuple[Outgoing, int, str]:
        """The records, their epoch, and what names the signed header."""
        learner = self.model.learner if self.model else None
        header = LearnerHeader(
            pipeline=self._pipeline.name,
            shard=self._shard,
            epoch=self._record.epoch + 1,
            position=position,
            fingerprint=self._fingerprint,
            rows_learned=learner.rows_learned if learner else 0,
            taken_at_ms=int(self._clock() * 1000),
            parts={},
        )
        records, signed = pack(self._topics.learners.name, header, parts, self._keyring)
        self._unpublished = 0
        self._counters["position"] = position
        if learner is not None:
            self._counters["rows_refused"] = learner.rows_refused
        return records, header.epoch, signed

    def record(self, offsets: Offsets) -> str:
        """See `State.record`."""
        assert offsets == (self._record.end,), (offsets, self._record.end)
        self._record.messages, self._record.check = self._messages, self._check
        return _encode(self._record).decode()

    def committed(self) -> None:
        """See `State.committed`: compaction sweeps what is older."""


class ExampleReader:
    """Turns messages of examples into what a learner takes. Holds one message at a time.

    Attributes:
        columns: The features of the message that was read last; None if they are not those that
            the pipeline declares now: then nothing can be said about their names.
        labels: float64 ``[B]``, NaN where there is none.
        weights: float64 ``[B]``, 0 where the row teaches nothing.
        teaching: How many rows have a weight.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        numeric, category = split(pipeline.features)
        self._numeric = tuple(feature.name for feature in numeric)
        self._category = tuple(feature.name for feature in category)
        self.columns: FeatureColumns | None = None
        self.labels: Floats = np.empty(0)
        self.weights: Floats = np.empty(0)
        self.teaching = 0

    def read(self, message: bytes) -> pa.RecordBatch:
        """Read one message.

        Raises:
            SchemaError: it holds no examples.
        """
        self.columns, self.teaching = None, 0
        examples = read_examples(message)
        self.labels = examples["label"].to_numpy(zero_copy_only=False).astype(np.float64)
        weights = examples["weight"].to_numpy().astype(np.float64)
        known = pc.is_in(examples["kind"], pa.array(TEACHING)).to_numpy(zero_copy_only=False)
        usable = known & np.isfinite(self.labels) & (weights > 0.0)
        self.weights = np.where(usable, weights, 0.0)
        self.columns = self._columns(examples)
        self.teaching = 0 if self.columns is None else int(usable.sum())
        return examples

    def _columns(self, examples: pa.RecordBatch) -> FeatureColumns | None:
        rows = examples.num_rows
        numbers = _flat(examples["numeric"], rows=rows, width=len(self._numeric))
        words = _flat(examples["category"], rows=rows, width=len(self._category))
        if numbers is None or words is None:
            log.warning("examples with other features", rows=rows)
            return None
        found: npt.NDArray[np.float32] = numbers.to_numpy(zero_copy_only=False)
        numeric_BF = found.reshape(rows, len(self._numeric))  # noqa: N806  # shape letters
        return FeatureColumns(self._numeric, self._category, numeric_BF, words)


def _flat(lists: pa.ListArray, *, rows: int, width: int) -> pa.Array | None:
    """The values of lists that all have ``width`` of them; None if one has another number."""
    values = lists.flatten()
    lengths = pc.list_value_length(lists)
    right = len(values) == rows * width and (not rows or pc.all(pc.equal(lengths, width)).as_py())
    return values if right else None


def snapshot_base(metadata: str) -> int:
    """Offset of the examples from which on a restart reads, by what was committed; 0: all of them.

    Raises:
        SetupError: the text is not a learner's.
    """
    if not metadata:
        return 0
    try:
        return _decode(metadata).base
    except msgspec.MsgspecError as cause:
        raise SetupError(f"could not read what a learner committed: {cause}") from cause
