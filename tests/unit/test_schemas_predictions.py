"""Predictions: put together from bytes for speed, and still exactly what `Prediction` says."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.predictions import Prediction, encode_predictions

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_int64 = st.integers(-(2**63), 2**63 - 1)
_rows = st.lists(st.tuples(_text, _text, st.floats(0, 1), _int64, st.integers(0, 2**63 - 1)))


@given(_rows, st.integers(0, 1023), _text, st.integers(0, 10**13), st.integers(0, 10**13))
def test_the_fast_way_writes_what_the_declared_type_would(
    rows: list[tuple[str, str, float, int, int]], partition: int, version: str, age: int, at: int
) -> None:
    """Consumers decode `Prediction`; escapes, quotes and control characters included."""
    expected = [
        Prediction(
            event_id=row[0],
            key=row[1],
            score=row[2],
            event_time_ms=row[3],
            source_offset=row[4],
            source_partition=partition,
            model_version=version,
            model_age_ms=age,
            predicted_at_ms=at,
        )
        for row in rows
    ]
    encoded = encode_predictions(
        rows,
        source_partition=partition,
        model_version=version,
        model_age_ms=age,
        predicted_at_ms=at,
    )
    assert encoded == [msgspec.json.encode(one) for one in expected]
    assert [msgspec.json.decode(one, type=Prediction) for one in encoded] == expected
    assert [json.loads(one)["event_id"] for one in encoded] == [row[0] for row in rows]


def test_a_record_as_it_lies_in_the_topic() -> None:
    """Golden: consumers that are not ours parse this text."""
    [encoded] = encode_predictions(
        [('quote " backslash \\ line\n', "ä€😀", 0.25, 1357034400000, 42)],
        source_partition=3,
        model_version="0123456789ab",
        model_age_ms=60_000,
        predicted_at_ms=1_700_000_000_000,
    )
    assert encoded.decode() == (
        '{"event_id":"quote \\" backslash \\\\ line\\n","key":"ä€😀","score":0.25,'
        '"event_time_ms":1357034400000,"source_offset":42,"source_partition":3,'
        '"model_version":"0123456789ab","model_age_ms":60000,"predicted_at_ms":1700000000000,"learner_position":-1}'
    )
