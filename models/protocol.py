"""What passes between the parts of this package: the input of every model, and what learns online.

Shape letters, used in all of `models`: B = rows of a batch, F = numeric features, C = categories,
D = width of an embedding, H = width of a hidden layer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # both are only named here; a bare GPU machine has no pyarrow
    import pyarrow as pa
    import torch

Floats = npt.NDArray[np.float64]


class ModelInput(NamedTuple):
    """A batch as a module takes it.

    Shape:
        numeric_BF: float32, finite, raw values: scaling is the module's own business.
        category_BC: int64, index of the word in the category's vocabulary, 0 for any other word.
    """

    numeric_BF: "torch.Tensor"
    category_BC: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class FeatureColumns:
    """The features of B rows as they were sent, before any model sees them.

    Attributes:
        numeric: Names of the F columns of ``numeric_BF``.
        category: Names of the C categories.
        numeric_BF: float32, C-contiguous, finite; to a `Learner`, NaN means that it is missing.
        words: pa.StringArray of B * C words without nulls, row after row; to a `Learner`, null
            means that it is missing.
    """

    numeric: tuple[str, ...]
    category: tuple[str, ...]
    numeric_BF: npt.NDArray[np.float32]
    words: "pa.StringArray"

    @property
    def num_rows(self) -> int:
        """B."""
        return int(self.numeric_BF.shape[0])

    def slice(self, start: int, stop: int) -> "FeatureColumns":
        """Rows ``start`` to ``stop`` without the last, sharing memory with these."""
        if start == 0 and stop == self.num_rows:
            return self
        width = len(self.category)
        words = self.words.slice(start * width, (stop - start) * width)
        return FeatureColumns(self.numeric, self.category, self.numeric_BF[start:stop], words)

    def words_of(self, name: str) -> "pa.StringArray":
        """The B words of one category."""
        import pyarrow as pa

        position = self.category.index(name)
        return self.words.take(pa.array(np.arange(position, len(self.words), len(self.category))))


class Learner(Protocol):
    """Learns from rows one after the other, in the order in which it gets them.

    The state after N rows depends on these rows, their order, labels and weights, and on the
    declaration with its seed; on nothing else. Not on a clock, not on the process, not on how the
    rows were cut into batches, and not on what was scored in between. So a learner that is restored
    from a snapshot and shown the rows since is the learner that never stopped.

    Every batch may name other features than the one before: new ones are learned from then on, and
    absent or missing ones say nothing. Inputs are never changed. Not for concurrent use.
    """

    @property
    def rows_learned(self) -> int:
        """Rows with a weight that it was given to learn since it was made."""

    @property
    def rows_refused(self) -> int:
        """Of these, rows that taught it nothing: they raised an error, or rounded to no repeat."""

    def score(self, columns: FeatureColumns) -> Floats:
        """What it says about each row now, float64 ``[B]``; it learns nothing from it.

        A probability from 0 to 1 of a binary target, a finite number otherwise. The declared prior
        where it cannot tell. The same rows one by one and all at once agree to 1e-6.
        """

    def score_then_learn(self, columns: FeatureColumns, labels: Floats, weights: Floats) -> Floats:
        """What it said about each row before it learned that row, float64 ``[B]``.

        Prequential order (Gama et al., 2013): score row 1, learn row 1, score row 2, ... A weight
        of 2 counts like the row twice. Of 0: it is scored in its place, and that is all; its label
        may be NaN. Learners without weights learn a row ``round(weight)`` times.

        Raises:
            ValueError: labels or weights are not ``[B]``, a weight is negative, or a label with a
                weight is not finite.
        """

    def clone(self) -> "Learner":
        """A new one of the same declaration that has learned nothing."""

    def snapshot(self) -> bytes:
        """Everything, random state included, as bytes for `restore`. Not canonical: two equal
        learners may give other bytes; compare `digest`.
        """

    def restore(self, content: bytes) -> None:
        """Become the learner that gave ``content``. Check a signature over it first.

        Raises:
            ModelError: it is no snapshot of this kind of learner; nothing has changed then.
        """

    def digest(self) -> str:
        """SHA-256 of the state in a canonical form: equal if and only if the weights, counts and
        random states are, bit by bit, also after `restore` and in another process.
        """
