"""Records of six topics into rows of ClickHouse, exactly once, whatever dies in between.

Each partition has a `PartitionLander` with its own task; `store/recorded_range.py` explains how a
row gets there once. The agent only converts messages to rows and hands them over, so it never
waits for the store: when too many rows wait, it stops taking drains, and Kafka keeps the rest.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import faust
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from schemas.alarms import Alarm, decode_alarm
from schemas.dead_letters import DeadLetter, Reason, read_dead_letter
from schemas.errors import FencedError, SchemaError, StoreUnavailable
from schemas.evaluations import read_evaluations
from schemas.events import Source
from schemas.examples import read_examples
from schemas.labels import decode_labels
from schemas.pipeline import Pipeline
from schemas.scored import read_scored
from schemas.settings import Settings
from streams.store.client import TableSink, connect
from streams.store.recorded_range import Chunk, PartitionLander, decode_pending
from streams.store.tables import OUTCOME, TABLES, check_table
from streams.telemetry import Reporter
from streams.transport.driver import batch_topic
from streams.transport.records import Drain, Run
from streams.transport.stage import crash
from streams.transport.wire import Membership

log = structlog.get_logger()

EPOCH = "1"
"""Part of every deduplication token. Raise it when a topic is made anew under its old name."""
RETRY_S = 1.0
BUFFER_BYTES_MAX = 256 << 20
"""Memory of waiting rows, beside ``land_buffer_rows_max``: one dead letter may hold a megabyte."""
RANGE_BYTES_MAX = 64 << 20
"""Memory of one range, beside ``land_rows_max``; only a chunk that is larger alone exceeds it."""
AWAITED = frozenset({"scored", "dead_letters"})
FEW_ROWS_MAX = 2_000
"""So many rows of an awaited table land after ``land_few_age_ms_max``; small inserts of more would
cost the store twice as much per row."""
STAMP = pa.timestamp("ms", tz="UTC")


def attach(app: faust.App, pipeline: Pipeline, lander: "Lander") -> None:
    """Make ``app`` land the topics of ``pipeline`` that end in tables."""
    source = batch_topic(app, *(topic.name for topic in pipeline.topics.landed), headers=True)

    @app.agent(source, name=f"{pipeline.name}-land")
    async def land(drains: Any) -> None:
        async for drain in drains.noack():
            lander.consumer = app.consumer
            try:
                lander.received(drain)
                for run in drain:
                    await lander.take(run, drain.generation)
            except Exception as error:  # Faust would go on with the next drain and lose this one
                crash("taking rows", error)
            drain.acknowledge(app.consumer)


async def wait_for_store(settings: Settings, reporter: Reporter) -> Any:
    """A client, once ClickHouse answers and its tables are as we write them.

    Raises:
        SetupError: a table is missing or different.
    """
    while True:
        try:
            client = await asyncio.to_thread(connect, settings)
            for table in TABLES:
                await asyncio.to_thread(check_table, client, table)
        except StoreUnavailable as away:
            reporter.change("waiting", f"ClickHouse does not answer: {away}")
            await asyncio.sleep(RETRY_S)
        else:
            return client


class Lander:
    """Owns the offsets of the landed topics: they move by recorded ranges only."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, reporter: Reporter, store: Any
    ) -> None:
        self.consumer: Any = None
        self._pipeline = pipeline
        self._settings = settings
        self._reporter = reporter
        self._store = store
        self._inserts = ThreadPoolExecutor(settings.land_threads, "insert")
        self._membership: Membership | None = None
        self._parts: dict[TP, PartitionLander] = {}
        self._tasks: dict[TP, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._rejects: list[DeadLetter] = []
        topics, arrow = pipeline.topics, self._arrow
        evaluations = partial(arrow, "evaluations", read_evaluations)
        self._table: dict[str, tuple[str, Callable[[Run], Iterator[Chunk]]]] = {
            topics.scored.name: ("scored", partial(arrow, "scored", read_scored)),
            topics.labels.name: ("labels", self._labels),
            topics.examples.name: ("examples", self._examples),
            topics.dead_letters.name: ("dead_letters", self._dead_letters),
            topics.evaluations.name: ("evaluations", evaluations),
            topics.alarms.name: ("alarms", self._alarms),
        }

    def close(self) -> None:
        """Stop the partition tasks; inserts in threads end by themselves."""
        self._drop(set(self._tasks))
        self._inserts.shutdown(wait=False, cancel_futures=True)

    # -- what the consumer tells its owner

    def assigned(self, membership: Membership) -> None:
        """Remember the generation under which ranges may be committed."""
        self._drop(set(self._tasks))
        self._membership = membership
        log.info("assigned", generation=membership.generation, group=membership.group)

    def settled(self, tp: TP, committed: OffsetAndMetadata) -> None:
        """Start the task of one partition, with the range its last owner left pending."""
        assert self._membership is not None
        membership = self._membership
        self._drop({tp})
        table, _convert = self._table[tp.topic]

        async def commit(offset: int, metadata: str) -> None:
            thread = self.consumer._thread
            await thread.call_thread(thread.fenced_commit, membership, tp, offset, metadata)
            self._reporter.counters["committed_at_s"] = self._reporter.clock()

        async def in_thread(call: Callable[[], None]) -> None:
            await asyncio.get_running_loop().run_in_executor(self._inserts, call)

        settings = self._settings
        part = PartitionLander(
            name=f"{tp.topic}|{tp.partition}",
            epoch=EPOCH,
            commit=commit,
            sink=TableSink(self._store, table, self._pipeline.name, tp.partition),
            run_in_thread=in_thread,
            pending=decode_pending(committed.metadata),
            rows_min=settings.land_rows_min,
            rows_max=settings.land_rows_max,
            bytes_max=RANGE_BYTES_MAX,
            age_s_max=settings.land_age_ms_max / 1000,
            few_rows_max=FEW_ROWS_MAX if table in AWAITED else 0,
            few_age_s_max=min(settings.land_few_age_ms_max, settings.land_age_ms_max) / 1000,
            on_landed=lambda chunks, seconds: self._landed(table, chunks, seconds),
            on_store=self._store_state,
            on_room=self._room.set,
        )
        self._parts[tp] = part
        self._tasks[tp] = asyncio.create_task(self._watch(tp, part))
        self._reporter.change("running")

    def ahead(self) -> set[TP]:
        """None: the topics do not depend on each other."""
        return set()

    async def revoked(self, tps: set[TP]) -> None:
        """Forget the partitions; what is pending is written down in Kafka already."""
        self._membership = None
        self._drop(set(self._tasks))
        log.info("revoked", partitions=len(tps))

    def _drop(self, tps: set[TP]) -> None:
        for tp in tps:
            if task := self._tasks.pop(tp, None):
                task.cancel()
            self._parts.pop(tp, None)
        self._room.set()

    async def _watch(self, tp: TP, part: PartitionLander) -> None:
        try:
            await part.run()
        except FencedError as error:
            # The consumer learns of it by its heartbeat and joins again; nothing was harmed.
            log.warning("fenced", topic=tp.topic, partition=tp.partition, why=str(error))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            crash(f"landing {tp}", error)

    # -- the work

    def received(self, drain: Drain) -> None:
        """Count what has arrived."""
        counters = self._reporter.counters
        counters["received_bytes"] += drain.num_bytes
        counters["records"] += len(drain)

    async def take(self, run: Run, generation: int) -> None:
        """Convert one run and hand it to its partition; waits while too many rows wait."""
        membership = self._membership
        if membership is None or membership.generation != generation:
            return
        _table, convert = self._table[run.tp.topic]
        for chunk in convert(run):
            await self._send_rejects()
            while self._full():
                self._room.clear()
                await self._room.wait()
            part = self._parts.get(run.tp)
            if part is None or self._membership is not membership:
                return
            chunk.oldest_ms = run.timestamps_ms[0]
            # Only the last chunk of the run ends where the run ends.
            last = chunk.last_offset == run.last_offset
            part.add(chunk, run.next_offset if last else chunk.last_offset + 1)

    def _reject(self, run: Run, offset: int, value: bytes | None, detail: str) -> None:
        log.error("message not understood", tp=str(run.tp), offset=offset, why=detail)
        self._reporter.counters["scored_rejected"] += 1
        source = (run.tp.topic, run.tp.partition, offset)
        self._rejects.append(DeadLetter(Reason.SCHEMA, detail, *source, None, value))

    async def _send_rejects(self) -> None:
        """Keep messages that none of us wrote: at least once, unlike what a scorer rejects."""
        while self._rejects:
            letter = self._rejects[0]
            await self.consumer.app.producer.send_and_wait(
                self._pipeline.topics.dead_letters.name,
                letter.key,
                letter.value,
                letter.partition,
                None,
                letter.headers(),
            )
            self._rejects.pop(0)

    def _full(self) -> bool:
        # A range that is recovered needs all of its rows before any can leave. If they counted, the
        # ranges of several partitions could fill the buffer and wait for each other for ever.
        parts = [part for part in self._parts.values() if not part.recovering]
        return (
            sum(part.rows_waiting for part in parts) >= self._settings.land_buffer_rows_max
            or sum(part.bytes_waiting for part in parts) >= BUFFER_BYTES_MAX
        )

    def _landed(self, table: str, chunks: Sequence[Chunk], seconds: float) -> None:
        counters, histograms = self._reporter.counters, self._reporter.histograms
        rows = sum(chunk.num_rows for chunk in chunks)
        counters[f"rows_{table}"] += rows
        counters["inserts"] += 1
        counters["insert_s"] += seconds
        counters["inserted_bytes"] += sum(chunk.num_bytes for chunk in chunks)
        counters["waiting_rows"] = sum(part.rows_waiting for part in self._parts.values())
        histograms["insert_s"].observe(seconds)
        histograms["batch_rows"].observe(rows)
        age_s = self._reporter.clock() - min(chunk.oldest_ms for chunk in chunks) / 1000
        histograms["batch_age_s"].observe(max(0.0, age_s))

    def _store_state(self, trouble: str) -> None:
        if trouble:
            self._reporter.counters["store_failures"] += 1
            self._reporter.change("waiting", f"ClickHouse does not answer: {trouble[:200]}")
        elif self._reporter.detail.startswith("ClickHouse"):
            self._reporter.change("running")

    # -- messages to rows

    def _place(self, run: Run, columns: dict[str, Any], offsets: Any, rows: int) -> dict[str, Any]:
        """The columns every table has: pipeline and place in Kafka, before the table's own."""
        return {
            "pipeline": pa.repeat(self._pipeline.name, rows),
            "topic_partition": pa.array(np.full(rows, run.tp.partition, np.uint32)),
            "topic_offset": pa.array(np.asarray(offsets, np.uint64)),
            **columns,
        }

    def _arrow(
        self, table: str, read: Callable[[bytes], pa.RecordBatch], run: Run
    ) -> Iterator[Chunk]:
        for offset, value in zip(run.offsets, run.values, strict=True):
            try:
                batch = read(value or b"")
            except SchemaError as error:  # not written by one of our workers
                self._reject(run, offset, value, str(error))
                yield Chunk(offset, offset, None)
                continue
            rows = batch.num_rows
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            placed = self._place(run, columns, np.full(rows, offset, np.uint64), rows)
            yield Chunk(offset, offset, _table(table, placed))

    def _examples(self, run: Run) -> Iterator[Chunk]:
        """Every step but the first, which is the row in ``scored``."""
        for offset, value, time_ms in zip(run.offsets, run.values, run.timestamps_ms, strict=True):
            try:
                batch = read_examples(value or b"")
            except SchemaError as error:  # not written by a joiner
                self._reject(run, offset, value, str(error))
                yield Chunk(offset, offset, None)
                continue
            batch = batch.filter(pc.not_equal(batch["kind"], "pending"))
            rows = batch.num_rows
            columns = {name: batch[name] for name in OUTCOME}
            columns["produced_at"] = _times([time_ms] * rows)
            placed = self._place(run, columns, np.full(rows, offset, np.uint64), rows)
            yield Chunk(offset, offset, _table("examples", placed) if rows else None)

    def _labels(self, run: Run) -> Iterator[Chunk]:
        source = Source(run.tp.topic, run.tp.partition)
        labels, positions, _rejects = decode_labels(
            source,
            run.offsets,
            run.keys,
            run.values,
            now_ms=run.timestamps_ms,
            bytes_max=self._settings.event_bytes_max,
            kind=self._pipeline.target.kind,
        )
        columns = {
            "event_id": pa.array([label.event_id for label in labels], pa.utf8()),
            "value": pa.array([float(label.value) for label in labels], pa.float64()),
            "label_time": _times([label.label_time_ms for label in labels]),
            "revision": pa.array([label.revision for label in labels], pa.uint32()),
            "produced_at": _times([run.timestamps_ms[i] for i in positions]),
        }
        offsets = [run.offsets[i] for i in positions]
        rows = self._place(run, columns, offsets, len(labels)) if labels else None
        yield Chunk(
            run.first_offset, run.last_offset, None if rows is None else _table("labels", rows)
        )

    def _alarms(self, run: Run) -> Iterator[Chunk]:
        offsets, produced, alarms = [], [], []
        for offset, value, stamp in zip(run.offsets, run.values, run.timestamps_ms, strict=True):
            try:
                alarms.append(decode_alarm(value or b""))
            except SchemaError as error:  # not written by one of our workers
                self._reject(run, offset, value, str(error))
                continue
            offsets.append(offset)
            produced.append(stamp)
        columns = {
            field.name: pa.array([getattr(alarm, field.name) for alarm in alarms], field.type)
            for field in TABLES["alarms"]
            if field.name in Alarm.__struct_fields__
        }
        columns |= {
            "event_time": _times([alarm.event_time_ms for alarm in alarms]),
            "produced_at": _times(produced),
        }
        rows = self._place(run, columns, offsets, len(alarms)) if alarms else None
        yield Chunk(
            run.first_offset, run.last_offset, None if rows is None else _table("alarms", rows)
        )

    def _dead_letters(self, run: Run) -> Iterator[Chunk]:
        headers = run.headers or [()] * len(run)
        letters = [
            read_dead_letter(key, value, list(fields))
            for key, value, fields in zip(run.keys, run.values, headers, strict=True)
        ]
        columns = {
            "reason": pa.array([letter.reason.value for letter in letters], pa.utf8()),
            "detail": pa.array([letter.detail for letter in letters], pa.utf8()),
            "source_topic": pa.array([letter.topic for letter in letters], pa.utf8()),
            "source_partition": pa.array([letter.partition for letter in letters], pa.int32()),
            "source_offset": pa.array([letter.offset for letter in letters], pa.int64()),
            "key": pa.array([letter.key for letter in letters], pa.binary()),
            "value": pa.array([letter.value for letter in letters], pa.binary()),
            "produced_at": _times(run.timestamps_ms),
        }
        placed = self._place(run, columns, run.offsets, len(letters))
        yield Chunk(run.first_offset, run.last_offset, _table("dead_letters", placed))


def _times(values: list[int]) -> pa.Array:
    return pa.array(values, pa.int64()).view(STAMP)


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    """The columns in the table's own order and types; a column we do not know is our mistake."""
    schema = TABLES[name]
    assert set(schema.names) <= set(columns), set(schema.names) - set(columns)
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)
