"""When a stage with state refuses to start from what is committed, and how it cuts logs."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SetupError
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
    stage = stage_of(folder, lambda _partition: state, failures)
    stage.settled(LEFT, left)
    assert not stage._tasks, "recovery began before both topics had settled"
    stage.settled(RIGHT, right)
    await decided(stage)
    for task in stage._tasks:
        task.cancel()
    return stage, state, failures


def stage_of(
    folder: Path, make_state: Callable[[int], Remembered], failures: list[str], retry_s: float = 60
) -> TurnStage:
    stage = TurnStage(
        None,  # type: ignore[arg-type]  # nothing is committed here
        ("left", "right"),
        make_state,
        everything,
        Reporter(folder, "w", "join"),
        on_failure=lambda _what, error: failures.append(str(error)),
        retry_s=retry_s,
    )
    stage.assigned(Membership("g", 1, "m"))
    return stage


async def decided(stage: TurnStage) -> None:
    """Return when every partition works or is isolated."""
    async with asyncio.timeout(10):
        while not all(part.live or part.isolated for part in stage._parts.values()):
            await asyncio.sleep(0.01)


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
    assert failures == []
    why = stage._parts[0].isolated
    assert why.startswith(("could not find the state", "could not rebuild"))
    assert not stage._parts[0].live
    assert state.seen == []
    assert (stage.reporter.state, stage.reporter.detail) == ("waiting", f"partition 0: {why}")


class Damaged(Remembered):
    """A state that cannot be restored while its partition is in ``damaged``."""

    def __init__(self, partition: int, damaged: set[int]) -> None:
        super().__init__()
        self.partition, self.damaged = partition, damaged

    def restore(self, metadata: str) -> Any:
        if self.partition in self.damaged:
            raise SetupError("its snapshot is gone")
        return super().restore(metadata)


async def test_a_partition_without_a_way_back_stands_still_alone(tmp_path: Path) -> None:
    """The others work; once its snapshot is there again, so does it."""
    damaged, failures = {1}, list[str]()
    stage = stage_of(tmp_path, lambda n: Damaged(n, damaged), failures, retry_s=0.01)
    for number in (0, 1):
        stage.settled(TP("left", number), OffsetAndMetadata(4, "text"))
        stage.settled(TP("right", number), OffsetAndMetadata(5, "text"))
    await decided(stage)
    told = stage.reporter
    assert [stage._parts[n].live for n in (0, 1)] == [True, False]
    assert (told.state, told.detail) == ("running", "partition 1: its snapshot is gone")
    assert told.isolated == ["left/1", "right/1"]
    damaged.clear()
    async with asyncio.timeout(10):
        while not stage._parts[1].live:
            await asyncio.sleep(0.01)
    assert (told.state, told.detail, told.isolated) == ("running", "", [])
    assert failures == []


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
