"""`AsyncClient`: all of it with ``await``."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from schemas.errors import PermanentError, SetupError
from schemas.settings import Settings
from streams.client.asking import ROWS_MAX, SECONDS_MAX, Asker
from streams.client.following import (
    BUFFER_ROWS_MAX,
    Follower,
    Start,
    as_table,
    check_start,
    decoded,
    start_offsets,
)
from streams.client.sending import Position, Sender

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.pipeline import Pipeline
    from schemas.predictions import Prediction

PREDICTIONS_MAX = 1_000_000


class AsyncClient:
    """Sends events and labels of one pipeline, follows its predictions, asks the store.

    Connections are made when they are first needed. Close it, or use ``async with``.

    Args:
        pipeline: The declaration: a ready one by name (``flights``), a ``.py`` file, or the
            object. None: only `query` works.
        settings: Where the servers are. None: ``TIDEMILL_*``, and what they leave out from the
            ``tidemill up`` that runs on the home.
        deadline_s: For each chunk of 8,192 records until all replicas have acknowledged it.

    Raises:
        PipelineError: the declaration cannot be loaded.
        SettingsError: a variable has a value that cannot be used.
    """

    def __init__(
        self,
        pipeline: "Pipeline | str | None" = None,
        *,
        settings: Settings | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        self._settings = _filled(settings or Settings.from_environment())
        self._pipeline = _loaded(pipeline) if isinstance(pipeline, str) else pipeline
        self._sender = Sender(self._settings, deadline_s=deadline_s)
        self._asker = Asker(self._settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection but those of followers, which their ``async with`` closes."""
        await self._sender.close()
        self._asker.close()

    async def send_events(self, events: Iterable[Mapping[str, Any]]) -> list[Position]:
        """Send events to the pipeline; returns where each lies, in their order.

        All are checked before the first is sent, with the code of the scorer. Events with one key
        stay in order. Within one call the broker drops what the network repeats; an event that a
        program sends twice is two events.

        Args:
            events: ``event_id``, ``event_time_ms``, the key and the features of each.

        Raises:
            RecordsRejected: some would become dead letters; ``problems`` says which and why.
                None was sent.
            KafkaUnavailable: not all were acknowledged within ``deadline_s``. The message says how
                many were; those of the chunk that was on its way may have arrived all the same.
            PreflightError: the topic is missing, has other partitions, or may not be written.
        """
        from streams.client.checking import checked_events

        pipeline = self._declared()
        records = checked_events(pipeline, events, self._settings)
        self._need_kafka()
        return await self._sender.send(pipeline.topics.events, records)

    async def send_labels(self, labels: Iterable[Mapping[str, Any]]) -> list[Position]:
        """Send truths to the pipeline; returns where each lies, in their order.

        Args:
            labels: ``event_id``, ``value`` and the key of the event that it belongs to; and
                ``label_time_ms`` (now, if it is left out) and ``revision`` (0; higher corrects).

        Raises:
            RecordsRejected: as for events.
            KafkaUnavailable: as for events. Labels may be sent again: one that says nothing new is
                counted as confirmed.
            PreflightError: as for events.
        """
        from streams.client.checking import checked_labels

        pipeline = self._declared()
        records = checked_labels(pipeline, labels, self._settings)
        self._need_kafka()
        return await self._sender.send(pipeline.topics.labels, records)

    def follow(
        self,
        *,
        start: Start = "latest",
        idle_s_max: float | None = None,
        buffer_rows_max: int = BUFFER_ROWS_MAX,
    ) -> Follower:
        """Predictions as they are committed, from ``start`` on; use ``async with``.

        It reads ``read_committed``: each event has one prediction or one dead letter. Pipelines
        with ``delivery="at-least-once"`` repeat some after a crash, with the same
        ``source_partition`` and ``source_offset``. While nobody takes, one answer of each broker is
        held, and no more is fetched.

        Args:
            start: Where to begin.
            idle_s_max: End when nothing came for so long. None: never.
            buffer_rows_max: Predictions decoded ahead.
        """
        self._need_kafka()
        return Follower(
            self._settings,
            self._declared().topics.predictions.name,
            start=start,
            idle_s_max=idle_s_max,
            buffer_rows_max=buffer_rows_max,
        )

    async def predictions(
        self, *, start: Start = "earliest", rows_max: int = PREDICTIONS_MAX
    ) -> "pa.Table":
        """What is on the topic from ``start`` to this moment, as a table (see `as_table`).

        Rows are in order within a partition only. The store keeps predictions longer than Kafka:
        ask it for history.

        Raises:
            PermanentError: more than ``rows_max``, or a named offset is not there.
            KafkaUnavailable: no broker answered.
            PreflightError: there is no such topic.
        """
        from streams.books.committed import CommittedReader, Span

        check_start(start)
        self._need_kafka()
        topic = self._declared().topics.predictions.name
        found: list[Prediction] = []
        async with CommittedReader(self._settings) as reader:
            spans = await reader.spans(topic)
            firsts = await start_offsets(reader, topic, spans, start)
            wanted = {p: Span(firsts[p], span.end) for p, span in spans.items()}
            async for _partition, records in reader.read(topic, wanted):
                found += [decoded(topic, record) for record in records]
                if len(found) > rows_max:
                    raise PermanentError(
                        f"could not hold the predictions of {topic}: more than "
                        f"rows_max={rows_max}. Start later, raise it, or ask the store."
                    )
        return as_table(found)

    async def query(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        rows_max: int = ROWS_MAX,
        seconds_max: int = SECONDS_MAX,
    ) -> "pa.Table":
        """The answer of the store to one statement, as a table.

        Its columns are views into the bytes that came; they are copied once, by the network. From
        another machine they come compressed, and are unpacked once more.

        Args:
            sql: One statement; ``{name:Type}`` stands for a parameter.
            parameters: Their values, which need no quotes and cannot change the statement.
            rows_max: More rows are an error, not a shorter answer.
            seconds_max: After which the store ends the query.

        Raises:
            StoreUnavailable: the store does not answer, or is overloaded.
            PermanentError: the statement is wrong or breaks a limit; the store's words say how.
            SetupError: a table, a right, the password or the address is missing.
        """
        return await asyncio.to_thread(
            self._asker.query, sql, parameters, rows_max=rows_max, seconds_max=seconds_max
        )

    def _declared(self) -> "Pipeline":
        if self._pipeline is None:
            raise SetupError(
                "could not choose a topic: this client has no pipeline. Make it with its name or "
                "its file: Client('payments.py')."
            )
        return self._pipeline

    def _need_kafka(self) -> None:
        if not self._settings.kafka:
            raise SetupError(
                f"could not find Kafka: nothing runs on home={self._settings.home.absolute()}. "
                "Start `tidemill up`, or set TIDEMILL_KAFKA, or set TIDEMILL_HOME to the folder of "
                "a running one."
            )


def _loaded(reference: str) -> "Pipeline":
    from schemas.loading import load_pipeline

    return load_pipeline(reference)


def _filled(settings: Settings) -> Settings:
    """With the addresses of what runs on the home, if it runs; else as they are."""
    from streams.local.home import read_stack, resolve

    return resolve(settings) if read_stack(settings) is not None else settings
