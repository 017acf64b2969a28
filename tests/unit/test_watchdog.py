"""Who is taken for stalled, second by second."""

import pytest

from streams.books.lag import Behind
from streams.local import watchdog
from streams.local.watchdog import Watchdog
from streams.telemetry import Report

PLACE = "events/0"


def report(
    *, updated_at_ms=0, state="running", pid=1, name="a", partitions=(PLACE,), isolated=()
) -> Report:
    return Report(
        name=name, role="score", pipeline="flights", pid=pid, state=state, detail="", since_ms=0,
        updated_at_ms=updated_at_ms, counters={}, partitions=list(partitions),
        isolated=list(isolated),
    )  # fmt: skip


def behind(committed, end) -> list[Behind]:
    return [Behind(topic="events", partition=0, committed=committed, end=end, lag=end - committed)]


def silent_after(state: str, *, step_s: float = 1.0) -> float | None:
    """When a worker that says nothing any more is named; None if not in ten minutes."""
    dog, now_s = Watchdog(), 0.0
    while now_s < 600:
        if dog.silent(now_s, [report(state=state)]):
            return now_s
        now_s += step_s
    return None


@pytest.mark.parametrize(
    ("state", "limit_s"),
    [("running", 20), ("waiting", 20), ("stopping", 20), ("starting", 120)],
)
def test_a_worker_that_reports_nothing_is_named_once_the_limit_is_over(state, limit_s):
    """One that starts may be busy with imports for longer."""
    assert limit_s < silent_after(state) <= limit_s + 1


def test_a_worker_that_has_ended_is_not_named():
    """The tree has seen that already, and starts it again when it is due."""
    assert silent_after("failed") is None


def test_a_worker_that_reports_is_never_named_and_a_new_process_begins_anew():
    """Whatever it reports: a new time of the report, or another process."""
    dog = Watchdog()
    for now_s in range(300):
        assert not dog.silent(float(now_s), [report(updated_at_ms=now_s // 15)])
    for now_s in range(300, 600):
        assert not dog.silent(float(now_s), [report(pid=now_s // 15)])


def test_nobody_is_blamed_for_the_sleep_of_the_whole_machine():
    """A laptop that was closed: every report is old, and the watchdog itself came late."""
    dog = Watchdog()
    for now_s in [*range(15), *range(5000, 5020)]:
        assert not dog.silent(float(now_s), [report()])
    assert dog.silent(5021.0, [report()])


def stuck(
    ends, commits, *, state="running", step_s=5.0, partitions=(PLACE,), isolated=()
) -> float | None:
    """When a worker is named; ``ends`` and ``commits`` say what is seen, the last for ever."""
    dog = Watchdog()
    for number in range(100):
        end, committed = (seen[min(number, len(seen) - 1)] for seen in (ends, commits))
        found = dog.stuck(
            number * step_s,
            [report(state=state, partitions=partitions, isolated=isolated)],
            None if end is None else behind(committed, end),
        )
        if found:
            assert f"nothing of {PLACE}" in found["a"]
            return number * step_s
    return None


GROWING = range(10, 2000, 10)


def test_no_commit_while_the_lag_grows_is_named_within_thirty_seconds():
    """20 s without a commit and the time between two looks."""
    assert 20 < stuck(GROWING, [5]) <= 30


def test_a_partition_that_its_worker_has_set_apart_is_nobodys_stall():
    """A new process would not get any further, and the other partitions would stop for it."""
    assert stuck(GROWING, [5], isolated=(PLACE,)) is None
    assert stuck(GROWING, [5], isolated=("events/1",)) is not None


def test_what_stands_still_with_reason_is_not_named():
    """Nothing new arrives; nothing is left; it commits, if slowly; it waits for a server."""
    assert stuck([100], [5]) is None
    assert stuck([100], [100]) is None
    assert stuck(GROWING, [n // 4 for n in range(100)]) is None
    assert stuck(GROWING, [5], state="waiting") is None
    assert stuck(GROWING, [5], state="starting") is None


def test_without_kafka_and_without_an_owner_nobody_is_named():
    """What is not known is no proof; and a partition that nobody has is the group's matter."""
    assert stuck([10, 20, 30, None] * 30, [5]) is None
    assert stuck(GROWING, [5], partitions=()) is None


def test_the_limits_keep_the_promise():
    """30 s, from the stall to the kill."""
    from streams.local import watching

    assert watchdog.SILENT_S_MAX + 2 * watching.LOOK_S <= 30
    assert watchdog.STUCK_S_MAX + 2 * watching.LAG_S <= 30
