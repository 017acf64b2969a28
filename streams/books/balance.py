"""The balance of a pipeline's label ledgers: where every prediction and every label is.

The ledgers count for themselves, in the metadata of the joiner's offset commits. Their counts are
held against what anybody can read: the predictions and labels before the committed offsets, the
examples in their topic and the rows in the store.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow.compute as pc

from schemas.errors import SchemaError
from schemas.events import Source
from schemas.examples import read_examples
from schemas.labels import decode_labels
from schemas.settings import Settings
from streams.books.committed import Record, Span, committed
from streams.books.sources import (
    EXAMPLES_MAX,
    NONE,
    Finding,
    Int64,
    Offsets,
    Place,
    Rows,
    SourceReader,
    cut,
    of_scored,
    without,
)
from streams.ledger.pointer import Pointer


class LedgerBooks(msgspec.Struct, kw_only=True):
    """The ledgers of one pipeline at one moment, summed over its partitions.

    Attributes:
        counts: As `streams.ledger.rules.Balance` names them, with what is open now.
        predictions_waiting: Predictions that no joiner has committed yet.
        labels_waiting: Labels that none has.
        steps: Examples in the topic, without the first of each prediction.
        step_rows: Their rows in the store.
        rows_waiting: Examples that no lander has committed yet.
        moving: The joiner committed something meanwhile, so counts and topics are not compared.
        findings: What is wrong.
        notes: What was left out of the comparison, and why.
    """

    counts: dict[str, int]
    predictions_waiting: int = 0
    labels_waiting: int = 0
    steps: int = 0
    step_rows: int = 0
    rows_waiting: int = 0
    moving: bool = False
    findings: list[Finding] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Records that are still on their way to the ledger or from it."""
        return self.predictions_waiting + self.labels_waiting + self.rows_waiting + self.moving

    @property
    def missing(self) -> int:
        """Predictions, labels and examples that are nowhere."""
        return sum(f.count for f in self.findings if f.what.startswith("missing"))

    @property
    def exact(self) -> bool:
        """Every prediction and every label is in one place, every example in the store."""
        return not self.findings and not self.waiting and self.steps == self.step_rows


def learn_group(pipeline: str) -> str:
    """The consumer group of the learners."""
    return f"tidemill.{pipeline}.learn"


def join_group(pipeline: str) -> str:
    """The consumer group of the joiners."""
    return f"tidemill.{pipeline}.join"


def pointers(scored: str, found: Mapping[tuple[str, int], tuple[int, str]]) -> dict[int, Pointer]:
    """The pointer of each partition, out of what the joiners committed."""
    return {
        p: Pointer.decode(metadata)
        for (topic, p), (_offset, metadata) in found.items()
        if topic == scored and metadata
    }


def coverage(counts: Mapping[str, int]) -> float | None:
    """The share of predictions past their horizon, or labelled before it, that got a label."""
    settled = counts.get("predictions", 0) - counts.get("repeated", 0)
    settled -= counts.get("open_pending", 0)
    return counts.get("labelled", 0) / settled if settled > 0 else None


def total(found: Iterable[Pointer]) -> dict[str, int]:
    """The counts of several ledgers as one. The clock is that of the partition furthest back."""
    counts: Counter[str] = Counter()
    clocks = []
    for pointer in found:
        counts.update({k: v for k, v in pointer.counts.items() if k != "clock_ms"})
        clocks.append(pointer.counts.get("clock_ms", 0))
    return {**counts, "clock_ms": min(clocks, default=0)}


@dataclass(slots=True)
class Journal:
    """The examples topic as it was read."""

    pending: Offsets
    kinds: dict[int, Counter[str]]
    """By partition of the prediction."""
    steps: dict[int, Int64]
    """For each partition of the topic, the offset of each example that is to be landed."""
    spans: dict[int, Span] = field(default_factory=dict)


async def reconcile_ledgers(
    side: SourceReader,
    settings: Settings,
    rows: Rows,
    predicted: Offsets,
    spans: Mapping[int, Span],
) -> LedgerBooks | None:
    """Compare; None if no joiner ever committed anything.

    ``predicted`` are the source offsets of all predictions, to be looked at within ``spans``.

    Raises:
        KafkaUnavailable, StoreUnavailable, PreflightError: as `streams.books.reconcile.reconcile`.
    """
    topics = side.pipeline.topics
    group = join_group(side.pipeline.name)
    before = await committed(settings, group)
    ledgers = pointers(topics.scored.name, before)
    if not ledgers:
        return None
    books = LedgerBooks(counts=total(ledgers.values()))
    offsets = {place: offset for place, (offset, _metadata) in before.items()}
    unread = await side.tail(topics.scored.name, offsets, of_scored)
    labels, whole = await _labels(side, settings, offsets, books)
    landed_to = await committed(settings, f"tidemill.{side.pipeline.name}.land")
    examples = await side.reader.decided_spans(topics.examples.name)
    journal = await read_journal(side, examples)
    books.moving = await committed(settings, group) != before
    whole &= {p for p in spans if spans[p].first == 0}
    if any(span.first for span in journal.spans.values()):
        whole = set()
    for p, span in sorted(spans.items()):
        counts = ledgers[p].counts if p in ledgers else {}
        books.findings += own_sums(p, counts)
        late = cut(unread.get(p, NONE), span)
        books.predictions_waiting += len(late)
        expected = without(np.unique(cut(predicted.get(p, NONE), span)), late)
        expected = _within_journal(journal, p, expected)
        _predictions(books, p, expected, cut(journal.pending.get(p, NONE), span), counts)
        if p in whole and not books.moving:
            read = Counter(journal.kinds.get(p, {}))
            read.update(predictions=len(expected), labels=len(labels.get(p, NONE)))
            _held_against_topics(books, p, counts, read)
    if len(whole) < len(spans):
        books.notes.append("ledger: counts are not compared with topics that retention has cut")
    _rows(books, side, rows, journal, {k: v[0] for k, v in landed_to.items()})
    return books


# -- reading


async def _labels(
    side: SourceReader, settings: Settings, joined_to: Mapping[tuple[str, int], int],
    books: LedgerBooks,
) -> tuple[Offsets, set[int]]:  # fmt: skip
    """Good labels before the committed offsets, and the partitions whose log is whole."""
    topic, good = side.pipeline.topics.labels.name, _good_labels(side, settings)
    spans = await side.reader.spans(topic)
    ends = {p: max(span.first, joined_to.get((topic, p), 0)) for p, span in spans.items()}
    behind = await side.sources(topic, {p: Span(s.first, ends[p]) for p, s in spans.items()}, good)
    ahead = await side.sources(topic, {p: Span(ends[p], s.end) for p, s in spans.items()}, good)
    books.labels_waiting = sum(map(len, ahead.values()))
    return behind, {p for p, span in spans.items() if span.first == 0}


def _good_labels(
    side: SourceReader, settings: Settings
) -> Callable[[int, Iterable[Record]], Iterable[Place]]:
    pipeline = side.pipeline

    def places(partition: int, records: Iterable[Record]) -> Iterable[Place]:
        found = list(records)
        _labels, positions, _rejects = decode_labels(
            Source(pipeline.topics.labels.name, partition),
            [record.offset for record in found],
            [record.key for record in found],
            [record.value for record in found],
            now_ms=[record.timestamp for record in found],
            bytes_max=settings.event_bytes_max,
            kind=pipeline.target.kind,
        )
        return [(partition, found[position].offset) for position in positions]

    return places


async def read_journal(side: SourceReader, spans: Mapping[int, Span]) -> Journal:
    """The examples within ``spans`` of their topic.

    Raises:
        KafkaUnavailable: no broker answered in time.
    """
    topic = side.pipeline.topics.examples.name
    side.progress(f"reading {topic}")
    pending: defaultdict[int, list[Int64]] = defaultdict(list)
    steps: defaultdict[int, list[Int64]] = defaultdict(list)
    kinds: defaultdict[int, Counter[str]] = defaultdict(Counter)
    async for partition, records in side.reader.read(topic, spans):
        for record in records:
            try:
                batch = read_examples(record.value or b"")
            except SchemaError:  # no joiner wrote it; the lander makes a dead letter of it
                continue
            source = batch["source_partition"].to_numpy()
            first = pc.equal(batch["kind"], "pending").to_numpy(zero_copy_only=False)
            for p in np.unique(source).tolist():
                here = source == p
                pending[p].append(batch["source_offset"].to_numpy()[here & first])
                kinds[p].update(batch["kind"].filter(here).to_pylist())
            steps[partition].append(np.full(int(np.count_nonzero(~first)), record.offset))
    return Journal(_joined(pending), dict(kinds), _joined(steps), dict(spans))


def _joined(parts: Mapping[int, list[Int64]]) -> dict[int, Int64]:
    return {p: np.sort(np.concatenate(part)) for p, part in parts.items()}


# -- comparing


def own_sums(p: int, counts: Mapping[str, int]) -> list[Finding]:
    """Each prediction and each label is in exactly one place, as the ledger itself counts."""
    opened = sum(number for name, number in counts.items() if name.startswith("open_"))
    places = {
        "predictions": opened + _sum(counts, "repeated", "closed", "evicted"),
        "labels": _sum(
            counts, "joined", "confirmed", "duplicates", "late", "waiting", "orphans_expired",
            "orphans_evicted",
        ),
    }  # fmt: skip
    return [
        one
        for what, number in places.items()
        for one in _differing(p, f"{what} in the ledger", counts.get(what, 0), number)
    ]


def _sum(counts: Mapping[str, int], *names: str) -> int:
    return sum(counts.get(name, 0) for name in names)


def _differing(p: int, what: str, expected: int, found: int) -> list[Finding]:
    if expected == found:
        return []
    word = "missing" if found < expected else "doubled"
    count = abs(expected - found)
    return [Finding(what=f"{word} {what}", partition=p, count=count, offsets=[])]


def _within_journal(journal: Journal, p: int, expected: Int64) -> Int64:
    """``expected`` without predictions whose first example was deleted with the oldest records.

    First examples of a partition come in the order of its events, so those were the lowest.
    """
    shard = p if p in journal.spans else 0
    if journal.spans[shard].first == 0:
        return expected
    left = journal.pending.get(p, NONE)
    return expected[expected >= left.min()] if len(left) else NONE


def _predictions(
    books: LedgerBooks, p: int, expected: Int64, pending: Int64, counts: Mapping[str, int]
) -> None:
    """Each prediction that was read has its first example, once; repeated ones have none."""
    values, times = np.unique(pending, return_counts=True)
    missing = without(expected, values)
    doubled = values[times > 1]
    over = len(missing) - counts.get("repeated", 0)
    for word, count, offsets in (
        ("missing", over, missing),
        ("doubled", len(doubled), doubled),
    ):
        if count > 0:
            books.findings.append(
                Finding(
                    what=f"{word} example of a prediction",
                    partition=p,
                    count=count,
                    offsets=offsets[:EXAMPLES_MAX].tolist(),
                )
            )


def _held_against_topics(
    books: LedgerBooks, p: int, counts: Mapping[str, int], read: Mapping[str, int]
) -> None:
    """What the ledger says it did is what anybody can count: ``read``, by what was counted."""
    found = books.findings
    for what in ("predictions", "labels"):
        found += _differing(p, f"{what} taken in", read[what], counts.get(what, 0))
    sent = read["final"] + read["corrected"]
    found += _differing(p, "examples of labels", counts.get("joined", 0), sent)
    for kind in ("provisional", "expired"):
        found += _differing(p, f"{kind} examples", counts.get(kind, 0), read[kind])


def _rows(
    books: LedgerBooks,
    side: SourceReader,
    rows: Rows,
    journal: Journal,
    landed_to: Mapping[tuple[str, int], int],
) -> None:
    """Each example but the first of a prediction is one row."""
    topic = side.pipeline.topics.examples.name
    side.progress("counting rows of examples")
    for q, span in journal.spans.items():
        steps = journal.steps.get(q, NONE)
        landed = rows.offsets("examples", side.pipeline, topic, q, span)
        books.steps += len(steps)
        books.step_rows += len(landed)
        end = landed_to.get((topic, q), 0)
        waiting, findings = step_findings(q, steps, landed, landed_to=end)
        books.rows_waiting += waiting
        books.findings += findings


def step_findings(
    q: int, steps: Int64, landed: Int64, *, landed_to: int
) -> tuple[int, list[Finding]]:
    """How many rows of ``steps`` are still on their way, and what is wrong with the others.

    ``steps`` and ``landed`` are offsets of examples of partition ``q``, one per row.
    """
    places = np.union1d(steps, landed)
    wanted = _times(steps, places)
    found = _times(landed, places)
    waits = places >= landed_to
    findings = []
    for word, gap in (
        ("missing", np.where(waits, 0, np.maximum(wanted - found, 0))),
        ("doubled", np.maximum(found - wanted, 0)),
    ):
        if gap.any():
            findings.append(
                Finding(
                    what=f"{word} row in examples",
                    partition=q,
                    count=int(gap.sum()),
                    offsets=places[gap > 0][:EXAMPLES_MAX].tolist(),
                )
            )
    return int(np.maximum(wanted - found, 0)[waits].sum()), findings


def _times(values: Int64, places: Int64) -> Int64:
    """How often each of ``places`` occurs among sorted or unsorted ``values``."""
    ordered = np.sort(values)
    right = np.searchsorted(ordered, places, side="right")
    times: Int64 = right - np.searchsorted(ordered, places, side="left")
    return times
