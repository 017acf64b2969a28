"""Several topics of one partition: which records are taken, and in which order of time."""

from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.transport.merge import Merge
from streams.transport.records import Run

INFINITE = float("inf")


def run(topic: int, first: int, times: list[int]) -> Run:
    count = len(times)
    return Run(
        TP("ab"[topic], 0),
        [None] * count,
        [b"%d" % i for i in range(first, first + count)],
        times,
        range(first, first + count),
        first + count,
    )


def test_a_topic_ahead_waits_for_the_one_that_is_behind() -> None:
    """Labels of an hour are here, scored rows of ten minutes: labels of ten minutes are taken."""
    merge = Merge(2)
    merge.add(0, run(0, 0, [1, 2, 10]), "scored")
    merge.add(1, run(1, 0, [5, 9, 11, 60]), "labels")
    limits = merge.limits([True, False])
    assert limits == [INFINITE, 10]
    scored, labels = merge.take(limits)
    assert [(one.run.values, one.token, one.last) for one in scored] == [
        ([b"0", b"1", b"2"], "scored", True)
    ]
    assert [(one.run.values, one.run.next_offset, one.last) for one in labels] == [
        ([b"0", b"1"], 2, False)
    ]
    assert (merge.offsets, merge.rows, merge.tokens()) == ((3, 2), (0, 2), ["labels"])
    assert merge.limits([False, False]) == [INFINITE, INFINITE]
    [_, [rest]] = merge.take([INFINITE, INFINITE])
    assert (rest.run.values, rest.run.next_offset, rest.last) == ([b"2", b"3"], 4, True)


def test_of_a_topic_that_is_behind_everything_waits_until_it_has_shown_a_record() -> None:
    """Its first record may be older than all that is here."""
    merge = Merge(2)
    merge.start(0, 7)
    merge.add(1, run(1, 0, [5]), "labels")
    assert merge.take(merge.limits([True, False])) == [[], []]
    assert (merge.offsets, merge.rows) == ((7, 0), (0, 1))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.lists(st.integers(0, 20), min_size=1, max_size=5),
            st.booleans(), st.booleans(),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_every_record_is_taken_once_and_in_order_and_each_token_ends_once(script: list) -> None:
    """However it is cut: otherwise rows are lost, or a drain is never acknowledged."""
    merge, firsts, values, ended = Merge(2), [0, 0], ([], []), []
    for number, (topic, times, *behind) in enumerate(script):
        merge.add(topic, run(topic, firsts[topic], times), number)
        firsts[topic] += len(times)
        before = [len(found) for found in values]
        limits = merge.limits(behind)
        for found, seen, limit in zip(merge.take(limits), values, limits, strict=True):
            for one in found:
                assert all(time_ms <= limit for time_ms in one.run.timestamps_ms)
                seen += [int(value) for value in one.run.values]
                ended += [one.token] * one.last
        assert merge.offsets == tuple(len(found) for found in values)
        if sum(behind) == 1:  # the topic that is behind is itself taken whole
            assert merge.rows[behind.index(True)] == 0
        assert all(len(found) >= b for found, b in zip(values, before, strict=True))
    for found, seen in zip(merge.take([INFINITE] * 2), values, strict=True):
        for one in found:
            seen += [int(value) for value in one.run.values]
            ended += [one.token] * one.last
    assert values == tuple(list(range(first)) for first in firsts)
    assert sorted(ended) == list(range(len(script)))
