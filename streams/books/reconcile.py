"""Counts what went in and what came out, record by record, and names what is missing or doubled.

Promises P1 and P2 as a query: every event has exactly one prediction or one dead letter in Kafka,
and each of those is exactly one row in ClickHouse. Nothing a worker says about itself is believed:
the topics are read as a `read_committed` consumer reads them, the rows are counted by the store.

While data still flows, a record may be between two stages. What a group has not committed yet is
therefore *waiting*; only what lies behind its committed offset can be *missing*. So committed
offsets are always read before the output that they vouch for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.books.balance import LedgerBooks, reconcile_ledgers
from streams.books.committed import CommittedReader, Span, committed_offsets
from streams.books.sources import (
    NONE,
    Finding,
    Int64,
    Offsets,
    Rows,
    SourceReader,
    compare,
    cut,
    of_dead_letter,
    of_itself,
    of_prediction,
    of_scored,
    without,
)
from streams.store.client import mapped_errors


class Reconciliation(msgspec.Struct, kw_only=True):
    """The books of one pipeline at one moment.

    Attributes:
        pipeline: Whose.
        events: Events in the topic.
        predictions: Predictions of those events; one that came again counts once.
        repeated: Predictions that came again: only an at-least-once pipeline may have any.
        dead_letters: Dead letters of those events.
        waiting_to_score: Events that no worker has committed yet.
        rows: Rows of those predictions in the store.
        dead_letter_rows: Rows of those dead letters in the store.
        waiting_to_land: Predictions and dead letters that no lander has committed yet.
        labels: Labels in the topic.
        label_rows: Labels accounted for in the store.
        labels_waiting: Labels that no lander has committed yet.
        label_dead_letters: Labels that were rejected.
        ledger: Where every prediction and every label is; None if no joiner ever ran.
        findings: What is wrong.
        notes: What was left out of the comparison, and why.
    """

    pipeline: str
    events: int = 0
    predictions: int = 0
    repeated: int = 0
    dead_letters: int = 0
    waiting_to_score: int = 0
    rows: int = 0
    dead_letter_rows: int = 0
    waiting_to_land: int = 0
    labels: int = 0
    label_rows: int = 0
    labels_waiting: int = 0
    label_dead_letters: int = 0
    ledger: LedgerBooks | None = None
    findings: list[Finding] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Every event is one prediction or one dead letter, and each of those one row."""
        return (
            not self.findings
            and self.events == self.predictions + self.dead_letters
            and self.predictions == self.rows
            and self.dead_letters == self.dead_letter_rows
            and self.labels == self.label_rows + self.label_dead_letters
            and (self.ledger is None or self.ledger.exact)
        )

    @property
    def waiting(self) -> int:
        """Records that are still between two stages."""
        between = self.waiting_to_score + self.waiting_to_land + self.labels_waiting
        return between + (self.ledger.waiting if self.ledger else 0)


def score_group(pipeline: str) -> str:
    """The consumer group of the scorers."""
    return f"tidemill.{pipeline}.score"


def land_group(pipeline: str) -> str:
    """The consumer group of the landers."""
    return f"tidemill.{pipeline}.land"


async def reconcile(
    pipeline: Pipeline,
    settings: Settings,
    rows: Rows,
    progress: Callable[[str], None] = lambda _: None,
) -> Reconciliation:
    """Read everything and compare it.

    Raises:
        KafkaUnavailable: no broker answered in time.
        StoreUnavailable: the store did not answer.
        PreflightError: the topics do not exist.
    """
    books = Reconciliation(pipeline=pipeline.name)
    async with CommittedReader(settings) as reader:
        side = SourceReader(reader, pipeline, progress)
        spans, predicted = await _reconcile_scores(side, settings, books, rows)
        await _reconcile_labels(side, settings, books, rows)
        books.ledger = await reconcile_ledgers(side, settings, rows, predicted, spans)
        if books.ledger is not None:
            books.findings += books.ledger.findings
            books.notes += books.ledger.notes
        for p, span in sorted(spans.items()):
            if span.first > 0:
                books.notes.append(f"partition {p}: offsets below {span.first} are past retention")
    return books


async def _reconcile_scores(
    side: SourceReader, settings: Settings, books: Reconciliation, rows: Rows
) -> tuple[dict[int, Span], Offsets]:
    topics = side.pipeline.topics
    scored_to = await committed_offsets(settings, score_group(side.pipeline.name))
    spans = await side.reader.spans(topics.events.name)
    events = await side.sources(topics.events.name, spans, of_itself)
    out = await side.reader.decided_spans(topics.predictions.name)
    predicted = await side.sources(topics.predictions.name, out, of_prediction)
    spans = _within_retention(spans, out, predicted)
    letters = await side.reader.decided_spans(topics.dead_letters.name)
    dead = await side.sources(topics.dead_letters.name, letters, of_dead_letter(topics.events.name))

    landed_to = await committed_offsets(settings, land_group(side.pipeline.name))
    unlanded = await side.tail(topics.scored.name, landed_to, of_scored)
    unlanded_dead = await side.tail(
        topics.dead_letters.name, landed_to, of_dead_letter(topics.events.name)
    )
    side.progress("counting rows")
    for p, span in spans.items():
        event, score, letter = (cut(o.get(p, NONE), span) for o in (events, predicted, dead))
        waiting = event[event >= scored_to.get((topics.events.name, p), 0)]
        if side.pipeline.delivery == "at-least-once":
            every, score = score, np.unique(score)
            books.repeated += len(every) - len(score)
        answered = np.sort(np.concatenate([score, letter]))
        books.events += len(event)
        books.predictions += len(score)
        books.dead_letters += len(letter)
        books.waiting_to_score += len(without(waiting, answered))
        books.findings += compare("prediction or dead letter", p, event, answered, waiting)
        for table, expected, tail in (
            ("scored", score, unlanded),
            ("dead_letters", letter, unlanded_dead),
        ):
            late = cut(tail.get(p, NONE), span)
            if side.pipeline.delivery == "at-least-once":  # predictions are ahead of their rows
                late = np.concatenate([late, np.intersect1d(expected, waiting)])
            found = rows.offsets(table, side.pipeline, topics.events.name, p, span)
            if table == "scored":
                books.rows += len(found)
            else:
                books.dead_letter_rows += len(found)
            books.waiting_to_land += len(np.unique(without(late, found)))
            books.findings += compare(f"row in {table}", p, np.unique(expected), found, late)
    return spans, predicted


async def _reconcile_labels(
    side: SourceReader, settings: Settings, books: Reconciliation, rows: Rows
) -> None:
    """Labels: the lander makes rows of the good ones, the scorer dead letters of the others."""
    topic, letters = side.pipeline.topics.labels.name, side.pipeline.topics.dead_letters.name
    checked_to = await committed_offsets(settings, score_group(side.pipeline.name))
    landed_to = await committed_offsets(settings, land_group(side.pipeline.name))
    spans = await side.reader.spans(topic)
    labels = await side.sources(topic, spans, of_itself)
    unlanded = await side.tail(letters, landed_to, of_dead_letter(topic))
    for p, span in spans.items():
        label, late = labels.get(p, NONE), cut(unlanded.get(p, NONE), span)
        sure = min(checked_to.get((topic, p), 0), landed_to.get((topic, p), 0))
        waiting = np.union1d(label[label >= sure], late)
        landed = rows.offsets("labels", side.pipeline, topic, p, span)
        dead = rows.offsets("dead_letters", side.pipeline, topic, p, span)
        found = np.concatenate([landed, dead])
        books.labels += len(label)
        books.label_rows += len(landed)
        books.label_dead_letters += len(dead)
        books.labels_waiting += len(without(waiting, found))
        books.findings += compare("row in labels or dead_letters", p, label, found, waiting)


def _within_retention(
    events: Mapping[int, Span], predictions: Mapping[int, Span], predicted: Offsets
) -> dict[int, Span]:
    """The part of each source partition that both topics still hold.

    Predictions of partition p lie in partition p in the order of their events; so when retention
    has eaten the oldest, everything before the first remaining one is out of the comparison.
    """
    spans = {}
    for p, span in events.items():
        first = span.first
        if predictions[p].first > 0 and len(predicted.get(p, NONE)):
            first = max(first, int(predicted[p][0]))
        spans[p] = Span(first, span.end)
    return spans


@dataclass(frozen=True, slots=True)
class StoreRows:
    """The rows of a ClickHouse database, through a `clickhouse_connect` client."""

    client: Any

    def offsets(
        self, table: str, pipeline: Pipeline, topic: str, partition: int, span: Span
    ) -> Int64:
        """See `Rows`. One column of numbers per partition: 8 bytes a row.

        Raises:
            StoreUnavailable: it does not answer.
            PermanentError: it cannot read them: a part of the table is damaged.
        """
        condition = {
            "scored": "source_partition = {partition:Int32}",
            "labels": "topic_partition = {partition:Int32}",
            "examples": "topic_partition = {partition:Int32}",
            "dead_letters": (
                "source_topic = {topic:String} AND source_partition = {partition:Int32}"
            ),
        }[table]
        column = "topic_offset" if table in {"labels", "examples"} else "source_offset"
        with mapped_errors(f"read the rows of {table}"):
            found = self.client.query_arrow(
                f"SELECT toInt64({column}) AS offset FROM {table} "
                f"WHERE pipeline = {{pipeline:String}} AND {condition} "
                f"AND {column} >= {{first:Int64}} AND {column} < {{end:Int64}} "
                "UNION ALL "  # what was erased was here
                "SELECT source_offset AS offset FROM erased "
                "WHERE pipeline = {pipeline:String} AND table_name = {table:String} "
                "AND topic = {topic:String} AND source_partition = {partition:Int32} "
                "AND source_offset >= {first:Int64} AND source_offset < {end:Int64}",
                parameters={
                    "pipeline": pipeline.name,
                    "table": table,
                    "topic": topic,
                    "partition": partition,
                    "first": span.first,
                    "end": span.end,
                },
            )
        offsets: Int64 = found["offset"].to_numpy().astype(np.int64)
        return offsets
