"""Numbers out of offsets, reports and answers."""

import time
from pathlib import Path

from schemas.settings import Settings
from streams.alerts.core import Reading
from streams.alerts.readings import CommitAges, of_answer, of_kafka, of_processes
from streams.books.lag import Behind
from streams.telemetry import Reporter


def behind(committed: int, end: int, partition: int = 0) -> Behind:
    return Behind(
        topic="f.events", partition=partition, committed=committed, end=end, lag=end - committed
    )


def test_a_partition_that_stands_still_ages_only_while_records_wait() -> None:
    """Since the last commit that was seen; a commit or an empty partition begins anew."""
    ages = CommitAges()
    seen = [
        ages.age_s("f", "score", behind(committed, end), now_s)
        for now_s, committed, end in ((0, 5, 9), (30, 5, 9), (50, 6, 9), (60, 6, 9), (90, 9, 9))
    ]
    assert seen == [0, 30, 0, 10, 0]
    assert ages.age_s("other", "score", behind(6, 9), 100) == 0, "another pipeline, another age"


def test_lag_names_the_step_and_the_age_names_the_partition() -> None:
    """A person reads where to look."""
    ages = CommitAges()
    steps = {"score": [behind(5, 9), behind(0, 3, 1)], "land": [behind(0, 100)]}
    of_kafka("f", steps, ages, 0.0)
    steps["score"][0] = behind(6, 9)
    steps["land"][0] = behind(50, 100)
    found = of_kafka("f", steps, ages, 70.0)
    assert (found["score_lag"].value, found["land_lag"].value) == (6, 50)
    assert found["lag"] == Reading(value=50, detail="before step land")
    assert found["commit_age_s"] == Reading(value=70.0, detail="step score, f.events/1")


def test_the_first_column_of_the_first_row_is_the_number() -> None:
    """And the second the evidence; nothing is nothing, and words are no number."""
    assert of_answer([[3, "three"], [4, "four"]]) == Reading(value=3.0, detail="three")
    assert of_answer([[2.5]]) == Reading(value=2.5)
    assert of_answer([]) == of_answer([[]]) == of_answer([[None, "x"]]) == Reading()
    assert of_answer([["many"]]).error == "the first column is no number: 'many'"
    assert of_answer([["7"]]).value == 7.0, "integers of 64 bits may come as text"


def test_processes_that_failed_or_fell_silent_are_named(tmp_path: Path) -> None:
    """By their own reports; one that works is not."""
    settings = Settings(home=tmp_path)
    now_s = time.time()
    for name, state, at_s in (
        ("f-score-0", "running", now_s),
        ("f-land-0", "failed", now_s),
        ("f-join-0", "running", now_s - 60),
    ):
        reporter = Reporter(settings.run_folder, name, "score", clock=lambda at_s=at_s: at_s)
        reporter.change(state, "out of memory" if state == "failed" else "")  # type: ignore[arg-type]
    found = of_processes(settings, int(now_s * 1000))
    assert found == Reading(value=2.0, detail="f-join-0 is silent; f-land-0 failed: out of memory")
