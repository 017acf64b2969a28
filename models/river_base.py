"""What River's learners share: rows one by one, order, counts, snapshots.

River keeps its promises row by row, so rows are learned one at a time: its ``learn_many`` is slower
below about 100 rows, and how rows were cut into batches would show in the weights.
"""

import io
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import structlog
from river import proba
from river.tree.splitter.qo_splitter import Slot

from models.digest import canonical_digest
from models.protocol import FeatureColumns, Floats
from models.rows import check_labels, part, stretches
from models.unpickling import unpickle
from schemas.errors import ModelError
from schemas.pipeline import Target

log = structlog.get_logger()

Settings = dict[str, Any]
"""By name, complete and checked by `models.online`; River takes each as another type."""

REPEATS_MAX = 16
"""How often a learner without weights learns one row at most."""


class RiverLearner(ABC):
    """What all of them share: rows, order, counts, snapshots. Contract: `models.protocol.Learner`.

    A row on which River raises an error is counted in `rows_refused`; what it had changed by then
    stays changed, in every replay alike.
    """

    weighted: ClassVar[bool] = False
    """Whether `_learn` takes a weight into account."""

    def __init__(self, settings: Settings, target: Target) -> None:
        self._settings, self._target = settings, target
        self._binary = target.kind == "binary"
        self._learned = self._refused = 0
        self._parts: tuple[Any, ...] = self._make(settings)

    @abstractmethod
    def _make(self, settings: Settings) -> tuple[Any, ...]:
        """River's objects, untrained: the whole state."""

    @abstractmethod
    def _rows(self, columns: FeatureColumns) -> Sequence[Any]:
        """One object per row, as `_say` and `_learn` take them."""

    @abstractmethod
    def _say(self, row: Any) -> float:
        """What it says about a row; NaN where it cannot tell."""

    @abstractmethod
    def _learn(self, row: Any, label: float, weight: float) -> None:
        """Learn one row."""

    @property
    def rows_learned(self) -> int:
        """See `Learner`."""
        return self._learned

    @property
    def rows_refused(self) -> int:
        """See `Learner`."""
        return self._refused

    def score(self, columns: FeatureColumns) -> Floats:
        """See `Learner`."""
        return np.array([self._answer(row) for row in self._rows(columns)], np.float64)

    def score_then_learn(self, columns: FeatureColumns, labels: Floats, weights: Floats) -> Floats:
        """See `Learner`."""
        check_labels(columns, labels, weights)
        scores = np.empty(columns.num_rows)
        for start, stop, learned in stretches(weights):
            here = slice(start, stop)
            if learned:
                rows = self._rows(part(columns, start, stop))
                pairs = zip(rows, labels[here].tolist(), weights[here].tolist(), strict=True)
                for index, (row, label, weight) in enumerate(pairs, start):
                    scores[index] = self._answer(row)
                    self._take(row, label, weight)
            else:
                scores[here] = self._look(part(columns, start, stop))
        return scores

    def _look(self, columns: FeatureColumns) -> Floats:
        """`score` where what River notes about being asked does no harm: in the order of rows."""
        return RiverLearner.score(self, columns)

    def clone(self) -> "RiverLearner":
        """See `Learner`."""
        return type(self)(self._settings, self._target)

    def snapshot(self) -> bytes:
        """See `Learner`."""
        content = io.BytesIO()
        _Pickler(content, protocol=5).dump((self._learned, self._refused, self._parts))
        return content.getvalue()

    def restore(self, content: bytes) -> None:
        """See `Learner`."""
        try:
            learned, refused, parts = unpickle(content)
            kinds = [type(part) for part in parts]
        except (TypeError, ValueError) as cause:
            raise ModelError(f"could not read the state of a learner: {cause}") from cause
        if kinds != [type(part) for part in self._parts]:
            raise ModelError(f"could not read the state of a {type(self).__name__}: it is {kinds}")
        self._learned, self._refused, self._parts = learned, refused, parts
        self._restored()

    def digest(self) -> str:
        """See `Learner`."""
        return canonical_digest((self._learned, self._refused, self._parts), _reduced)

    def _restored(self) -> None:  # noqa: B027  # most keep nothing that is derived
        """Called when `_parts` has been replaced or has learned."""

    def _answer(self, row: Any) -> float:
        try:
            said = self._say(row)
        except (ArithmeticError, KeyError, TypeError, ValueError, IndexError) as error:
            log.debug("learner could not score a row", error=repr(error))
            said = math.nan
        if not math.isfinite(said):
            return self._target.prior
        return min(max(said, 0.0), 1.0) if self._binary else said

    def _take(self, row: Any, label: float, weight: float) -> None:
        self._learned += 1
        repeats = 1 if self.weighted else min(round(weight), REPEATS_MAX)
        if not repeats:
            self._refused += 1
            return
        self._restored()
        try:
            for _ in range(repeats):
                self._learn(row, label, weight)
        except (ArithmeticError, KeyError, TypeError, ValueError, IndexError) as error:
            self._refused += 1
            log.debug("learner could not learn a row", error=repr(error), label=label)


def _reduced(value: Any) -> Any:
    """Leave out what is no state: generators that nobody seeded, and a method.

    River gives each Gaussian of a leaf one to draw samples with. Nothing here draws any; they start
    from the system's randomness, and were 95 percent of a forest's bytes.
    """
    if isinstance(value, proba.base.Distribution) and value.seed is None:
        return type(value), (), {n: v for n, v in vars(value).items() if n != "_rng"}
    if isinstance(value, Slot):  # its bound method would be read back by getattr, which reads all
        names = [name for name in Slot.__slots__ if name != "_update_estimator"]
        return Slot, (0.0, 0.0), (None, {name: getattr(value, name) for name in names})
    return NotImplemented


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return _reduced(value)
