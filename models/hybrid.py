"""The online model of one shard: the declared learner, and what corrects the deep model with it.

The corrector, exactly. For each version of the deep model it keeps three weights, and

    hybrid = sigmoid(a * logit(model_score) + b * logit(online_score) + c)

where ``model_score`` is what that version said and ``online_score`` what the learner says about the
same features. It starts at a = 1, b = 0, c = 0: the deep score as it is. So a model that has just
been swapped in is served unchanged until the first truths about *its own* predictions arrive: that
is what rebasing means here. Truths that come late for a version that no longer serves teach the
weights of that version, never those of its successor. The learner itself sees only features and
labels, so it needs no rebasing and is at its best the moment a new version arrives.

The weights follow a random walk and are tracked by an extended Kalman filter (dynamic logistic
regression, Penny and Roberts, 1999): few rows move them little, many rows as far as they should,
and they never stop following. Logits are clipped to `LOGIT_MAX`, so no single answer dominates.

Weights belong to a probability. A pipeline with a number as its target serves ``online`` or
``frozen``.
"""

import math
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from models.digest import canonical_digest
from models.online import make_learner
from models.protocol import FeatureColumns, Floats, Learner
from schemas.errors import ModelError
from schemas.pipeline import Pipeline

LOGIT_MAX = 12.0
"""Six digits of probability: what a prediction is rounded to."""
VERSIONS_MAX = 8
"""Versions whose weights are kept, the newest ones; truths about others teach the learner only."""
START_VARIANCE = 0.02
"""How sure the start is: about a hundred rows outweigh it."""
WALK_VARIANCE = 1e-6
"""How much the weights may wander per row: a thousand rows change a weight by some 0.03."""
VARIANCE_MAX = 1.0
"""Bounds what an idle direction can gather."""


@dataclass(slots=True)
class Corrector:
    """Weights for one version of the deep model, and how sure they are."""

    weights: list[float] = field(default_factory=lambda: [1.0, 0.0, 0.0])
    covariance: list[float] = field(
        default_factory=lambda: [START_VARIANCE, 0.0, 0.0, START_VARIANCE, 0.0, START_VARIANCE]
    )
    """Of a with a, b, c; of b with b, c; of c with c."""
    rows: int = 0

    def learn(self, deep: float, online: float, label: float, weight: float) -> float:
        """Learn one row of two logits; what the hybrid said about it before."""
        a, b, c = self.weights
        aa, ab, ac, bb, bc, cc = self.covariance
        said = _sigmoid(a * deep + b * online + c)
        aa, bb, cc = (min(v + WALK_VARIANCE, VARIANCE_MAX) for v in (aa, bb, cc))
        ga, gb, gc = (
            aa * deep + ab * online + ac,
            ab * deep + bb * online + bc,
            ac * deep + bc * online + cc,
        )
        curvature = max(said * (1.0 - said), 1e-4) * weight
        gain = 1.0 / (1.0 + curvature * (deep * ga + online * gb + gc))
        step = gain * weight * (label - said)
        shrink = gain * curvature
        self.weights = [a + step * ga, b + step * gb, c + step * gc]
        self.covariance = [
            aa - shrink * ga * ga,
            ab - shrink * ga * gb,
            ac - shrink * ga * gc,
            bb - shrink * gb * gb,
            bc - shrink * gb * gc,
            cc - shrink * gc * gc,
        ]
        self.rows += 1
        return said

    def say(self, deep: Floats, online: Floats) -> Floats:
        """The hybrid's probabilities for logits ``[B]``."""
        a, b, c = self.weights
        said: Floats = 1.0 / (1.0 + np.exp(-(a * deep + b * online + c)))
        return said


class _Content(msgspec.Struct, array_like=True):
    release: int
    correctors: list[tuple[str, list[float], list[float], int]]
    learner: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Content).decode


class OnlineModel:
    """Learner and correctors of one shard. Its state follows from the rows it was given, in order;
    see `models.protocol.Learner`. Not for concurrent use.

    Raises:
        PipelineError: the declared learner cannot be made.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        assert pipeline.learner is not None, pipeline.name
        self.learner: Learner = make_learner(pipeline.learner, pipeline.target)
        self.correctors: dict[str, Corrector] = {}
        self._binary = pipeline.target.kind == "binary"

    def take(
        self,
        columns: FeatureColumns,
        model_scores: npt.NDArray[np.float32],
        versions: list[str],
        labels: Floats,
        weights: Floats,
    ) -> dict[str, Floats]:
        """Score each row, then learn it if its weight is above 0.

        Returns:
            ``online`` and, for a binary target, ``hybrid``: float64 ``[B]``, what each said at the
            row's place, before it learned this row or a later one.

        Raises:
            ValueError: lengths differ, a weight is negative, a label with a weight is not finite.
        """
        online = self.learner.score_then_learn(columns, labels, weights)
        if not self._binary:
            return {"online": online}
        deep, own = logits(model_scores), logits(online)
        hybrid = np.empty(len(online))
        rows = zip(
            versions, deep.tolist(), own.tolist(), labels.tolist(), weights.tolist(), strict=True
        )
        for index, (version, x, z, label, weight) in enumerate(rows):
            corrector = self.correctors.get(version)
            if corrector is None and weight > 0.0:
                corrector = self._start(version)
            if corrector is None:
                hybrid[index] = _sigmoid(x)
            elif weight > 0.0:
                hybrid[index] = corrector.learn(x, z, label, weight)
            else:
                a, b, c = corrector.weights
                hybrid[index] = _sigmoid(a * x + b * z + c)
        return {"online": online, "hybrid": hybrid}

    def _start(self, version: str) -> Corrector:
        self.correctors[version] = Corrector()
        if len(self.correctors) > VERSIONS_MAX:
            del self.correctors[next(iter(self.correctors))]
        return self.correctors[version]

    def hybrid(
        self, columns: FeatureColumns, model_scores: npt.NDArray[np.float32], version: str
    ) -> npt.NDArray[np.float32]:
        """What the hybrid says now, float32 ``[B]``; the deep score itself where it knows nothing
        of ``version``.
        """
        corrector = self.correctors.get(version)
        if corrector is None:
            return model_scores
        said = corrector.say(logits(model_scores), logits(self.learner.score(columns)))
        answer: npt.NDArray[np.float32] = np.where(np.isfinite(said), said, model_scores).astype(
            np.float32
        )
        return answer

    def snapshot(self) -> bytes:
        """Everything, as bytes for `restore`."""
        found = [(v, c.weights, c.covariance, c.rows) for v, c in self.correctors.items()]
        return _encode(_Content(1, found, self.learner.snapshot()))

    def restore(self, content: bytes) -> None:
        """Become the model that gave ``content``. Check a signature over it first.

        Raises:
            ModelError: it is no snapshot of such a model; nothing has changed then.
        """
        try:
            found = _decode(content)
            correctors = {v: Corrector(w, p, rows) for v, w, p, rows in found.correctors}
            if found.release != 1 or any(
                len(c.weights) != 3 or len(c.covariance) != 6 for c in correctors.values()
            ):
                raise ValueError(f"release={found.release}")
        except (msgspec.MsgspecError, ValueError) as cause:
            raise ModelError(f"could not read the state of an online model: {cause}") from cause
        self.learner.restore(found.learner)
        self.correctors = correctors

    def digest(self) -> str:
        """Equal if and only if everything it learned is, bit by bit; see `Learner.digest`."""
        found = [(v, c.weights, c.covariance, c.rows) for v, c in self.correctors.items()]
        return canonical_digest((found, self.learner.digest()))


def logits(scores: npt.NDArray[np.floating]) -> Floats:
    """Log-odds of probabilities, float64, clipped to `LOGIT_MAX` on both sides."""
    p = np.asarray(scores, np.float64)
    with np.errstate(divide="ignore"):
        raw: Floats = np.log(p) - np.log1p(-p)
    return np.clip(raw, -LOGIT_MAX, LOGIT_MAX)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(min(max(-x, -700.0), 700.0)))
