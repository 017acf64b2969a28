"""The scorer while a rollout runs: two arms, one order, and nothing of a shadow outside."""

import threading
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from models.engine import Arms
from models.rollout import in_canary
from streams.workers.arms import CANARY_FAILURES_MAX, Breaker
from streams.workers.score import Scorer
from tests.unit.test_score import Touchy, event, letters, make, predictions, run, scored

ROWS = 200


class Constant(nn.Module):
    """Says one number; fails if it is not one."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def forward(self, numbers: Tensor, _words: Tensor) -> Tensor:
        if self.score < 0:
            raise RuntimeError("out of memory")
        return torch.full((len(numbers),), self.score)


def with_arms(tmp_path: Path, challenger: nn.Module, **more: object) -> Scorer:
    scorer = make(tmp_path)
    champion = scorer._engine.serving  # the one of `make`
    loaded = replace(champion, version="c" * 12, module=challenger)
    options = {"canary": loaded, "share": 50, "salt": "s"} | more
    if options.pop("as_shadow", False):
        options = {"shadow": loaded}
    scorer._engine.offer(Arms(epoch=2, champion=champion, **options))
    return scorer


def events() -> list[bytes | None]:
    return [event(str(i), 100.0 + i) for i in range(ROWS)]


def test_each_key_is_answered_by_its_arm_and_order_stays(tmp_path: Path) -> None:
    """Every prediction names the version that made it, and so does its row."""
    out = with_arms(tmp_path, Constant(0.75))(run(events()))
    found, rows = predictions(out), scored(out)
    assert [p.source_offset for p in found] == [100 + 3 * i for i in range(ROWS)]
    assert [r["source_offset"] for r in rows] == [p.source_offset for p in found]
    canary = in_canary([p.key for p in found], salt="s", share=50)
    assert 60 < canary.sum() < 140
    for i, (prediction, row) in enumerate(zip(found, rows, strict=True)):
        version, score = ("c" * 12, 0.75) if canary[i] else ("0123456789ab", (100 + i) / 1000)
        assert (prediction.model_version, row["model_version"]) == (version, version)
        assert abs(prediction.score - score) < 1e-6
        assert row["event_id"] == prediction.event_id == str(i)
    keys = next(part.keys for part in out if part.topic == "shop.predictions")
    assert keys == [b"key-%d" % i for i in range(ROWS)]


def test_the_champion_answers_where_the_canary_fails(tmp_path: Path) -> None:
    """A broken challenger costs no event anything: no dead letter, no gap."""
    scorer = with_arms(tmp_path, Constant(-1))
    out = scorer(run([*events(), b"{"]))
    assert {p.model_version for p in predictions(out)} == {"0123456789ab"}
    assert len(predictions(out)) == len(scored(out)) == ROWS
    assert len(letters(out)) == 1
    assert scorer._counters["canary_errors"] > 60
    assert scorer._counters["predictions"] == ROWS


def test_rejects_are_counted_once_with_two_arms(tmp_path: Path) -> None:
    """Both arms come from one run, whose broken records belong to neither."""
    out = with_arms(tmp_path, Constant(0.5))(run([*events(), b"{"]))
    assert len(letters(out)) == 1
    assert len(predictions(out)) == ROWS


def test_nothing_of_a_shadow_leaves_the_worker(tmp_path: Path) -> None:
    """It answers, is compared, and consumers cannot tell; a busy one is dropped, not waited for."""
    started, go = threading.Event(), threading.Event()

    class Slow(Touchy):
        def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
            started.set()
            go.wait(5)
            return super().forward(numbers, words)

    scorer = with_arms(tmp_path, Slow(), as_shadow=True)
    plain = make(tmp_path)
    expected = plain(run(events()))
    assert predictions(scorer(run(events()))) == predictions(expected)
    assert started.wait(5)
    for _ in range(3):
        scorer(run(events()))
    go.set()
    scorer.close()
    counters = scorer._counters
    assert counters["shadow_rows"] >= ROWS
    assert counters["shadow_dropped"] >= 2 * ROWS
    assert counters["shadow_difference"] == 0.0


def test_the_offset_of_a_switch_is_written_down(tmp_path: Path) -> None:
    """By partition, at its first batch under the new announcement."""
    scorer = make(tmp_path)
    scorer(run(events()))
    champion = scorer._engine.serving
    assert "switched_at_5" not in scorer._counters
    scorer._engine.offer(replace(champion, epoch=2))
    scorer(run(events(), partition=5))
    assert scorer._counters["switched_at_5"] == 100


def test_a_canary_that_keeps_failing_is_not_asked_any_more(tmp_path: Path) -> None:
    """Until something else is announced; a slow one counts like one that fails."""

    class Counted(Constant):
        asked = 0

        def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
            Counted.asked += 1
            return super().forward(numbers, words)

    scorer = with_arms(tmp_path, Counted(-1))
    for _ in range(CANARY_FAILURES_MAX + 3):
        assert len(predictions(scorer(run(events())))) == ROWS
    assert Counted.asked == CANARY_FAILURES_MAX
    scorer._engine.offer(replace(scorer._engine.arms, epoch=3))
    scorer(run(events()))
    assert Counted.asked == CANARY_FAILURES_MAX + 1
    breaker, arms = Breaker(), scorer._engine.arms
    for _ in range(CANARY_FAILURES_MAX):
        assert breaker.closed(arms)
        breaker.note(answered=True, rows=1, seconds=1.0)
    assert not breaker.closed(arms)
