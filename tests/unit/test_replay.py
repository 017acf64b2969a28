"""What a replay sends, in which order and to which partition; no broker needed."""

import itertools

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import PipelineError
from schemas.labels import Label
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from streams.replay import DAY_MS, Encoder, Pace, Replay, Schedule, history_slice

TIMES = st.lists(st.integers(0, 50), max_size=40)


def history() -> pa.Table:
    """Four days, one row each; the third has no label, the second no amount."""
    return pa.table(
        {
            "event_id": ["a", "b", "c", "d"],
            "event_time_ms": [0, DAY_MS, 2 * DAY_MS, 3 * DAY_MS],
            "account": ["A1", "B2", "A1", "B2"],
            "amount": pa.array([1.5, None, float("nan"), 4.0]),
            "country": ["DE", "FR", "DE", None],
            "label": pa.array([1.0, 0.0, None, 1.0]),
            "label_time_ms": pa.array([2 * DAY_MS + 1, 2 * DAY_MS, None, 9 * DAY_MS]),
        }
    )


PIPELINE = Pipeline(
    name="payments",
    key="account",
    features=[numeric("amount", missing=0.0), category("country", missing="")],
    target=label("fraud"),
    history=history,
    first_training_days=1,
)


@given(TIMES, st.data())
def test_records_go_out_in_the_order_of_their_time(events: list[int], data: st.DataObject) -> None:
    """Events and labels merge by time, an event before a label of the same time, and nothing is lost."""
    events.sort()
    labelled = data.draw(
        st.lists(st.sampled_from(range(len(events))), unique=True) if events else st.just([])
    )
    labelled.sort()
    delays = data.draw(st.lists(st.integers(0, 20), min_size=len(labelled), max_size=len(labelled)))
    label_times = [events[row] + delay for row, delay in zip(labelled, delays, strict=True)]
    schedule = Schedule.of(
        np.array(events, np.int64),
        np.array(label_times, np.int64),
        np.array(labelled, np.int64),
        Pace(),
    )
    time_of = dict(zip(labelled, label_times, strict=True))
    sent = [
        (time_of[row] if is_label else events[row], bool(is_label))
        for row, is_label in zip(schedule.row.tolist(), schedule.is_label.tolist(), strict=True)
    ]
    assert sent == sorted(sent)
    assert sorted(schedule.row[~schedule.is_label].tolist()) == list(range(len(events)))
    assert sorted(schedule.row[schedule.is_label].tolist()) == labelled


def test_rate_counts_events_only() -> None:
    """At 10 events a second the third event is due after 0.2 s, however many labels lie between."""
    schedule = Schedule.of(
        np.array([0, 10, 20]), np.array([1, 2, 3]), np.array([0, 0, 0]), Pace(10.0)
    )
    assert schedule.due_s[~schedule.is_label].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert all(a <= b for a, b in itertools.pairwise(schedule.due_s))


def test_speed_divides_event_time() -> None:
    """An hour of history at 3600 takes a second."""
    schedule = Schedule.of(np.array([0, 3_600_000]), np.array([]), np.array([]), Pace(speed=3600))
    assert schedule.due_s.tolist() == [0.0, 1.0]


def test_due_never_exceeds_what_is_due() -> None:
    """A record is sent at its time, not before."""
    schedule = Schedule.of(np.arange(100), np.array([]), np.array([]), Pace(10.0))
    assert schedule.due(0, 0.95) == 10
    assert schedule.due(10, 0.95) == 0


@pytest.mark.parametrize(
    "pace", [{"events_per_second": 0.0}, {"speed": -1.0}, {"events_per_second": 1, "speed": 1}]
)
def test_impossible_paces_are_refused(pace: dict[str, float]) -> None:
    """A pace that never ends, or two at once, is a mistake of the caller."""
    with pytest.raises(ValueError, match="could not pace the replay"):
        Pace(**pace)


def test_replay_starts_where_the_first_training_ends() -> None:
    """The first model must not be judged on what it has seen."""
    table = history_slice(PIPELINE, events=2, skip=None, start_ms=None)
    assert table["event_id"].to_pylist() == ["b", "c"]
    assert history_slice(PIPELINE, events=9, skip=3, start_ms=None)["event_id"].to_pylist() == ["d"]
    assert history_slice(PIPELINE, events=1, skip=None, start_ms=1)["event_id"].to_pylist() == ["b"]


def test_absent_values_are_left_out_and_never_nan() -> None:
    """A null and a NaN both become an absent field, which the decoder replaces as declared."""
    encoder = Encoder(PIPELINE, history())
    sent = [msgspec.json.decode(value) for value in encoder.events(np.arange(4))]
    assert sent[0] == {
        "event_id": "a",
        "event_time_ms": 0,
        "account": "A1",
        "amount": 1.5,
        "country": "DE",
    }
    assert "amount" not in sent[1]
    assert "amount" not in sent[2]
    assert "country" not in sent[3]


def test_labels_carry_the_key_of_their_event() -> None:
    """Same key, same partition: that is how a join can work."""
    encoder = Encoder(PIPELINE, history())
    labels = [msgspec.json.decode(value, type=Label) for value in encoder.labels(np.array([0, 1]))]
    assert [(found.event_id, found.value) for found in labels] == [("a", 1), ("b", 0)]
    assert [encoder.keys[i] for i in encoder.key_of_row] == [b"A1", b"B2", b"A1", b"B2"]
    assert encoder.partition_of_key[0] == encoder.partition_of_key[encoder.key_of_row[2]]


def test_partitions_are_those_of_every_other_kafka_client() -> None:
    """The values are those of the Java client's DefaultPartitioner test, murmur2 of known keys."""
    from aiokafka.partitioner import murmur2

    # From Apache Kafka's own UtilsTest.testMurmur2.
    for key, expected in (
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
    ):
        assert murmur2(key) - (1 << 32 if murmur2(key) >= 1 << 31 else 0) == expected


def test_only_known_labels_are_sent() -> None:
    """A row without a truth has no label to send."""
    assert Replay(PIPELINE, Settings(), history(), Pace()).num_labels == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns("country"), "lacks the columns country"),
        (lambda t: t.take([1, 0]), "not sorted"),
        (
            lambda t: t.set_column(2, "account", pa.array(["A1", None, "A1", "B2"])),
            "without account",
        ),
    ],
)
def test_a_history_that_cannot_be_sent_says_why(change: object, words: str) -> None:
    """The message names the declaration and the fault."""
    broken = Pipeline(
        name="payments",
        key="account",
        features=PIPELINE.features,
        target=label("fraud"),
        history=lambda: change(history()),  # type: ignore[operator]
    )
    with pytest.raises(PipelineError, match=words):
        history_slice(broken, events=1, skip=0, start_ms=None)


def test_without_a_history_there_is_nothing_to_replay() -> None:
    """The remedy is in the message."""
    bare = Pipeline(name="bare", key="k", features=[numeric("x")], target=label("y"))
    with pytest.raises(PipelineError, match="history="):
        history_slice(bare, events=1, skip=0, start_ms=None)
