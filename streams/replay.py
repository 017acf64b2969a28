"""Sends a pipeline's history again, as if it happened now: its events and, once known, its labels.

The order is that of event time over both: a label goes out between the events that happened before
and after it became known. `Schedule` decides what is due when, `Replay` sends it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from schemas.errors import KafkaUnavailable, PipelineError
from schemas.events import event_type
from schemas.labels import Label
from schemas.pipeline import Pipeline
from schemas.settings import Settings

CHUNK_RECORDS_MAX = 8_192
"""Records encoded at once: the memory a replay needs beyond the history itself."""

BATCH_BYTES_MAX = 256 << 10
"""One produce request per partition; the broker takes 1 MiB."""

PAUSE_S_MAX = 0.05
"""Longest sleep before the schedule is looked at again, so that a stop is quick."""

DAY_MS = 86_400_000

Int64 = npt.NDArray[np.int64]


class Sent(msgspec.Struct, kw_only=True):
    """What a replay has done so far; at the end, what the brokers have acknowledged.

    Attributes:
        events: Events acknowledged.
        labels: Labels acknowledged.
        seconds: From the first record to the last acknowledgement.
        event_time_ms_first: Time of the first event.
        event_time_ms_last: Time of the last event.
    """

    events: int = 0
    labels: int = 0
    seconds: float = 0.0
    event_time_ms_first: int = 0
    event_time_ms_last: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast: ``events_per_second``, or ``speed`` times event time; with neither, flat out."""

    events_per_second: float | None = None
    speed: float | None = None

    def __post_init__(self) -> None:
        """Refuse two paces at once and a pace that never ends."""
        if self.events_per_second is not None and self.speed is not None:
            raise ValueError("could not pace the replay: give a rate or a speed, not both")
        for value in (self.events_per_second, self.speed):
            if value is not None and not value > 0:
                raise ValueError(f"could not pace the replay: {value} is not above 0")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which record is sent when, over events and labels together.

    Attributes:
        is_label: For each record in sending order, whether it is a label.
        row: The row of the history it is made from.
        due_s: Seconds after the start at which it is sent; never falls.
    """

    is_label: npt.NDArray[np.bool_]
    row: Int64
    due_s: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, event_time_ms: Int64, label_time_ms: Int64, labelled: Int64, pace: Pace
    ) -> "Schedule":
        """Merge events (in their given order) and the labels of rows ``labelled`` by time.

        An event goes before a label of the same millisecond.
        """
        label_order = np.argsort(label_time_ms, kind="stable")
        times = np.concatenate([event_time_ms, label_time_ms[label_order]])
        rows = np.concatenate([np.arange(len(event_time_ms)), labelled[label_order]])
        marks = np.arange(len(times)) >= len(event_time_ms)
        order = np.argsort(times, kind="stable")
        is_label = marks[order]
        due_s: npt.NDArray[np.float64] = np.zeros(len(times))
        if pace.events_per_second is not None:
            events_before: Int64 = np.cumsum(~is_label) - ~is_label
            due_s = events_before / pace.events_per_second
        elif pace.speed is not None and len(times):
            due_s = (times[order] - times[order[0]]) / (1000.0 * pace.speed)
        return cls(is_label, rows[order].astype(np.int64), due_s)

    def due(self, position: int, elapsed_s: float) -> int:
        """How many records from ``position`` on may be sent now, at most a chunk of them."""
        stop = position + CHUNK_RECORDS_MAX
        return int(np.searchsorted(self.due_s[position:stop], elapsed_s, side="right"))


def history_slice(
    pipeline: Pipeline, *, events: int, skip: int | None, start_ms: int | None
) -> pa.Table:
    """The rows of the history to replay, in event-time order.

    Without ``skip`` and ``start_ms`` they begin where the first model's training ends, so that it
    has not seen them.

    Raises:
        PipelineError: there is no history, or it lacks a column that events need.
    """
    if pipeline.history is None:
        raise PipelineError(
            f"{pipeline.source}: pipeline {pipeline.name!r} has no history to replay. "
            "Give it history=a function that returns an Arrow table, or send events yourself."
        )
    table = pipeline.history()
    needed = {"event_id", "event_time_ms", pipeline.key, *(f.name for f in pipeline.features)}
    if absent := sorted(needed - set(table.column_names)):
        raise PipelineError(
            f"{pipeline.source}: pipeline {pipeline.name!r}: history() lacks the columns "
            f"{', '.join(absent)}"
        )
    times = table["event_time_ms"].to_numpy()
    if len(times) and bool(np.any(np.diff(times) < 0)):
        raise PipelineError(
            f"{pipeline.source}: pipeline {pipeline.name!r}: history() is not sorted by time"
        )
    if table[pipeline.key].null_count:
        raise PipelineError(
            f"{pipeline.source}: pipeline {pipeline.name!r}: history() has "
            f"{table[pipeline.key].null_count} rows without {pipeline.key}, the key of every event"
        )
    first = skip or 0
    if skip is None and len(times):
        after = times[0] + pipeline.first_training_days * DAY_MS if start_ms is None else start_ms
        first = int(np.searchsorted(times, after, side="left"))
    return table.slice(first, events)


@dataclass(slots=True)
class Encoder:
    """Turns rows of the history into keys, partitions and JSON bytes, by column, not by record."""

    pipeline: Pipeline
    table: pa.Table
    keys: list[bytes] = field(init=False)
    partition_of_key: Int64 = field(init=False)
    key_of_row: Int64 = field(init=False)
    _event: type[msgspec.Struct] = field(init=False)
    _names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Hash every distinct key once: murmur2, as every Kafka client does by default."""
        column = pc.dictionary_encode(
            self.table[self.pipeline.key].cast(pa.utf8())
        ).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty table stays chunked
            column = pa.array([], pa.utf8()).dictionary_encode()
        self.keys = [word.encode() for word in column.dictionary.to_pylist()]
        self.key_of_row = column.indices.to_numpy().astype(np.int64)
        self.partition_of_key = np.array(
            [(murmur2(key) & 0x7FFFFFFF) % self.pipeline.partitions for key in self.keys], np.int64
        )
        self._names = event_type(self.pipeline).__struct_fields__
        # Every field optional and left out when null: an absent field and a null mean the same.
        self._event = msgspec.defstruct(
            "ReplayedEvent", [(n, Any, None) for n in self._names], omit_defaults=True, gc=False
        )

    def events(self, rows: Int64) -> list[bytes]:
        """The JSON of these rows as events."""
        taken = self.table.select(list(self._names)).take(pa.array(rows))
        columns = [_without_nan(taken[name]).to_pylist() for name in self._names]
        return list(map(msgspec.json.Encoder().encode, map(self._event, *columns)))

    def labels(self, rows: Int64) -> list[bytes]:
        """The JSON of these rows as labels."""
        taken = self.table.select(["event_id", "label", "label_time_ms"]).take(pa.array(rows))
        encode = msgspec.json.Encoder().encode
        return [
            encode(Label(event_id=event_id, value=int(value), label_time_ms=time_ms))
            for event_id, value, time_ms in zip(
                *(taken[name].to_pylist() for name in taken.column_names), strict=True
            )
        ]


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """NaN and infinity are not JSON: such a value is sent as absent."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))


@dataclass(slots=True)
class Replay:
    """Sends a slice of a history to the topics of its pipeline.

    Records of one partition keep their order. `run` returns only when the brokers have acknowledged
    every record (``acks=all``, idempotent): none is lost and none doubled by a retry.
    """

    pipeline: Pipeline
    settings: Settings
    table: pa.Table
    pace: Pace
    sent: Sent = field(default_factory=Sent)

    @property
    def num_labels(self) -> int:
        """Labels that belong to the events of this replay."""
        return len(self._labelled())

    def _labelled(self) -> Int64:
        if not {"label", "label_time_ms"} <= set(self.table.column_names):
            return np.empty(0, np.int64)
        known = pc.and_(self.table["label"].is_valid(), self.table["label_time_ms"].is_valid())
        return np.flatnonzero(known.to_numpy(zero_copy_only=False)).astype(np.int64)

    def schedule(self) -> Schedule:
        """The sending order of this replay."""
        labelled = self._labelled()
        event_time_ms = self.table["event_time_ms"].to_numpy().astype(np.int64)
        label_time_ms = np.empty(0, np.int64)
        if len(labelled):
            label_time_ms = self.table["label_time_ms"].take(pa.array(labelled)).to_numpy()
        if len(event_time_ms):
            self.sent.event_time_ms_first = int(event_time_ms[0])
            self.sent.event_time_ms_last = int(event_time_ms[-1])
        return Schedule.of(event_time_ms, label_time_ms.astype(np.int64), labelled, self.pace)

    async def run(
        self,
        progress: Callable[[Sent], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Sent:
        """Send everything, or what was due until ``stop`` said so.

        Raises:
            KafkaUnavailable: a record was not acknowledged in time; `sent` says how far it came.
        """
        schedule, encoder = self.schedule(), Encoder(self.pipeline, self.table)
        try:
            producer = AIOKafkaProducer(
                **self.settings.kafka_client_options(),
                client_id="tidemill-replay",
                acks="all",
                compression_type="zstd",
                enable_idempotence=True,
                max_batch_size=BATCH_BYTES_MAX,
                linger_ms=0,
            )
            await producer.start()
        except KafkaError as cause:
            raise KafkaUnavailable(
                f"could not start the replay: {cause!r}; kafka={self.settings.kafka}"
            ) from cause
        try:
            await self._send_all(producer, schedule, encoder, progress, stop)
        except KafkaError as cause:
            raise KafkaUnavailable(
                f"could not send to {self.pipeline.topics.events.name}: {cause!r}; "
                f"events sent={self.sent.events}, not all of them acknowledged"
            ) from cause
        finally:
            await producer.stop()
        return self.sent

    async def _send_all(
        self,
        producer: AIOKafkaProducer,
        schedule: Schedule,
        encoder: Encoder,
        progress: Callable[[Sent], None],
        stop: Callable[[], bool],
    ) -> None:
        started, position, total = time.perf_counter(), 0, len(schedule.row)
        flight = _Flight(producer)
        while position < total and not stop():
            elapsed_s = time.perf_counter() - started
            count = schedule.due(position, elapsed_s)
            if count == 0:
                await asyncio.sleep(min(PAUSE_S_MAX, schedule.due_s[position] - elapsed_s))
                continue
            chunk = slice(position, position + count)
            rows, is_label = schedule.row[chunk], schedule.is_label[chunk]
            # One chunk is encoded while the one before is on its way; no more than two are held.
            records = [
                (self.pipeline.topics.events.name, encoder, rows[~is_label], encoder.events),
                (self.pipeline.topics.labels.name, encoder, rows[is_label], encoder.labels),
            ]
            batches = [batch for record in records for batch in _batches(producer, *record)]
            await flight.land()
            await flight.start(batches)
            position += count
            self.sent.events += int(np.count_nonzero(~is_label))
            self.sent.labels += int(np.count_nonzero(is_label))
            self.sent.seconds = time.perf_counter() - started
            progress(self.sent)
        await flight.land()
        self.sent.seconds = time.perf_counter() - started
        progress(self.sent)


Batch = tuple[str, int, Any]
"""Topic, partition and a full `aiokafka` batch builder."""


def _batches(
    producer: AIOKafkaProducer,
    topic: str,
    encoder: Encoder,
    rows: Int64,
    encode: Callable[[Int64], list[bytes]],
) -> Iterator[Batch]:
    """These rows as batches, those of one partition in the order of the rows."""
    if not len(rows):
        return
    keys = encoder.key_of_row[rows]
    partitions = encoder.partition_of_key[keys]
    values = encode(rows)
    for partition in np.unique(partitions).tolist():
        builder = producer.create_batch()
        for i in np.flatnonzero(partitions == partition).tolist():
            key, value = encoder.keys[keys[i]], values[i]
            if builder.append(timestamp=None, key=key, value=value) is None:
                yield topic, partition, builder
                builder = producer.create_batch()
                builder.append(timestamp=None, key=key, value=value)
        yield topic, partition, builder


@dataclass(slots=True)
class _Flight:
    """The batches on their way to the brokers."""

    producer: AIOKafkaProducer
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, batches: list[Batch]) -> None:
        """Send in the background: partitions beside each other, batches of one in order."""
        queues: dict[tuple[str, int], list[Any]] = {}
        for topic, partition, builder in batches:
            queues.setdefault((topic, partition), []).append(builder)
        self.tasks = [
            asyncio.create_task(self._send(topic, partition, builders))
            for (topic, partition), builders in queues.items()
        ]
        await asyncio.sleep(0)

    async def _send(self, topic: str, partition: int, builders: list[Any]) -> None:
        futures = [
            await self.producer.send_batch(builder, topic, partition=partition)
            for builder in builders
        ]
        await asyncio.gather(*futures)

    async def land(self) -> None:
        """Wait until all of it is acknowledged; raises what a broker or the client refused."""
        tasks, self.tasks = self.tasks, []
        await asyncio.gather(*tasks)
