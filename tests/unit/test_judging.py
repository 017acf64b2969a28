"""What a judge may do when: a stage lasts its time, a rollback does not wait."""

from pathlib import Path

import pytest

from models.judge import JudgePolicy, Opinion, Step
from schemas.manifest import Announcement, NamedVersion
from schemas.settings import Settings
from streams.rollout.judging import Judging
from streams.telemetry import Reporter
from tests.unit.test_score import NOW_MS, shop

NAMED = NamedVersion(version="ba9876543210", digest="d")


@pytest.mark.parametrize(("step", "age_ms", "acts"), [
    ("widen", 29_999, False), ("widen", 30_000, True), ("promote", 29_999, False),
    ("promote", 30_000, True), ("rollback", 0, True), ("wait", 99_999, False),
])  # fmt: skip
def test_a_stage_lasts_its_time_and_a_rollback_does_not_wait(
    step: Step, age_ms: int, acts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = Judging(
        shop, Settings(home=tmp_path), JudgePolicy(), reporter=Reporter(tmp_path, "j", "judge"),
        clock=lambda: NOW_MS / 1000,
    )  # fmt: skip
    done = Announcement(
        pipeline="shop", version="0123456789ab", digest="d", epoch=3, announced_at_ms=NOW_MS
    )
    monkeypatch.setattr(judging, "_promote", lambda *_, **__: done)
    monkeypatch.setattr(judging, "_steer", lambda *_, **__: done)
    announced = Announcement(
        pipeline="shop", version="0123456789ab", digest="d", epoch=2,
        announced_at_ms=NOW_MS - age_ms, challenger=NAMED, stage="shadow",
    )  # fmt: skip
    told = judging._act(Opinion(step=step, reason="so", numbers={}), announced, NAMED)
    assert told is (done if acts else announced)
