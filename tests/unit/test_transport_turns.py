"""When a stage with state refuses to start from what is committed, and how it cuts logs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.transport.turns import TurnStage, _cut
from streams.transport.wire import Membership

LEFT, RIGHT = TP("left", 0), TP("right", 0)


class Remembered:
    """A state that has one turn since its snapshot at 2 and 3."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.verified = False

    def restore(self, metadata: str) -> Any:
        return ((2, 3), [(4, 5)]) if metadata else ((0, 0), [])

    def turn(self, runs: Any) -> list[Any]:
        self.seen += [[offset for run in parts for offset in run.offsets] for parts in runs]
        return []

    def verify(self) -> None:
        self.verified = True

    def record(self, _offsets: Any) -> str:
        return "text"

    def committed(self) -> None:
        pass


async def everything(tp: TP, first: int, end: int) -> Run:
    rows = end - first
    return Run(tp, [None] * rows, [b"x"] * rows, [1] * rows, range(first, end), end)


async def settle(
    folder: Path, left: OffsetAndMetadata, right: OffsetAndMetadata
) -> tuple[TurnStage, Remembered, list[str]]:
    failures: list[str] = []
    state = Remembered()
    stage = TurnStage(
        None,  # type: ignore[arg-type]  # nothing is committed here
        ("left", "right"),
        lambda _partition: state,
        everything,
        Reporter(folder, "w", "join"),
        on_failure=lambda _what, error: failures.append(str(error)),
    )
    stage.assigned(Membership("g", 1, "m"))
    stage.settled(LEFT, left)
    assert not stage._tasks, "recovery began before both topics had settled"
    stage.settled(RIGHT, right)
    await asyncio.gather(*stage._tasks, return_exceptions=True)
    return stage, state, failures


async def test_recorded_turns_are_repeated_from_the_snapshot_and_verified(tmp_path: Path) -> None:
    """Exactly the rows between the snapshot and the committed offsets, topic by topic."""
    stage, state, failures = await settle(
        tmp_path, OffsetAndMetadata(4, "text"), OffsetAndMetadata(5, "text")
    )
    assert (state.seen, state.verified, failures) == ([[2, 3], [3, 4]], True, [])
    assert stage._parts[0].live


async def test_a_partition_that_never_committed_starts_empty(tmp_path: Path) -> None:
    """No offset and no record: the first start."""
    stage, state, failures = await settle(
        tmp_path, OffsetAndMetadata(-1, ""), OffsetAndMetadata(-1, "")
    )
    assert (state.seen, failures, stage._parts[0].live) == ([], [], True)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (OffsetAndMetadata(4, ""), OffsetAndMetadata(5, "")),
        (OffsetAndMetadata(4, "text"), OffsetAndMetadata(5, "other")),
        (OffsetAndMetadata(4, "text"), OffsetAndMetadata(-1, "")),
        (OffsetAndMetadata(9, "text"), OffsetAndMetadata(5, "text")),
    ],
    ids=["offsets-without-record", "torn", "one-topic-only", "offsets-moved"],
)
async def test_offsets_that_do_not_fit_their_record_are_refused(
    tmp_path: Path, left: OffsetAndMetadata, right: OffsetAndMetadata
) -> None:
    """Going on would lose or double rows in silence."""
    stage, state, failures = await settle(tmp_path, left, right)
    assert len(failures) == 1
    assert failures[0].startswith(("could not find the state", "could not rebuild"))
    assert not stage._parts[0].live
    assert state.seen == []


@given(st.sets(st.integers(0, 40)), st.integers(0, 40), st.integers(0, 40))
def test_a_cut_keeps_exactly_the_records_of_its_range(
    found: set[int], first: int, end: int
) -> None:
    """Gaps in the offsets are normal."""
    offsets = sorted(found)
    values = [b"%d" % offset for offset in offsets]
    run = Run(LEFT, [None] * len(offsets), list(values), [1] * len(offsets), offsets, 41)
    kept = [value for part in _cut(run, first, end) for value in part.values]
    assert kept == [b"%d" % offset for offset in offsets if first <= offset < end]
