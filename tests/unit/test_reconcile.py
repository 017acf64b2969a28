"""What reconciliation concludes from offsets; the reading itself is shown by tests/connected/test_demo.py."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.books.committed import Span
from streams.books.reconcile import Reconciliation, _within_retention
from streams.books.sources import EXAMPLES_MAX, Finding, compare

NONE = np.empty(0, np.int64)
OFFSETS = st.lists(st.integers(0, 60), max_size=60)


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_everything_once_is_no_finding() -> None:
    """The ordinary case, with gaps as transaction markers leave them."""
    assert compare("row", 0, array(0, 1, 3, 7), array(0, 1, 3, 7), NONE) == []


def test_each_kind_of_fault_is_named_with_its_offsets() -> None:
    """5 has no row, 3 has two, 9 was never an event."""
    found = compare("row", 2, array(1, 3, 5), array(1, 3, 3, 9), NONE)
    assert found == [
        Finding(what="missing row", partition=2, count=1, offsets=[5]),
        Finding(what="doubled row", partition=2, count=1, offsets=[3]),
        Finding(what="unknown row", partition=2, count=1, offsets=[9]),
    ]


def test_what_is_still_waiting_is_not_missing() -> None:
    """Nobody has vouched for 5 yet."""
    assert compare("row", 0, array(1, 5), array(1), array(5)) == []


def test_examples_are_bounded() -> None:
    """A hundred thousand missing records give ten examples and the count."""
    (found,) = compare("row", 0, np.arange(100_000), NONE, NONE)
    assert (found.count, found.offsets) == (100_000, list(range(EXAMPLES_MAX)))


@settings(deadline=None)  # a busy machine is no finding
@given(OFFSETS, OFFSETS, OFFSETS)
def test_findings_are_exactly_the_differences(
    events: list[int], rows: list[int], waiting: list[int]
) -> None:
    """Against plain sets and counts."""
    found = {
        f.what: f.count
        for f in compare(
            "row", 0, np.unique(array(*events)), np.sort(array(*rows)), array(*waiting)
        )
    }
    expected = {
        "missing row": len(set(events) - set(rows) - set(waiting)),
        "doubled row": len({row for row in rows if rows.count(row) > 1}),
        "unknown row": len(set(rows) - set(events)),
    }
    assert found == {what: count for what, count in expected.items() if count}


def test_predictions_that_retention_took_are_left_out() -> None:
    """Events from 10 on are there, predictions from that of event 40 on: comparison starts at 40."""
    events = {0: Span(10, 100), 1: Span(0, 5)}
    predictions = {0: Span(35, 90), 1: Span(0, 7)}
    spans = _within_retention(events, predictions, {0: array(40, 41), 1: array(3, 4)})
    assert spans == {0: Span(40, 100), 1: Span(0, 5)}


def test_books_are_exact_only_when_every_side_agrees() -> None:
    """The equation of the report."""
    good = {"events": 10, "predictions": 9, "dead_letters": 1, "rows": 9, "dead_letter_rows": 1}
    assert Reconciliation(pipeline="p", **good).exact
    assert Reconciliation(pipeline="p", **good, labels=2, label_rows=1, label_dead_letters=1).exact
    for name in good:
        assert not Reconciliation(pipeline="p", **{**good, name: 5}).exact
    assert not Reconciliation(pipeline="p", **good, labels=2, label_rows=1).exact
