"""Judges a rollout: from rows with a label to the next step, with a declared budget of errors.

Champion and challenger are compared on the same rows (paired), which needs far fewer of them than
two groups. Five sequential tests (`models.sequential`) run beside each other from the first row to
the end of the rollout:

| test | mean that must not be above 0 | says |
|---|---|---|
| loss | log-loss of the challenger less that of the champion | roll back |
| errors | the canary did not answer its key, less what is allowed | roll back |
| higher, lower | shift of the scores, less what is allowed | roll back |
| better | log-loss of the champion less that of the challenger | promote |

The first four share the budget of wrong rollbacks. A challenger that is neither is taken back when
its rows are used up: that is no alarm, its reason is "no difference".

Not promised: anything about a model whose answers change the labels (a refused customer never
defaults), because paired rows do not show that; and the online learner's part of a hybrid, because
the deep models are compared alone.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.rollout import SHARES
from models.sequential import Evidence
from schemas.manifest import Announcement

Floats = npt.NDArray[np.float64]
Step = Literal["wait", "widen", "promote", "rollback"]

SCORE_MIN = 1e-6
"""Scores are published with six decimals; closer to 0 and 1 they are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePolicy:
    """What is asked of a challenger.

    Attributes:
        wrong_rollback_max: Chance of a rollback of a challenger that is no worse, over the whole
            rollout and all its looks.
        wrong_promotion_max: The same for the promotion of one that is no better.
        step_rows: Labelled rows before each step.
        rows_max: Labelled rows after which a challenger without a difference is taken back.
        loss_clip: Differences of log-loss in nats are cut here: what is tested is their mean after
            that.
        errors_max: Share of its keys that a canary may leave to the champion.
        shift_max: By how much scores may be higher or lower on average.
        stage_s_min: Time that every stage lasts at least, however many labels are known: faults
            of a canary show while it answers. A rollback does not wait.
    """

    wrong_rollback_max: float = 0.05
    wrong_promotion_max: float = 0.05
    step_rows: int = 1_000
    rows_max: int = 200_000
    loss_clip: float = 1.0
    errors_max: float = 0.01
    shift_max: float = 0.1
    stage_s_min: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what no rollout could pass or fail."""
        chances = (self.wrong_rollback_max, self.wrong_promotion_max)
        shares = (self.errors_max, self.shift_max)
        if (
            not all(0.0 < chance < 1.0 for chance in chances)
            or not all(0.0 <= share < 1.0 for share in shares)
            or not 1 <= self.step_rows <= self.rows_max
            or not self.loss_clip > 0.0
            or not self.stage_s_min >= 0.0
        ):
            raise ValueError(
                f"could not use {self}: chances lie between 0 and 1, step_rows between 1 and "
                "rows_max"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What should happen next, why, and what it rests on."""

    step: Step
    reason: str
    numbers: dict[str, float]


class RolloutJudge:
    """One rollout from its first row to its end. Its state depends on the rows and their order."""

    def __init__(self, policy: JudgePolicy) -> None:
        self._policy = policy
        self._tests = {name: Evidence() for name in ("loss", "errors", "higher", "lower", "better")}
        self._rows = 0
        self._stage: tuple[str, int] | None = None
        self._stage_began_rows = 0

    def observe(self, labels: Floats, champion: Floats, challenger: Floats) -> None:
        """More rows whose truth is known, with what both versions say about them."""
        clip = self._policy.loss_clip
        worse = _log_loss(labels, challenger) - _log_loss(labels, champion)
        worse = np.clip(worse / clip, -1.0, 1.0)
        shift, allowed = challenger - champion, self._policy.shift_max
        scale = 1.0 + allowed
        self._tests["loss"].observe(worse)
        self._tests["better"].observe(-worse)
        self._tests["higher"].observe((shift - allowed) / scale)
        self._tests["lower"].observe((-shift - allowed) / scale)
        self._rows += len(labels)

    def observe_answers(self, failed: npt.NDArray[np.bool_]) -> None:
        """For rows of the canary's keys: whether the champion had to answer."""
        self._tests["errors"].observe(failed.astype(np.float64) - self._policy.errors_max)

    def decide(self, announced: Announcement) -> Opinion:
        """The next step of the rollout in ``announced``. Held ones wait, whatever happens."""
        if (stage := (announced.stage, announced.share)) != self._stage:
            self._stage, self._stage_began_rows = stage, self._rows
        step, reason = self._step(announced)
        if announced.held and step != "wait":
            step, reason = "wait", f"held by a person; otherwise {step}: {reason}"
        return Opinion(step=step, reason=reason, numbers=self._numbers())

    def _step(self, announced: Announcement) -> tuple[Step, str]:
        policy = self._policy
        tests = ("loss", "errors", "higher", "lower")
        limit = policy.wrong_rollback_max / len(tests)
        for name in tests:
            if self._tests[name].chance <= limit:
                return "rollback", (
                    f"{_WHY[name]}, beyond doubt: chance {self._tests[name].chance:.2g} after "
                    f"{self._rows} rows"
                )
        full = self._rows - self._stage_began_rows >= policy.step_rows
        if announced.share < SHARES[-1]:
            return ("widen", f"no harm in {self._rows} rows") if full else ("wait", "more rows")
        if full and self._tests["better"].chance <= policy.wrong_promotion_max:
            gain = self._tests["better"].mean * policy.loss_clip
            return "promote", (
                f"log-loss lower by {gain:.4f} nats, beyond doubt: chance "
                f"{self._tests['better'].chance:.2g} after {self._rows} rows"
            )
        if self._rows >= policy.rows_max:
            return "rollback", f"no difference in {self._rows} rows"
        return "wait", "no difference yet"

    def _numbers(self) -> dict[str, float]:
        found: dict[str, float] = {"rows": float(self._rows)}
        for name, test in self._tests.items():
            found |= {f"{name}_mean": test.mean, f"{name}_chance": test.chance}
        return found


_WHY = {
    "loss": "log-loss is higher than the champion's",
    "errors": "the canary leaves too many of its keys to the champion",
    "higher": "scores are higher than allowed",
    "lower": "scores are lower than allowed",
}


def _log_loss(labels: Floats, scores: Floats) -> Floats:
    kept = np.clip(scores, SCORE_MIN, 1.0 - SCORE_MIN)
    loss: Floats = -(labels * np.log(kept) + (1.0 - labels) * np.log1p(-kept))
    return loss
