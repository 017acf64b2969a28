"""Labels: the scorer and the lander each decode them, and must come to the same verdict."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letters import Reason
from schemas.events import Source
from schemas.labels import NESTING_MAX, Label, LabelRejected, decode_label, decode_labels

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
GOOD = {"event_id": "e-1", "value": 1, "label_time_ms": NOW_MS, "revision": 2}


def text(**changes: object) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (0, 0), (True, 1), (False, 0), (1.0, 1)])
def test_yes_and_no_in_every_spelling(value: object, expected: int) -> None:
    """Senders write 1, 1.0 or true; all mean yes."""
    found = decode_label(text(value=value), now_ms=NOW_MS)
    assert found == Label(event_id="e-1", value=expected, label_time_ms=NOW_MS, revision=2)


def test_the_first_word_has_revision_zero() -> None:
    """A sender that never corrects need not know of revisions."""
    assert decode_label(text(revision=...), now_ms=NOW_MS).revision == 0


BAD = {
    "no value": (None, Reason.NULL_VALUE),
    "one byte over 64 KiB": (text(note="x" * (65_537 - len(text(note="")))), Reason.TOO_LARGE),
    "1 MB": (text(note="x" * 1_000_000), Reason.TOO_LARGE),
    "broken": (b'{"event_id":', Reason.MALFORMED_JSON),
    "invalid UTF-8": (text(event_id="@").replace(b"@", b"\xff"), Reason.MALFORMED_JSON),
    "NaN": (text(value=float("nan")), Reason.MALFORMED_JSON),
    "neither 0 nor 1": (text(value=0.5), Reason.SCHEMA),
    "minus one": (text(value=-1), Reason.SCHEMA),
    "a word": (text(value="yes"), Reason.SCHEMA),
    "null": (text(value=None), Reason.SCHEMA),
    "no event": (text(event_id=...), Reason.SCHEMA),
    "no time": (text(label_time_ms=...), Reason.SCHEMA),
    "negative revision": (text(revision=-1), Reason.SCHEMA),
    "revision beyond 31 bits": (text(revision=1 << 31), Reason.SCHEMA),
    "before 1970": (text(label_time_ms=-1), Reason.TIME),
    "far future": (text(label_time_ms=NOW_MS + DAY_MS + 1), Reason.TIME),
    "nested too deeply": (text()[:-1] + b',"n":' + b"[" * 60_000, Reason.SCHEMA),
}


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_label_is_named_and_the_others_stay(value: bytes | None, reason: Reason) -> None:
    """A label is never dropped in silence: it is used, or it is a dead letter with its origin."""
    labels, positions, rejects = decode_labels(
        Source("p.labels", 1),
        [10, 20, 30],
        [b"a", None, b"c"],
        [text(event_id="before"), value, text(event_id="after")],
        now_ms=[NOW_MS] * 3,
    )
    assert [one.event_id for one in labels] == ["before", "after"]
    assert positions == [0, 2]
    [letter] = rejects
    assert letter.reason is reason
    assert (letter.topic, letter.partition, letter.offset) == ("p.labels", 1, 20)
    assert (letter.key, letter.value) == (None, value)


def nested(depth: int, *, text: str = "") -> bytes:
    """A label with a field that nobody reads; ``depth`` counts the label itself."""
    inner = b"[" * (depth - 1) + json.dumps(text).encode() + b"]" * (depth - 1)
    return json.dumps(GOOD).encode()[:-1] + b',"note":' + inner + b"}"


def from_deep_down(frames: int, value: bytes) -> bool:
    """Whether the label is good, asked from a stack of this many frames."""
    if frames:
        return from_deep_down(frames - 1, value)
    try:
        return bool(decode_label(value, now_ms=NOW_MS))
    except LabelRejected as reject:
        assert reject.reason is Reason.SCHEMA  # noqa: PT017
        return False


@pytest.mark.parametrize("frames", [0, 600])
def test_the_verdict_on_nesting_does_not_depend_on_who_asks(frames: int) -> None:
    """
    The decoder gives up where Python's stack ends. If the scorer accepted what the lander, called
    from deeper down, refuses, the label would be in no table and no dead letter.
    """
    assert from_deep_down(frames, nested(NESTING_MAX))
    assert not from_deep_down(frames, nested(NESTING_MAX + 1))
    assert not from_deep_down(frames, nested(800))
    brackets = '"}][{\\' * 1000
    assert from_deep_down(frames, nested(3, text=brackets)), "text is not nesting"


def test_time_is_judged_by_the_brokers_stamp_of_each_record() -> None:
    """A replay a year later must not accept what was refused, nor the other way round."""
    at = NOW_MS + DAY_MS
    found = decode_labels(
        Source("p.labels", 0),
        [0, 1],
        [None, None],
        [text(label_time_ms=at), text(label_time_ms=at)],
        now_ms=[NOW_MS - 1, NOW_MS],
    )
    assert found[1] == [1]


@given(st.binary(max_size=60) | st.none() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from([*GOOD, "note"]), inner, max_size=4),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_become_a_label_or_a_reason(value: bytes | None) -> None:
    """No third way out: an exception would stop the lander for good."""
    try:
        label = decode_label(value, now_ms=NOW_MS)
    except LabelRejected:
        return
    assert label.value in (0, 1)
    assert 0 <= label.revision < 1 << 31


@pytest.mark.parametrize("value", [0, -3.5, 1e300])
def test_a_target_that_is_a_number_takes_any_finite_one(value: float) -> None:
    assert decode_label(text(value=value), now_ms=NOW_MS, kind="number").value == value


@pytest.mark.parametrize("value", [True, "7", None])
def test_a_target_that_is_a_number_takes_nothing_else(value: object) -> None:
    """A yes is no measurement: it was meant for another pipeline."""
    with pytest.raises(LabelRejected):
        decode_label(text(value=value), now_ms=NOW_MS, kind="number")
