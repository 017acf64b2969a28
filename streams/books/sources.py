"""Source offsets: which record of a source topic each record of another topic speaks of.

What `streams.books.reconcile` and `streams.books.balance` compare.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.dead_letters import read_dead_letter
from schemas.pipeline import Pipeline
from schemas.scored import read_scored
from streams.books.committed import CommittedReader, Record, Span

EXAMPLES_MAX = 10
"""Offsets named per finding; the count says how many there are."""

Int64 = npt.NDArray[np.int64]
Offsets = dict[int, Int64]
"""Source offsets by source partition, sorted, doubled ones twice."""
NONE: Int64 = np.empty(0, np.int64)


class Finding(msgspec.Struct, kw_only=True):
    """Source records that are not where they should be.

    Attributes:
        what: ``missing`` or ``doubled`` or ``unknown``, and where, in words.
        partition: Partition of the source topic.
        count: How many records.
        offsets: Their source offsets, the first ten.
    """

    what: str
    partition: int
    count: int
    offsets: list[int]


def compare(
    what: str, partition: int, expected: Int64, found: Int64, waiting: Int64
) -> list[Finding]:
    """Findings for one partition: ``expected`` once each, except what is still ``waiting``."""
    values, counts = np.unique(found, return_counts=True)
    missing = without(without(expected, values), waiting)
    unknown = without(values, expected)
    findings = []
    for word, offsets in (
        ("missing", missing),
        ("doubled", values[counts > 1]),
        ("unknown", unknown),
    ):
        if len(offsets):
            findings.append(
                Finding(
                    what=f"{word} {what}",
                    partition=partition,
                    count=len(offsets),
                    offsets=offsets[:EXAMPLES_MAX].tolist(),
                )
            )
    return findings


class Rows(Protocol):
    """Where the rows are counted: the store, or a fake of it."""

    def offsets(
        self, table: str, pipeline: Pipeline, topic: str, partition: int, span: Span
    ) -> Int64:
        """Source offsets of the rows of one source partition within ``span``, in any order."""
        ...


class _Source(msgspec.Struct, gc=False):
    """The two fields of a prediction that identify its event; the rest is not decoded."""

    source_partition: int
    source_offset: int


_decode_source = msgspec.json.Decoder(_Source).decode

Place = tuple[int, int]
"""Source partition and source offset."""


def of_prediction(partition: int, records: Iterable[Record]) -> Iterable[Place]:
    """Predictions, as consumers get them."""
    for record in records:
        source = _decode_source(record.value or b"")
        yield source.source_partition, source.source_offset


def of_scored(partition: int, records: Iterable[Record]) -> Iterable[Place]:
    """Scored rows."""
    for record in records:
        batch = read_scored(record.value or b"")
        yield from zip(
            batch["source_partition"].to_pylist(), batch["source_offset"].to_pylist(), strict=True
        )


def of_itself(partition: int, records: Iterable[Record]) -> Iterable[Place]:
    """Records that are the source themselves."""
    return ((partition, record.offset) for record in records)


def of_dead_letter(topic: str) -> Callable[[int, Iterable[Record]], Iterable[Place]]:
    """Dead letters of records of ``topic``."""

    def places(partition: int, records: Iterable[Record]) -> Iterable[Place]:
        for record in records:
            letter = read_dead_letter(None, None, record.headers)
            if letter.topic == topic:
                yield letter.partition, letter.offset

    return places


@dataclass(slots=True)
class SourceReader:
    """The reading side: one consumer, and what has been read so far."""

    reader: CommittedReader
    pipeline: Pipeline
    progress: Callable[[str], None]

    async def sources(
        self,
        topic: str,
        spans: Mapping[int, Span],
        places: Callable[[int, Iterable[Record]], Iterable[Place]],
    ) -> Offsets:
        """The source offsets that the records of ``topic`` within ``spans`` speak of."""
        self.progress(f"reading {topic}")
        parts: defaultdict[int, list[Int64]] = defaultdict(list)
        async for partition, records in self.reader.read(topic, spans):
            found = np.array(list(places(partition, records)), np.int64).reshape(-1, 2)
            for source in np.unique(found[:, 0]).tolist():
                parts[source].append(found[found[:, 0] == source, 1])
        return {p: np.sort(np.concatenate(chunks)) for p, chunks in parts.items()}

    async def tail(
        self,
        topic: str,
        committed: Mapping[tuple[str, int], int],
        places: Callable[[int, Iterable[Record]], Iterable[Place]],
    ) -> Offsets:
        """The same, of what lies behind the committed offsets: nobody has vouched for it yet."""
        spans = {
            p: Span(max(span.first, committed.get((topic, p), span.first)), span.end)
            for p, span in (await self.reader.decided_spans(topic)).items()
        }
        return await self.sources(topic, spans, places)


def without(offsets: Int64, others: Int64) -> Int64:
    """``offsets`` that are not among ``others``; a table look-up, where `np.setdiff1d` hashes."""
    return offsets[~np.isin(offsets, others)]


def cut(offsets: Int64, span: Span) -> Int64:
    """``offsets`` within ``span``."""
    return offsets[(offsets >= span.first) & (offsets < span.end)]
