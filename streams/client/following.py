"""Predictions of one pipeline as they are committed, one by one or as tables."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import msgspec

from schemas.errors import PermanentError, SchemaError
from schemas.predictions import Prediction

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.settings import Settings
    from streams.books.committed import CommittedReader, Record, Span

Start: TypeAlias = Literal["earliest", "latest"] | datetime | Mapping[int, int]
"""Where to begin: the oldest that is kept, what becomes visible from now on, a moment (with a time
zone; of the prediction, not of its event), or an offset for each partition."""

BUFFER_ROWS_MAX = 10_000
_decode = msgspec.json.Decoder(Prediction).decode


class Follower:
    """Predictions of one topic, visible ones only, in order within a partition.

        async with client.follow(start="latest") as follower:
            async for prediction in follower:
                ...

    Opening it fixes where it begins, so what is sent afterwards is seen. It is one consumer
    without a group: it commits nothing, and `offsets` is what to keep for going on later.
    """

    def __init__(
        self,
        settings: "Settings",
        topic: str,
        *,
        start: Start,
        idle_s_max: float | None,
        buffer_rows_max: int,
    ) -> None:
        check_start(start)
        if not 1 <= buffer_rows_max <= 1_000_000:
            raise ValueError(f"buffer_rows_max={buffer_rows_max} must be 1 to 1000000")
        self._settings = settings
        self._topic = topic
        self._start = start
        self._idle_s_max = idle_s_max
        self._buffer_rows_max = buffer_rows_max
        self._reader: CommittedReader | None = None
        self._runs: AsyncIterator[tuple[int, list[Record]]] | None = None
        self._buffer: deque[tuple[int, int, Prediction]] = deque()
        self._offsets: dict[int, int] = {}

    @property
    def offsets(self) -> dict[int, int]:
        """For each partition the offset behind what was handed out: a `Start` to go on from."""
        return dict(self._offsets)

    async def __aenter__(self) -> Self:
        from streams.books.committed import CommittedReader

        reader = await CommittedReader(self._settings).__aenter__()
        try:
            spans = await reader.spans(self._topic)
            self._offsets = await start_offsets(reader, self._topic, spans, self._start)
        except BaseException:
            await reader.__aexit__()
            raise
        self._reader = reader
        self._runs = reader.follow(self._topic, self._offsets, records_max=self._buffer_rows_max)
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Prediction:
        if not self._buffer:
            await self.fill()
        return self.take()

    @property
    def buffered(self) -> int:
        """Predictions that `take` gives without waiting."""
        return len(self._buffer)

    def take(self) -> Prediction:
        """The next one that is buffered.

        Raises:
            IndexError: none is.
        """
        partition, offset, prediction = self._buffer.popleft()
        self._offsets[partition] = offset + 1
        return prediction

    async def run(self) -> list[Prediction]:
        """All that has arrived, at least one and at most ``buffer_rows_max``; waits for the first.

        Raises:
            StopAsyncIteration: nothing came for ``idle_s_max``.
        """
        if not self._buffer:
            await self.fill()
        for partition, offset, _prediction in self._buffer:
            self._offsets[partition] = offset + 1
        found = [prediction for _partition, _offset, prediction in self._buffer]
        self._buffer.clear()
        return found

    async def close(self) -> None:
        """Close the connection; iterating ends."""
        reader, self._reader, self._runs = self._reader, None, None
        if reader is not None:
            await reader.__aexit__()

    async def fill(self) -> None:
        """Wait until something is buffered.

        Raises:
            StopAsyncIteration: nothing came for ``idle_s_max``, or it is closed.
        """
        if self._runs is None:
            if self._offsets:
                raise StopAsyncIteration  # closed
            raise RuntimeError("open it first: async with client.follow(...) as follower")
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        async for partition, records in self._runs:
            if records:
                self._buffer.extend((partition, r.offset, decoded(self._topic, r)) for r in records)
                return
            if self._idle_s_max is not None and loop.time() - quiet_since >= self._idle_s_max:
                raise StopAsyncIteration


def check_start(start: Start) -> None:
    """Refuse a start that has no meaning.

    Raises:
        ValueError: with what may be given.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ValueError(
                f"could not start at {start}: it has no time zone. "
                "Use datetime.now(UTC) or start.astimezone()."
            )
    elif not isinstance(start, Mapping) and start not in {"earliest", "latest"}:
        raise ValueError(
            f"could not start at {start!r}: give 'earliest', 'latest', a datetime with a time zone "
            "or {partition: offset}."
        )


async def start_offsets(
    reader: "CommittedReader", topic: str, spans: Mapping[int, "Span"], start: Start
) -> dict[int, int]:
    """For each partition the first offset to read.

    Raises:
        PermanentError: a named offset or partition is not there.
    """
    if isinstance(start, datetime):
        return await reader.offsets_at(topic, int(start.timestamp() * 1000))
    if isinstance(start, Mapping):
        for partition, offset in start.items():
            span = spans.get(partition)
            if span is None or not span.first <= offset <= span.end:
                there = f"{span.first} to {span.end}" if span else "no such partition"
                raise PermanentError(
                    f"could not start at {topic}/{partition}, offset={offset}: there is {there}"
                )
        return {partition: start.get(partition, span.first) for partition, span in spans.items()}
    return {p: span.first if start == "earliest" else span.end for p, span in spans.items()}


def decoded(topic: str, record: "Record") -> Prediction:
    """The prediction in a record.

    Raises:
        SchemaError: it holds none.
    """
    try:
        return _decode(record.value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise SchemaError(
            f"could not read a prediction: {cause}; topic={topic}, partition={record.partition}, "
            f"offset={record.offset}. Only Tidemill's scorers may write to this topic."
        ) from cause


def as_table(predictions: Iterable[Prediction]) -> "pa.Table":
    """One row per prediction, columns as in SQL: times as ``timestamp[ms, UTC]``."""
    import pyarrow as pa

    from schemas.arrow import spare_pandas

    spare_pandas()
    rows = list(predictions)
    moment = pa.timestamp("ms", tz="UTC")
    types: dict[str, Any] = {
        "event_id": pa.utf8(),
        "key": pa.utf8(),
        "score": pa.float64(),
        "event_time_ms": moment,
        "source_offset": pa.int64(),
        "source_partition": pa.int32(),
        "model_version": pa.utf8(),
        "model_age_ms": pa.int64(),
        "predicted_at_ms": moment,
        "learner_position": pa.int64(),
    }
    return pa.table(
        {
            name.removesuffix("_ms") if kind is moment else name: pa.array(
                [getattr(row, name) for row in rows], kind
            )
            for name, kind in types.items()
        }
    )
