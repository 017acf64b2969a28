"""What is served: the deep model, the online learner, or both together, by the declaration.

| champion | score |
|---|---|
| frozen | what the deep model says |
| online | what the learner of the event's shard says |
| hybrid | the deep model's answer, corrected by the learner's; exactly: `models.hybrid` |

Until the first snapshot of a shard has arrived, all three are the deep model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.hybrid import OnlineModel
from models.protocol import FeatureColumns
from models.rows import part
from schemas.pipeline import Pipeline

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Served:
    """The online model of one shard as it serves; never learns.

    Attributes:
        model: Its state at ``position``.
        position: Offset in the examples topic up to which it has learned.
    """

    model: OnlineModel
    position: int


class Champion:
    """Blends the answers of a batch. `offer` replaces one reference, so a batch is answered by
    exactly one snapshot and never waits; one thread answers at a time.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._online = pipeline.champion == "online"
        learner = pipeline.learner
        self._single = learner is not None and learner.shards == "single"
        self._served: dict[int, Served] = {}

    def offer(self, shard: int, served: Served) -> None:
        """Serve ``served`` from the next batch on."""
        self._served[shard] = served

    def answer(
        self,
        parts: Sequence[tuple[int, int]],
        columns: FeatureColumns,
        model_scores: Scores,
        version: str,
    ) -> tuple[Scores, list[int]]:
        """The scores to serve, float32 ``[B]``, and for each part the position of the learner that
        had a share in them; -1 if none had.

        ``parts`` are partitions of the events topic and how many of the rows, in order, are theirs.
        Where the learner fails, the deep score is served.
        """
        scores, positions, start = model_scores.copy(), [], 0
        for partition, rows in parts:
            served = self._served.get(0 if self._single else partition)
            positions.append(-1 if served is None else served.position)
            if served is not None and rows:
                here = slice(start, start + rows)
                own = part(columns, start, start + rows)
                scores[here] = self._blend(served.model, own, model_scores[here], version)
            start += rows
        return scores, positions

    def _blend(
        self, model: OnlineModel, columns: FeatureColumns, model_scores: Scores, version: str
    ) -> Scores:
        if self._online:
            return model.learner.score(columns).astype(np.float32)
        return model.hybrid(columns, model_scores, version)
