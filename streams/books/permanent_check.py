"""The books, checked for ever and a piece at a time: what `streams.books.reconcile` does at once.

A *piece* is a range of one partition of the events, of the labels or of the examples that every
group has behind it: committed by the scorers and by the landers. So nothing in it is still on its
way, and whatever is not there once is a finding. One round takes the next piece of every partition,
bounded in records and in seconds, and goes on from there the next time.

A piece with a finding becomes a *suspect*: it is looked at again, one in each round, until it is in
order or past retention. While there are `SUSPECTS_MAX` of them nothing new is checked: then it is
time for `tidemill reconcile` and a person.

Not compared here, because it needs everything at once: first examples with predictions, and the
counts of the ledgers with the topics. Dead letters are compared as rows.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.books.balance import join_group, own_sums, pointers, read_journal, step_findings
from streams.books.checked import Checked, Cursor, Kind, Suspect
from streams.books.committed import CommittedReader, Record, Span, committed, committed_offsets
from streams.books.reconcile import StoreRows, land_group, score_group
from streams.books.sources import (
    NONE,
    Finding,
    Int64,
    Place,
    SourceReader,
    compare,
    cut,
    of_dead_letter,
    of_itself,
    of_prediction,
    of_scored,
)
from streams.store.client import Client

SUSPECTS_MAX: Final = 16
PARTITIONS_MAX: Final = 64
"""Partitions of each kind that one round looks at; the others have their turn in the next."""
ROWS_MIN: Final = 1_000
"""A round that takes too long is tried with half the rows, down to this."""
MESSAGE_ROWS: Final = 100
"""Examples come many in a message, so for each hundred rows one message is read."""

Places = Callable[[int, Iterable[Record]], Iterable[Place]]


@dataclass(frozen=True, slots=True)
class Sides:
    """What a round reads from, and how far everybody is."""

    topics: SourceReader
    rows: StoreRows
    scored_to: dict[tuple[str, int], int]
    landed_to: dict[tuple[str, int], int]

    @property
    def pipeline(self) -> Pipeline:
        """Whose."""
        return self.topics.pipeline

    async def offsets(self, table: str, topic: str, partition: int, span: Span) -> Int64:
        """See `streams.books.sources.Rows`; does not block."""
        return await asyncio.to_thread(
            self.rows.offsets, table, self.pipeline, topic, partition, span
        )


async def check_round(
    settings: Settings,
    pipeline: Pipeline,
    client: Client,
    before: Checked | None,
    *,
    rows_max: int,
    clock: Callable[[], float] = time.time,
) -> Checked:
    """Look at the next pieces, and at one suspect again.

    Raises:
        KafkaUnavailable, StoreUnavailable, PreflightError: nothing is known; try again later.
    """
    began = time.monotonic()
    cursor = before.cursor if before else Cursor()
    async with CommittedReader(settings) as reader:
        sides = Sides(
            topics=SourceReader(reader, pipeline, lambda _: None),
            rows=StoreRows(client),
            # Read before the output that they vouch for.
            scored_to=await committed_offsets(settings, score_group(pipeline.name)),
            landed_to=await committed_offsets(settings, land_group(pipeline.name)),
        )
        round_ = _Round(sides, cursor, rows_max)
        await round_.look()
        findings = round_.findings + await _ledger(settings, pipeline)
    now_ms = int(clock() * 1000)
    suspects = round_.cursor.suspects
    ledger = findings[len(round_.findings) :]
    missing = sum(one.missing for one in suspects) + _missing(ledger)
    doubled = sum(one.doubled for one in suspects) + _doubled(ledger)
    exact = not missing and not doubled
    last = before.exact_at_ms if before else None
    return Checked(
        pipeline=pipeline.name,
        at_ms=now_ms,
        exact=exact,
        exact_at_ms=now_ms if exact else last,
        events=round_.events,
        labels=round_.labels,
        missing=missing,
        doubled=doubled,
        unchecked=round_.unchecked(),
        took_ms=int((time.monotonic() - began) * 1000),
        findings=findings,
        cursor=round_.cursor,
    )


class _Round:
    """One round while it goes."""

    def __init__(self, sides: Sides, cursor: Cursor, rows_max: int) -> None:
        self.sides = sides
        self.cursor = cursor
        self.findings: list[Finding] = []
        self.events = 0
        self.labels = 0
        self._rows_max = rows_max
        self._spans: dict[Kind, dict[int, Span]] = {}
        self._decided: dict[str, dict[int, Span]] = {}
        """Of what workers write: read after the offsets that vouch for it."""

    def unchecked(self) -> int:
        """How much there is still to look at."""
        topic = self.sides.pipeline.topics.events.name
        return sum(
            max(0, self.sides.scored_to.get((topic, p), 0) - self.cursor.events.get(p, span.first))
            for p, span in self._spans["events"].items()
        )

    async def look(self) -> None:
        """Everything that one round does."""
        topics = self.sides.pipeline.topics
        reader = self.sides.topics.reader
        self._spans["events"] = await reader.spans(topics.events.name)
        self._spans["labels"] = await reader.spans(topics.labels.name)
        for topic in (topics.predictions, topics.scored, topics.dead_letters, topics.examples):
            self._decided[topic.name] = await reader.decided_spans(topic.name)
        self._spans["examples"] = self._decided[topics.examples.name]
        await self._again()
        if len(self.cursor.suspects) >= SUSPECTS_MAX:
            return
        settled = await self._settled()
        for kind, ends in settled.items():
            pieces = self._pieces(kind, ends)
            for piece in pieces:
                await self._first_look(piece)

    async def _settled(self) -> dict[Kind, dict[int, int]]:
        """Up to where nothing is on its way any more, by partition."""
        topics, sides = self.sides.pipeline.topics, self.sides
        events, labels = topics.events.name, topics.labels.name
        scored = await self._first_unlanded(topics.scored.name, of_scored)
        letters = {
            name: await self._first_unlanded(topics.dead_letters.name, of_dead_letter(name))
            for name in (events, labels)
        }
        ends: dict[Kind, dict[int, int]] = {"events": {}, "labels": {}, "examples": {}}
        for p in self._spans["events"]:
            to = sides.scored_to.get((events, p), 0)
            ends["events"][p] = min(to, scored.get(p, to), letters[events].get(p, to))
        for p in self._spans["labels"]:
            to = min(sides.scored_to.get((labels, p), 0), sides.landed_to.get((labels, p), 0))
            ends["labels"][p] = min(to, letters[labels].get(p, to))
        for q in self._spans["examples"]:
            ends["examples"][q] = sides.landed_to.get((topics.examples.name, q), 0)
        return ends

    async def _first_unlanded(self, topic: str, places: Places) -> dict[int, int]:
        """The lowest source offset that no lander has committed yet, where there is one.

        Sources of one partition are in the order of their offsets, so the first run tells. A run
        that tells nothing (dead letters of the other topic) and is not all of it: 0.
        """
        reader = self.sides.topics.reader
        found: dict[int, int] = {}
        for p, span in self._decided[topic].items():
            first = max(span.first, self.sides.landed_to.get((topic, p), span.first))
            if first >= span.end:
                continue
            async with aclosing(reader.read(topic, {p: Span(first, span.end)})) as runs:
                async for _p, records in runs:
                    sources = [offset for source, offset in places(p, records) if source == p]
                    if sources:
                        found[p] = min(sources)
                    elif records and records[-1].offset + 2 < span.end:  # 2: it, and a marker
                        found[p] = 0
                    if records:
                        break
        return found

    def _pieces(self, kind: Kind, ends: dict[int, int]) -> list[Suspect]:
        """The next piece of every partition that has one, those furthest behind first."""
        at: dict[int, int] = getattr(self.cursor, kind)
        waiting = []
        for p, span in self._spans[kind].items():
            first = max(at.get(p, span.first), span.first)
            if first < ends[p]:
                waiting.append((ends[p] - first, p, first))
        chosen = sorted(waiting, reverse=True)[:PARTITIONS_MAX]
        if not chosen:
            return []
        rows = self._rows_max // (MESSAGE_ROWS if kind == "examples" else 1)
        share = max(1, rows // len(chosen))
        return [
            Suspect(
                kind=kind, partition=p, first=first, end=min(ends[p], first + share),
                start=self.cursor.predictions.get(p, 0),
            )
            for _behind, p, first in chosen
        ]  # fmt: skip

    async def _first_look(self, piece: Suspect) -> None:
        looked, start = await self._look_at(piece)
        at = {**getattr(self.cursor, piece.kind), piece.partition: piece.end}
        more = (looked,) if looked.missing or looked.doubled else ()
        self.cursor = msgspec.structs.replace(
            self.cursor, **{piece.kind: at}, suspects=self.cursor.suspects + more
        )
        if piece.kind == "events":
            places = {**self.cursor.predictions, piece.partition: start}
            self.cursor = msgspec.structs.replace(self.cursor, predictions=places)

    async def _again(self) -> None:
        """One suspect, the one that was not looked at for longest."""
        if not self.cursor.suspects:
            return
        one, *others = self.cursor.suspects
        there = self._spans[one.kind].get(one.partition, Span(one.end, one.end))
        first = max(one.first, there.first)
        if first < one.end:
            new = self.events, self.labels
            looked, _start = await self._look_at(msgspec.structs.replace(one, first=first))
            self.events, self.labels = new
            if looked.missing or looked.doubled:
                others.append(looked)
        self.cursor = msgspec.structs.replace(self.cursor, suspects=tuple(others))

    async def _look_at(self, piece: Suspect) -> tuple[Suspect, int]:
        """``piece`` with what was found; and where the predictions after it begin."""
        start = 0
        if piece.kind == "events":
            findings, start = await self._events(piece)
        elif piece.kind == "labels":
            findings = await self._labels(piece)
        else:
            findings = await self._examples(piece)
        self.findings += findings
        looked = msgspec.structs.replace(
            piece, missing=_missing(findings), doubled=_doubled(findings)
        )
        return looked, start

    async def _events(self, piece: Suspect) -> tuple[list[Finding], int]:
        """Each event is one prediction or one dead letter, and each of those one row."""
        sides, p, span = self.sides, piece.partition, Span(piece.first, piece.end)
        topic = sides.pipeline.topics.events.name
        predicted, start, lost_to = await self._predictions(piece)
        span = Span(max(span.first, lost_to), span.end)
        found = await sides.topics.sources(topic, {p: span}, of_itself)
        events = found.get(p, NONE)
        self.events += len(events)
        letters = await sides.offsets("dead_letters", topic, p, span)
        rows = await sides.offsets("scored", topic, p, span)
        score = cut(predicted, span)
        if sides.pipeline.delivery == "at-least-once":  # some come again
            score = np.unique(score)
        answered = np.sort(np.concatenate([score, letters]))
        findings = compare("prediction or dead letter", p, events, answered, NONE)
        findings += compare("row in scored", p, np.unique(score), rows, NONE)
        return findings, start

    async def _predictions(self, piece: Suspect) -> tuple[Int64, int, int]:
        """Sources of the predictions from ``piece.start`` on, as far as ``piece`` goes.

        Also where those after it begin, and below which source retention has taken them.
        """
        topic, p = self.sides.pipeline.topics.predictions.name, piece.partition
        reader = self.sides.topics.reader
        span = self._decided[topic][p]
        first = max(span.first, piece.start)
        cut_off = span.first > piece.start
        parts: list[Int64] = []
        lost_to = 0
        async with aclosing(reader.read(topic, {p: Span(first, span.end)})) as runs:
            async for _p, records in runs:
                if not records:
                    continue
                found = np.array([s for _p, s in of_prediction(p, records)], np.int64)
                if cut_off and not parts:
                    lost_to = int(found[0])
                parts.append(found)
                over = np.flatnonzero(found >= piece.end)
                if len(over):
                    first = records[int(over[0])].offset
                    break
                first = records[-1].offset + 1
        return np.concatenate(parts) if parts else NONE, first, lost_to

    async def _labels(self, piece: Suspect) -> list[Finding]:
        """Each label is one row, of the labels or of the dead letters."""
        sides, p, span = self.sides, piece.partition, Span(piece.first, piece.end)
        topic = sides.pipeline.topics.labels.name
        labels = (await sides.topics.sources(topic, {p: span}, of_itself)).get(p, NONE)
        self.labels += len(labels)
        rows = [await sides.offsets(table, topic, p, span) for table in ("labels", "dead_letters")]
        return compare("row in labels or dead_letters", p, labels, np.concatenate(rows), NONE)

    async def _examples(self, piece: Suspect) -> list[Finding]:
        """Each example but the first of a prediction is one row."""
        sides, q, span = self.sides, piece.partition, Span(piece.first, piece.end)
        journal = await read_journal(sides.topics, {q: span})
        landed = await sides.offsets("examples", sides.pipeline.topics.examples.name, q, span)
        _waiting, findings = step_findings(
            q, journal.steps.get(q, NONE), landed, landed_to=span.end
        )
        return findings


async def _ledger(settings: Settings, pipeline: Pipeline) -> list[Finding]:
    """Each prediction and each label is in one place, as the ledgers count for themselves."""
    found = await committed(settings, join_group(pipeline.name))
    ledgers = pointers(pipeline.topics.scored.name, found)
    return [one for p, pointer in sorted(ledgers.items()) for one in own_sums(p, pointer.counts)]


def _missing(findings: Iterable[Finding]) -> int:
    return sum(one.count for one in findings if one.what.startswith("missing"))


def _doubled(findings: Iterable[Finding]) -> int:
    """Twice, or from nowhere."""
    return sum(one.count for one in findings if not one.what.startswith("missing"))
