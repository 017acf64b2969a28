"""When to train: every rule by itself, what holds all of them back, and what a declaration may say."""

from dataclasses import replace

import pytest

from schemas.errors import PipelineError
from schemas.pipeline import Pipeline, label, numeric
from schemas.retraining import Cost, ModelAge, Retraining, Rollout
from streams.rollout.triggers import DAY_MS, Facts, Quality, decide

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
QUIET = Facts(
    now_ms=NOW_MS,
    champion="0123456789ab",
    announced_ms=NOW_MS - 10 * DAY_MS,
    trained_ms=NOW_MS - 10 * DAY_MS - 1,
    examples=99,
    newest=Quality(rows=2_000, accuracy=0.9, log_loss=0.3),
    first=Quality(rows=2_000, accuracy=0.91, log_loss=0.25),
    estimated=Quality(rows=2_000, accuracy=0.9, log_loss=0.3),
    predictions_per_s=10.0,
)
RULES = [
    ("schedule", Retraining(every="11d"), {"trained_ms": NOW_MS - 11 * DAY_MS}),
    ("volume", Retraining(examples=100), {"examples": 100}),
    ("drift", Retraining(drift=True), {"alarms": 1}),
    ("age", Retraining(model_age="11d"), {"trained_ms": NOW_MS - 11 * DAY_MS}),
    ("quality", Retraining(accuracy_min=0.9), {"newest": Quality(rows=9, accuracy=0.8, log_loss=0.3)}),
    ("quality", Retraining(log_loss_max=0.3), {"newest": Quality(rows=9, accuracy=0.9, log_loss=0.4)}),
    ("estimated", Retraining(accuracy_min=0.9), {"estimated": Quality(rows=9, accuracy=0.8, log_loss=0.3)}),
    # 0.05 nats * 10 predictions/s * 86,400 s * 0.001 = 43.2
    ("cost", Retraining(cost=Cost(per_training=44.0, per_nat=0.001, horizon="1d")),
     {"newest": Quality(rows=9, accuracy=0.9, log_loss=0.302)}),
]  # fmt: skip


@pytest.mark.parametrize(("word", "declared", "more"), RULES)
def test_each_rule_is_due_by_itself_and_not_before(
    word: str, declared: Retraining, more: dict[str, object]
) -> None:
    assert decide(declared, QUIET).code == "quiet"
    due = decide(declared, replace(QUIET, **more))
    assert due.train
    assert word in due.reason
    assert due.numbers["champion"] == "0123456789ab"


@pytest.mark.parametrize(("code", "more"), [
    ("held", {"held": True}),
    ("rollout", {"rollout": "ba9876543210"}),
    ("gap", {"attempted_ms": NOW_MS - HOUR_MS + 1}),
    ("gap", {"announced_ms": NOW_MS - HOUR_MS + 1}),
    ("due", {"attempted_ms": NOW_MS - HOUR_MS}),
])  # fmt: skip
def test_what_is_due_waits_for_people_rollouts_and_the_gap(
    code: str, more: dict[str, object]
) -> None:
    due = decide(Retraining(examples=100), replace(QUIET, examples=100, **more))
    assert (due.code, due.train) == (code, code == "due")
    assert "volume: 100 new examples of 100" in due.reason


def test_a_schedule_counts_from_the_last_attempt_even_if_it_came_to_nothing() -> None:
    declared = Retraining(every="2d")
    assert decide(declared, QUIET).train
    assert not decide(declared, replace(QUIET, attempted_ms=NOW_MS - DAY_MS)).train


def test_what_is_not_known_starts_nothing() -> None:
    declared = Retraining(
        accuracy_min=0.99, model_age="1s", cost=Cost(per_training=1e-9, per_nat=1)
    )
    unknown = replace(QUIET, trained_ms=None, newest=None, first=None, estimated=None)
    assert decide(declared, unknown).code == "quiet"


@pytest.mark.parametrize(("more", "said"), [
    ({"retraining": Retraining()}, "nothing would ever start one"),
    ({"retraining": Retraining(every="tomorrow")}, "retraining.every: 'tomorrow' is no duration"),
    ({"retraining": Retraining(examples=0)}, "examples=0 must be a number of at least 1"),
    ({"retraining": Retraining(drift=True, gap="0s")}, "retraining.gap"),
    ({"retraining": Retraining(accuracy_min=90)}, "accuracy_min=90 must lie between 0 and 1"),
    ({"retraining": Retraining(cost=Cost(per_training=0, per_nat=1))}, "per_training=0"),
    ({"retraining": "daily"}, "'daily' says no when"),
    ({"rollout": Rollout(shift_max=1.5)}, "shift_max=1.5 must lie between 0 and 1"),
    ({"rollout": Rollout(stage_s_min=-1.0)}, "stage_s_min=-1.0 must be a number of at least 0"),
    ({"rollout": Rollout(step_rows=10, rows_max=5)}, "step_rows=10 is more than rows_max=5"),
    ({"model_age": ModelAge(limit="30 days")}, "model_age.limit: '30 days' is no duration"),
    ({"model_age": ModelAge(limit="30d", then="panic")}, "then='panic' must be 'alarm' or 'prior'"),
])  # fmt: skip
def test_a_wrong_declaration_says_what_to_write(more: dict[str, object], said: str) -> None:
    with pytest.raises(PipelineError, match=r"test_triggers\.py") as raised:
        Pipeline(
            name="shop", key="user", features=[numeric("price")], target=label("bought"), **more
        )
    assert said in str(raised.value)
