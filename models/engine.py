"""The model that serves: scores batches, and is swapped between two of them without waiting.

Imports torch, numpy and the error tree only, so that it runs on a bare GPU machine too. A worker
calls ``torch.set_num_threads(1)`` once at start-up: one process per core is the predictable layout,
and for models of this size a second thread costs more than it brings.

Shape letters: B = rows, F = numeric features, C = categories.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.inference import WARM_UP_ROWS, Choice, Eager
from models.protocol import ModelInput
from schemas.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model version in memory, ready to serve.

    Attributes:
        version: Its name in the registry.
        epoch: The announcement that made it serve; only grows within a pipeline.
        trained_at_ms: End of its training, Unix epoch: its age is measured from here.
        module: ``module(numeric_BF, category_BC)`` gives probabilities ``[B]``.
        encode: Turns feature columns into the module's input; belongs to this version because its
            vocabularies do.
        device: Where the module's weights are.
        choice: How the module is run, and what that was chosen from; None is eager torch.
    """

    version: str
    epoch: int
    trained_at_ms: int
    module: nn.Module
    encode: Callable[[Any], ModelInput]
    device: str = "cpu"
    choice: Choice | None = None

    def score(self, features: Any) -> npt.NDArray[np.float32]:
        """Probabilities for feature columns, float32 ``[B]``, in the order of the rows.

        Raises:
            ModelError: the model cannot use these features, or its answer is no probability.
        """
        return self.score_input(self.encode(features))

    def score_input(self, batch: ModelInput) -> npt.NDArray[np.float32]:
        """Probabilities for an encoded batch, float32 ``[B]``.

        Raises:
            ModelError: an answer is not a number from 0 to 1.
        """
        run = self.choice.inference if self.choice else Eager(self.module, device=self.device)
        scores = run(batch)
        rows = len(scores)
        if rows and not 0.0 <= scores.min() <= scores.max() <= 1.0:  # NaN fails every comparison
            bad = np.count_nonzero(~((scores >= 0.0) & (scores <= 1.0)))
            raise ModelError(
                f"could not score: version={self.version} gave {bad} of {rows} answers that are "
                "no probability"
            )
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """Every version that has work to do at one moment of a rollout; never changed, only replaced.

    Attributes:
        epoch: The announcement that says so.
        champion: Answers, but for what the canary answers.
        canary: Answers `share` percent of the keys; None: there is none.
        share: 0 to 100.
        salt: Makes the keys of this rollout others than those of the next.
        shadow: Answers what the champion answers, and nobody sees it; None: there is none.
    """

    epoch: int
    champion: Loaded
    canary: Loaded | None = None
    share: int = 0
    salt: str = ""
    shadow: Loaded | None = None


class Engine:
    """Holds the models that serve, and swaps them without a batch ever waiting.

    A reader takes `arms` once per batch and finishes on them, so each arm of a batch is scored by
    exactly one version. Replacing that reference is the swap; it is one attribute write, which is
    why there is a lock for writers and none for readers.
    """

    def __init__(self, initial: Loaded | Arms) -> None:
        self._arms = _as_arms(initial)
        self._swap_lock = Lock()

    @property
    def arms(self) -> Arms:
        """The versions that answer now. Take them once per batch."""
        return self._arms

    @property
    def serving(self) -> Loaded:
        """The champion."""
        return self._arms.champion

    def offer(self, challenger: Loaded | Arms) -> None:
        """Serve ``challenger`` from the next batch on.

        Raises:
            ModelError: its epoch is not higher. Announcements are redelivered by design, so this is
                routine: log it, go on.
        """
        offered = _as_arms(challenger)
        with self._swap_lock:
            current = self._arms
            if offered.epoch <= current.epoch:
                raise ModelError(
                    f"model update ignored: version={offered.champion.version} "
                    f"epoch={offered.epoch} is not newer than serving "
                    f"version={current.champion.version} epoch={current.epoch}"
                )
            self._arms = offered


def _as_arms(given: Loaded | Arms) -> Arms:
    return given if isinstance(given, Arms) else Arms(epoch=given.epoch, champion=given)


def warm_up(loaded: Loaded, *, num_numeric: int, num_category: int) -> None:
    """Answer batches of zeros in the usual sizes, so that the first real one is not the slow one.

    Raises:
        ModelError: the model cannot answer them: it must not be offered.
    """
    for rows in WARM_UP_ROWS:
        batch = ModelInput(
            torch.zeros(rows, num_numeric), torch.zeros(rows, num_category, dtype=torch.int64)
        )
        try:
            loaded.score_input(batch)
        except (RuntimeError, IndexError, TypeError, ValueError) as cause:
            raise ModelError(f"could not warm up version={loaded.version}: {cause}") from cause
