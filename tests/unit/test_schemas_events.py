"""Events: whatever bytes come in, each record ends as one event or one dead letter."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.dead_letters import Reason
from schemas.events import Decoded, EventDecoder, Source
from schemas.pipeline import Pipeline, category, label, numeric

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
SOURCE = Source("payments.events", 3)

payments = Pipeline(
    name="payments",
    key="account_id",
    features=[
        numeric("amount_eur"),
        numeric("age_days", missing=-1.0),
        category("country"),
        category("channel", missing="web"),
    ],
    target=label("fraud"),
)
GOOD = {
    "event_id": "e-1",
    "event_time_ms": NOW_MS - 5,
    "account_id": "a-1",
    "amount_eur": 12.5,
    "age_days": 3,
    "country": "FI",
    "channel": "app",
}


def text(**changes: object) -> bytes:
    """A good event with changes; `...` takes a field away."""
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


def raw(field: str, literal: str) -> bytes:
    """A good event where one field is this JSON text, also what no JSON library would write."""
    return text(**{field: "@"}).replace(b'"@"', literal.encode())


def decode(*values: bytes | None, bytes_max: int = 65_536) -> Decoded:
    return EventDecoder(payments, bytes_max=bytes_max).decode(
        SOURCE,
        [100 + 2 * i for i in range(len(values))],
        [b"key-%d" % i for i in range(len(values))],
        list(values),
        now_ms=NOW_MS,
    )


def test_a_good_run_takes_the_short_way() -> None:
    """No positions to look up later: every record of the run is an event."""
    decoded = decode(text(), text(event_id="e-2"))
    assert decoded.positions is None
    assert decoded.rejects == []
    assert [event.event_id for event in decoded.events] == ["e-1", "e-2"]
    first = decoded.events[0]
    assert (first.event_time_ms, first.account_id) == (NOW_MS - 5, "a-1")
    assert (first.amount_eur, first.age_days) == (12.5, 3.0)
    assert (first.country, first.channel) == ("FI", "app")


def test_an_empty_run_is_no_trouble() -> None:
    """A run may hold nothing but markers of transactions."""
    assert decode() == Decoded([])


DEEP = b"[" * 30_000 + b"]" * 30_000
BAD = {
    "no value": (None, Reason.NULL_VALUE),
    "one byte over 64 KiB": (text(note="x" * (65_537 - len(text(note="")))), Reason.TOO_LARGE),
    "1 MB": (text(note="x" * 1_000_000), Reason.TOO_LARGE),
    "1 MB of rubbish": (b"\xff" * 1_000_000, Reason.TOO_LARGE),
    "empty": (b"", Reason.MALFORMED_JSON),
    "cut off": (text()[:-1], Reason.MALFORMED_JSON),
    "trailing characters": (text() + b" x", Reason.MALFORMED_JSON),
    "not JSON at all": (b"hello", Reason.MALFORMED_JSON),
    "single quotes": (text().replace(b'"', b"'"), Reason.MALFORMED_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + text(), Reason.MALFORMED_JSON),
    "UTF-16": (text().decode().encode("utf-16"), Reason.MALFORMED_JSON),
    "invalid UTF-8": (text(country="@@").replace(b"@@", b"\xc3\x28"), Reason.MALFORMED_JSON),
    "overlong UTF-8": (text(country="@@").replace(b"@@", b"\xc0\xaf"), Reason.MALFORMED_JSON),
    "lone surrogate, escaped": (raw("country", '"\\ud800"'), Reason.MALFORMED_JSON),
    "lone surrogate, raw": (text(country="@@").replace(b"@@", b"\xed\xa0\x80"), Reason.MALFORMED_JSON),
    "NaN": (raw("amount_eur", "NaN"), Reason.MALFORMED_JSON),
    "Infinity": (raw("amount_eur", "Infinity"), Reason.MALFORMED_JSON),
    "-Infinity": (raw("amount_eur", "-Infinity"), Reason.MALFORMED_JSON),
    "1e400": (raw("amount_eur", "1e400"), Reason.NOT_FINITE),
    "-1e400": (raw("amount_eur", "-1e400"), Reason.NOT_FINITE),
    "400 digits": (raw("amount_eur", "7" * 400), Reason.NOT_FINITE),
    "9000 digits": (raw("amount_eur", "7" * 9000), Reason.NOT_FINITE),
    "an array": (b"[]", Reason.SCHEMA),
    "null": (b"null", Reason.SCHEMA),
    "a number as text": (text(amount_eur="12.5"), Reason.SCHEMA),
    "a bool for a number": (text(amount_eur=True), Reason.SCHEMA),
    "a number for a word": (text(country=7), Reason.SCHEMA),
    "an object for a word": (text(country={}), Reason.SCHEMA),
    "null where it must be": (text(amount_eur=None), Reason.SCHEMA),
    "no id": (text(event_id=...), Reason.SCHEMA),
    "no time": (text(event_time_ms=...), Reason.SCHEMA),
    "no key": (text(account_id=...), Reason.SCHEMA),
    "no number": (text(amount_eur=...), Reason.SCHEMA),
    "no word": (text(country=...), Reason.SCHEMA),
    "time as text": (text(event_time_ms="2026-01-01"), Reason.SCHEMA),
    "time in seconds with a fraction": (text(event_time_ms=1.5), Reason.SCHEMA),
    "time of 5000 digits": (raw("event_time_ms", "9" * 5000), Reason.SCHEMA),
    "before 1970": (text(event_time_ms=-1), Reason.TIME),
    "a day and a millisecond ahead": (text(event_time_ms=NOW_MS + DAY_MS + 1), Reason.TIME),
    "far future": (text(event_time_ms=10**18), Reason.TIME),
    "beyond 64 bits": (text(event_time_ms=10**25), Reason.TIME),
    "nested 30,000 deep in a field nobody reads": (raw("note", DEEP.decode()), Reason.SCHEMA),
    "nested and cut off": (b'{"a":' * 10_000, Reason.SCHEMA),
}  # fmt: skip


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_record_becomes_a_dead_letter_and_its_neighbours_stay(
    value: bytes | None, reason: Reason
) -> None:
    """One sender's mistake must neither stop the worker nor cost the others' events."""
    decoded = decode(text(event_id="before"), value, text(event_id="after"))
    assert [event.event_id for event in decoded.events] == ["before", "after"]
    assert decoded.positions == [0, 2]
    assert list(decoded.pick([100, 102, 104])) == [100, 104]
    [letter] = decoded.rejects
    assert letter.reason is reason
    assert (letter.topic, letter.partition, letter.offset) == ("payments.events", 3, 102)
    assert (letter.key, letter.value) == (b"key-1", value)
    assert 0 < len(letter.detail) < 500


@pytest.mark.parametrize("literal", ["1e39", "-1e39", "3.5e38"])
def test_numbers_too_large_for_float32_are_found_one_by_one(literal: str) -> None:
    """The short way leaves them to the feature code, which sees them for free; see `Scorer`."""
    values = [text(), raw("amount_eur", literal)]
    decoded = EventDecoder(payments).decode_one_by_one(
        SOURCE, [7, 8], [None, None], values, now_ms=NOW_MS
    )
    assert decoded.positions == [0]
    [letter] = decoded.rejects
    assert (letter.reason, letter.offset) == (Reason.NOT_FINITE, 8)
    assert "amount_eur" in letter.detail


@given(st.floats(3.40e38, 3.41e38), st.sampled_from([1.0, -1.0]))
@example(3.4028235677973362e38, 1.0)
@example(3.4028235677973366e38, 1.0)
def test_the_verdict_on_a_number_does_not_depend_on_its_neighbours(
    size: float, sign: float
) -> None:
    """One by one, exactly those are refused that the feature code would see as infinite."""
    with np.errstate(over="ignore"):
        fits = math.isfinite(np.float32(sign * size))
    decoded = EventDecoder(payments).decode_one_by_one(
        SOURCE, [0], [None], [text(amount_eur=sign * size)], now_ms=NOW_MS
    )
    assert bool(decoded.events) == fits


@pytest.mark.parametrize("bad_neighbour", [False, True])
@pytest.mark.parametrize("absent", [None, ...])
def test_what_is_missing_is_filled_as_declared(bad_neighbour: bool, absent: object) -> None:
    """Absent and null mean the same, on the short way and on the long one."""
    values = [text(age_days=absent, channel=absent)] + [b"{"] * bad_neighbour
    [event] = decode(*values).events
    assert (event.age_days, event.channel) == (-1.0, "web")


def test_limits_are_inclusive() -> None:
    """A record exactly at a limit is good: limits are what is allowed."""
    full = text(note="x" * (65_536 - len(text(note=""))))
    assert len(full) == 65_536
    values = [full, text(event_time_ms=0), text(event_time_ms=NOW_MS + DAY_MS)]
    assert len(decode(*values).events) == 3


def test_unknown_fields_are_ignored_and_the_last_of_two_wins() -> None:
    """Producers may send more than the model needs; of a repeated field the last counts."""
    extra = text(note={"deep": [1, {"x": None}]}, huge=1)
    twice = text()[:-1] + b',"amount_eur":99,"country":"SE"}'
    first, second = decode(extra, twice).events
    assert (first.amount_eur, first.country) == (12.5, "FI")
    assert (second.amount_eur, second.country) == (99.0, "SE")


def test_a_category_may_be_the_key() -> None:
    """Then it is one field of the event, not two."""
    shop = Pipeline(
        name="shop", key="country", features=[category("country")], target=label("bought")
    )
    value = b'{"event_id":"x","event_time_ms":1,"country":"FI"}'
    [event] = EventDecoder(shop).decode(SOURCE, [0], [None], [value], now_ms=NOW_MS).events
    assert event.country == "FI"


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1e39, -1e39, 1e308, 10**400, -(10**30), NOW_MS, NOW_MS + 2 * DAY_MS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_nearly = st.dictionaries(st.sampled_from([*GOOD, "note"]), _json, max_size=4).map(
    lambda changes: text(**changes)
)
_cut = st.tuples(_nearly, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
_value = (
    st.none()
    | st.binary(max_size=40)
    | _json.map(lambda v: json.dumps(v).encode())
    | _nearly
    | _cut
)


@given(st.lists(_value, max_size=6))
def test_any_bytes_become_one_event_or_one_dead_letter(values: list[bytes | None]) -> None:
    """The promise behind "every event yields one prediction or one dead letter"."""
    offsets = [1000 + 3 * i for i in range(len(values))]
    keys = [b"%d" % i for i in range(len(values))]
    decoded = EventDecoder(payments, bytes_max=150).decode(
        SOURCE, offsets, keys, values, now_ms=NOW_MS
    )
    good = list(decoded.pick(offsets))
    bad = [letter.offset for letter in decoded.rejects]
    assert len(good) == len(decoded.events)
    assert sorted(good + bad) == offsets
    assert good == sorted(good)
    assert bad == sorted(bad)
    for letter in decoded.rejects:
        position = offsets.index(letter.offset)
        assert (letter.key, letter.value) == (keys[position], values[position])
        assert (letter.topic, letter.partition) == SOURCE
    for event in decoded.events:
        assert isinstance(event.event_id, str)
        assert 0 <= event.event_time_ms <= NOW_MS + DAY_MS
        assert isinstance(event.amount_eur, float)
        assert isinstance(event.age_days, float)
        assert isinstance(event.country, str)
        assert isinstance(event.channel, str)
