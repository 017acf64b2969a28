"""What the balance of the ledgers concludes; the reading itself is shown by tests/connected/test_demo.py."""

from collections import Counter

import numpy as np
import pytest

from streams.books.balance import (
    LedgerBooks,
    _held_against_topics,
    _predictions,
    _times,
    coverage,
    own_sums,
    total,
)
from streams.ledger.pointer import Pointer

COUNTS = {
    "predictions": 10, "repeated": 1, "open_pending": 2, "open_final": 3, "closed": 3, "evicted": 1,
    "labels": 9, "joined": 4, "confirmed": 1, "duplicates": 1, "late": 1, "waiting": 1,
    "orphans_expired": 1, "orphans_evicted": 0, "labelled": 4, "provisional": 1, "expired": 0,
}  # fmt: skip
READ = {
    "predictions": 10, "labels": 9, "final": 3, "corrected": 1, "provisional": 1, "expired": 0,
}  # fmt: skip


def offsets(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_ledger_that_adds_up_and_agrees_with_the_topics_is_exact() -> None:
    books = LedgerBooks(counts=COUNTS)
    books.findings += own_sums(0, COUNTS)
    _held_against_topics(books, 0, COUNTS, Counter(READ))
    assert (books.findings, books.missing, books.exact) == ([], 0, True)


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "labelled"])
def test_any_count_that_is_off_by_one_is_found(name: str) -> None:
    """Otherwise a lost label could be booked somewhere and nobody would see it."""
    books = LedgerBooks(counts=COUNTS)
    wrong = COUNTS | {name: COUNTS[name] + 1}
    books.findings += own_sums(0, wrong)
    _held_against_topics(books, 0, wrong, Counter(READ))
    assert books.findings
    assert not books.exact


@pytest.mark.parametrize("name", READ)
def test_any_record_that_nobody_counted_is_found(name: str) -> None:
    books = LedgerBooks(counts=COUNTS)
    _held_against_topics(books, 0, COUNTS, Counter(READ | {name: READ[name] + 1}))
    assert books.findings


def test_a_prediction_without_its_first_example_is_named_and_a_repeated_one_is_not() -> None:
    """5 is the same event again; 7 is missing; 2 was sent twice."""
    books = LedgerBooks(counts={})
    _predictions(books, 1, offsets(1, 2, 3, 5), offsets(1, 2, 3), {"repeated": 1})
    assert books.findings == []
    _predictions(books, 1, offsets(1, 2, 3, 5, 7), offsets(1, 2, 2, 3), {"repeated": 1})
    assert [(f.what, f.count) for f in books.findings] == [
        ("missing example of a prediction", 1),
        ("doubled example of a prediction", 1),
    ]
    assert books.missing == 1


def test_several_rows_of_one_message_are_counted() -> None:
    """A message holds many examples, all under its offset."""
    places = offsets(3, 4, 9)
    assert _times(offsets(9, 3, 3), places).tolist() == [2, 0, 1]


def test_counts_of_partitions_are_summed_and_the_coverage_leaves_out_what_is_still_open() -> None:
    found = [
        Pointer(snapshot="", scored_offset=0, labels_offset=0, counts=COUNTS | {"clock_ms": clock})
        for clock in (50, 20)
    ]
    counts = total(found)
    assert (counts["predictions"], counts["clock_ms"]) == (20, 20)
    assert coverage(counts) == 8 / (20 - 2 - 4)
    assert coverage({}) is None
