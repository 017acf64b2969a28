"""Dead letters: reason and origin travel as headers, the bytes stay as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letters import DeadLetter, Reason, read_dead_letter

letters = st.builds(
    DeadLetter,
    reason=st.sampled_from(Reason),
    detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=500),
    topic=st.text(st.sampled_from("abc.-_1"), min_size=1),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=40),
)


@given(letters)
def test_what_is_written_is_read(letter: DeadLetter) -> None:
    """Every byte of the record and every word about it can be had back."""
    assert read_dead_letter(letter.key, letter.value, letter.headers()) == letter


def test_an_empty_value_is_not_a_null_one() -> None:
    """A client that shows null as empty bytes must not hide what was sent."""
    null = DeadLetter(Reason.NULL_VALUE, "", "t", 0, 0, None, None)
    empty = DeadLetter(Reason.MALFORMED_JSON, "", "t", 0, 0, None, b"")
    assert read_dead_letter(None, b"", null.headers()).value is None
    assert read_dead_letter(None, b"", empty.headers()).value == b""


def test_a_long_detail_is_cut_and_a_strange_one_is_written() -> None:
    """The text comes out of an error message and may hold anything."""
    letter = DeadLetter(Reason.MODEL, "\ud800" + "x" * 10_000, "t", 0, 0, None, b"")
    assert len(dict(letter.headers())["detail"]) == 500


@given(st.lists(st.tuples(
    st.sampled_from(["reason", "detail", "topic", "partition", "offset", "null", "other"]),
    st.none() | st.binary(max_size=12) | st.integers(-9, 10**30).map(lambda n: b"%d" % n),
)))  # fmt: skip
def test_foreign_headers_are_read_without_an_error(
    headers: list[tuple[str, bytes | None]],
) -> None:
    """Anyone may write to the topic; the lander must get past it, and the table must take it."""
    letter = read_dead_letter(b"k", b"v", headers)  # type: ignore[arg-type]  # Kafka allows null
    assert letter.reason in Reason
    assert -1 <= letter.partition < 2**31
    assert -1 <= letter.offset < 2**63


@pytest.mark.parametrize("digits", [b"9" * 5000, b"2147483648", "٣".encode(), b"-1", b"", None])
def test_a_number_that_is_none_becomes_minus_one(digits: bytes | None) -> None:
    """5,000 digits would raise, 2147483648 would not fit the column: both stop a lander."""
    headers = [("partition", digits)]
    letter = read_dead_letter(None, b"", headers)  # type: ignore[arg-type]  # Kafka allows null
    assert letter.partition == -1
    assert letter.reason is Reason.SCHEMA
