"""A model that is too old: an alarm, or the prior instead of it, as the pipeline declares.

The age is measured from the end of its training by the worker's clock, batch by batch; so a
pipeline whose trainings fail does not go on unnoticed with what was learned long ago.
"""

from collections import defaultdict
from collections.abc import Callable

import structlog

from models.dense import CONSTANT, build
from models.engine import Arms, Loaded
from models.features import Encoder
from schemas.features import FeatureSpec, split
from schemas.pipeline import Pipeline
from schemas.retraining import ModelAge

log = structlog.get_logger()

PRIOR = "prior"
"""The version that predictions name when the declared prior was served."""
SAY_MS = 60_000
"""Between two lines in the log."""


def prior(pipeline: Pipeline) -> Loaded:
    """What answers the declared prior to everything. It never ages."""
    numeric, category = split(pipeline.features)
    spec = FeatureSpec(numeric=numeric, category=category, vocabularies=tuple(() for _ in category))
    return Loaded(
        version=PRIOR,
        epoch=0,
        trained_at_ms=1 << 62,
        module=build(CONSTANT, {"probability": pipeline.target.prior}),
        encode=Encoder(spec),
    )


class Aging:
    """Decides for each batch whether the champion may still answer."""

    def __init__(self, pipeline: Pipeline, counters: "defaultdict[str, float]") -> None:
        self._declared: ModelAge | None = pipeline.model_age
        self._prior: Callable[[], Loaded] = lambda: prior(pipeline)
        self._loaded: Loaded | None = None
        self._counters = counters
        self._said_ms = 0

    def allowed(self, arms: Arms, *, rows: int, now_ms: int) -> Arms:
        """``arms``, or the prior alone if the champion is too old and that is what was declared.

        A canary answers its keys whatever the champion's age: it is newer.
        """
        declared = self._declared
        if declared is None or now_ms - arms.champion.trained_at_ms <= declared.limit_ms:
            return arms
        self._counters["model_too_old_rows"] += rows
        if now_ms - self._said_ms >= SAY_MS:
            self._said_ms = now_ms
            log.warning(
                "model too old",
                version=arms.champion.version,
                age_h=round((now_ms - arms.champion.trained_at_ms) / 3_600_000, 1),
                limit=declared.limit,
                then=declared.then,
            )
        if declared.then == "alarm":
            return arms
        if self._loaded is None:
            self._loaded = self._prior()
        return Arms(
            epoch=arms.epoch,
            champion=self._loaded,
            canary=arms.canary,
            share=arms.share,
            salt=arms.salt,
        )
