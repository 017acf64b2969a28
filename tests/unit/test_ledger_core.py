"""The label ledger against a naive one, and against itself: cut otherwise, written and read again."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import SchemaError
from schemas.examples import EXAMPLES, KINDS
from streams.ledger.columns import NO_LABELS
from streams.ledger.core import Ledger
from streams.ledger.dump import digest, dump, load
from streams.ledger.rules import Rules
from tests.unit.ledger_rows import labels, scored
from tests.unit.naive_ledger import NaiveLedger

ids = st.sampled_from(["a", "b", "c", "d", "ee", "f", "g", "ü"])
times = st.integers(0, 60)
predictions = st.lists(st.tuples(ids, times), max_size=6)
truths = st.lists(st.tuples(ids, st.sampled_from([0.0, 1.0]), times, st.integers(0, 3)), max_size=6)
# Time goes on, sometimes in leaps, so that horizons pass.
turns = st.lists(st.tuples(predictions, truths, st.sampled_from([0, 0, 5, 20, 200])), max_size=12)
rules = st.builds(
    Rules,
    horizon_ms=st.integers(1, 40),
    silence=st.sampled_from([None, 0.0, 1.0]),
    corrections_ms=st.integers(0, 60),
    rows_max=st.sampled_from([2, 5, 1000]),
    bytes_max=st.sampled_from([500, 2000, 1_000_000]),
    waiting_rows_max=st.sampled_from([1, 3, 1000]),
)


def arguments(script: list[tuple]) -> list[tuple[list[pa.RecordBatch], list[tuple]]]:
    """For each turn the batches, and the labels with the time stamp of their record."""
    now, offset, found = 0, 0, []
    for rows, truth, leap in script:
        now += leap
        # Half of the records are stamped before the time that they speak of.
        moved = [(event_id, now + time_ms) for event_id, time_ms in rows]
        batches = [
            scored(part, offset=offset + place, record_ms=now + 30)
            for place, part in ((0, moved[:2]), (2, moved[2:]))
            if part
        ]
        offset += len(rows)
        found.append((batches, [(e, v, now + t, r, now + 30) for e, v, t, r in truth]))
    return found


def columns(rows: list[tuple]) -> Any:
    return labels([row[:4] for row in rows], record_ms=rows[0][4]) if rows else NO_LABELS


def short(examples: pa.RecordBatch) -> list[tuple]:
    names = ("event_id", "kind", "label", "previous", "revision")
    return [tuple(row[name] for name in names) for row in examples.to_pylist()]


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if number}


def plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows with times as numbers."""
    names = {"event_time", "produced_at"}
    found = batch.to_pylist()
    for name in names:
        numbers = batch[name].cast(pa.int64()).to_pylist()
        for row, number in zip(found, numbers, strict=True):
            row[name] = number
    return found


def conserved(counts: dict[str, int]) -> None:
    """Every prediction is in exactly one place, and so is every label."""
    opened = sum(number for name, number in counts.items() if name.startswith("open_"))
    assert counts["predictions"] == (
        counts["repeated"] + opened + counts["closed"] + counts["evicted"]
    )
    assert counts["labels"] == sum(
        counts[name]
        for name in (
            "joined", "confirmed", "duplicates", "late", "waiting", "orphans_expired",
            "orphans_evicted",
        )
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(rules, turns)
def test_it_does_what_a_naive_one_does(rules: Rules, script: list[tuple]) -> None:
    """Turn by turn: the same examples in the same order, the same balance, nothing lost."""
    ledger, naive = Ledger(rules), NaiveLedger(rules)
    for batches, truth in arguments(script):
        examples = ledger.turn(batches, columns(truth))
        assert examples.schema.equals(EXAMPLES)
        assert set(examples["kind"].to_pylist()) <= set(KINDS)
        wanted = naive.turn([row for batch in batches for row in plain(batch)], truth)
        assert short(examples) == wanted
        assert nonzero(ledger.counts()) == naive.counts()
        conserved(ledger.counts())


@settings(max_examples=50, deadline=None)
@given(rules, turns, st.integers(0, 12), st.data())
def test_written_read_and_cut_otherwise_it_goes_on_the_same(
    rules: Rules, script: list[tuple], stop: int, data: st.DataObject
) -> None:
    """
    Goal: a snapshot and the recorded turns after it give the state that was lost.

    Method: one ledger is written and read after some turn and gets its batches cut into single
    rows; after each further turn examples and digests agree with one that was never interrupted.
    """
    one, two = Ledger(rules), Ledger(rules)
    for number, (batches, truth) in enumerate(arguments(script)):
        if number == stop:
            two = load(dump(two))
            assert two.rules == rules
        pieces = [
            batch.slice(place, 1)
            if data.draw(st.booleans())
            else pa.RecordBatch.from_pylist([batch.slice(place, 1).to_pylist()[0]], batch.schema)
            for batch in batches
            for place in range(batch.num_rows)
        ]
        first, second = one.turn(batches, columns(truth)), two.turn(pieces, columns(truth))
        assert first.equals(second)
        assert digest(one) == digest(two)
        assert one.counts() == two.counts()
    assert digest(load(dump(one))) == digest(one)
    assert load(dump(one)).counts() == one.counts()


def test_a_digest_sees_every_part_of_the_state() -> None:
    """Otherwise equal digests would prove nothing."""
    rules = Rules(horizon_ms=100, silence=0.0, corrections_ms=50)
    seen = {}

    def note(what: str, batches: list[pa.RecordBatch], truth: list[tuple]) -> None:
        ledger = Ledger(rules)
        ledger.turn([scored([("a", 10), ("b", 20)])], NO_LABELS)
        ledger.turn(batches, labels(truth))
        seen[what] = digest(ledger)

    note("nothing", [], [])
    note("a label", [], [("a", 1, 15, 0)])
    note("another value", [], [("a", 0, 15, 0)])
    note("another revision", [], [("a", 1, 15, 1)])
    note("of another", [], [("b", 1, 15, 0)])
    note("waiting", [], [("z", 1, 15, 0)])
    note("waiting with another value", [], [("z", 0, 15, 0)])
    note("later", [], [("z", 1, 25, 0)])
    note("one more", [scored([("c", 20)], offset=2)], [])
    note("another one more", [scored([("d", 20)], offset=2)], [])
    note("passed the horizon", [scored([("c", 121)], offset=2)], [])
    note("closed", [scored([("c", 180)], offset=2)], [])
    assert len(set(seen.values())) == len(seen), seen


def test_features_are_those_of_the_prediction() -> None:
    """Every column of every later example is what the first one said."""
    ledger = Ledger(Rules(horizon_ms=50, silence=0.0, corrections_ms=500))
    rows = [(f"e{i}", 10 + i) for i in range(40)]
    first = ledger.turn([scored(rows[:25]), scored(rows[25:], offset=25)], NO_LABELS)
    later = ledger.turn([], labels([(e, 1.0, 60, 0) for e, _ in reversed(rows)]))
    fixed = [f.name for f in EXAMPLES if f.name not in {
        "kind", "label", "previous", "label_time", "revision", "delay_ms"}]  # fmt: skip
    assert later.select(fixed).to_pylist() == list(reversed(first.select(fixed).to_pylist()))
    assert later["delay_ms"].to_pylist() == [60 - t for _, t in reversed(rows)]


def test_an_event_ahead_of_its_record_does_not_move_the_clock() -> None:
    """One wrong clock of one sender must not expire what everybody else waits for."""
    ledger = Ledger(Rules(horizon_ms=100))
    ledger.turn([scored([("a", 10), ("b", 10**9)], record_ms=20)], NO_LABELS)
    assert (ledger.clock_ms, ledger.counts()["open_pending"]) == (20, 2)
    ledger.turn([], labels([("x", 1, 10**9, 0)], record_ms=25))
    assert ledger.clock_ms == 25


def test_rows_of_many_segments_and_a_large_index_are_found() -> None:
    """Segments are joined, rows leave, the index is rebuilt; ids stay findable."""
    ledger = Ledger(Rules(horizon_ms=100, corrections_ms=1, rows_max=6_000))
    for start in range(0, 20_000, 500):
        rows = [(f"e{i}", 5) for i in range(start, start + 500)]
        ledger.turn([scored(rows, offset=start)], NO_LABELS)
        near = [f"e{i}" for i in range(max(0, start - 5_000), start, 97)]
        revised = labels([(event_id, 1.0, 1, start) for event_id in near])
        ledger.turn([], revised)
        assert ledger.counts()["waiting"] == ledger.counts()["late"] == 0
    assert ledger.counts()["evicted"] == 14_000
    assert len(ledger.rows.segments) < 40


@pytest.mark.parametrize("content", [b"", b"hello", dump(Ledger(Rules(horizon_ms=1)))[:-400]])
def test_other_bytes_are_refused(content: bytes) -> None:
    """A state that cannot be read must not become an empty one."""
    with pytest.raises(SchemaError, match="could not read a ledger"):
        load(content)


def test_labels_that_run_days_ahead_wait_for_their_predictions() -> None:
    """A replay at a thousand times its speed: scoring takes a second, and labels are days ahead."""
    ledger = Ledger(Rules(horizon_ms=10, silence=None, corrections_ms=10))
    ahead = [(f"e{day}", 1.0, 100 * day + 5, 0) for day in range(4)]
    ledger.turn([], labels(ahead, record_ms=10_000))
    assert (ledger.clock_ms, ledger.counts()["waiting"]) == (305, 4)
    for day in range(4):
        examples = ledger.turn([scored([(f"e{day}", 100 * day)], record_ms=10_000)], NO_LABELS)
        assert "final" in examples["kind"].to_pylist()
    assert ledger.counts()["joined"] == 4
    ledger.turn([], labels([("nobody", 1.0, 306, 0)], record_ms=10_000))
    ledger.turn([scored([("later", 317)], record_ms=10_000)], NO_LABELS)
    assert ledger.counts()["orphans_expired"] == 1
