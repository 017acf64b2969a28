"""The benchmark of the joiner counts what it measures: a joiner that joined nothing would be fast."""

from streams.bench.ledger import measure


def test_it_measures_joined_labels_and_a_ledger_that_holds_them() -> None:
    """Small figures, no claim about speed."""
    found = measure(40_960, 5_000)
    joined, held = found.results
    assert joined["rows"] == 40_960 + joined["joined"]
    assert joined["joined"] == 40_960 - 20_000
    assert held["open"] == 5_000
    assert held["counted_bytes_per_open"] == 180 + 25 + 6 + 12 + 4 * 24
