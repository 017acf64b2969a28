"""The contract between serving and training: which features, in which order, known how.

A pipeline declares its features. A trainer freezes them into a `FeatureSpec`: the same features
plus what was learned from the training rows (the vocabulary of each category). The spec travels in
the manifest of every model version, so a model is always served with exactly the features it was
trained on. Its digest names it.
"""

import hashlib
import re
from collections.abc import Sequence

import msgspec

NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}\Z")
"""Field names: they become JSON keys, Python attributes and SQL columns."""

FLOAT32_OVERFLOW = 3.4028235677973366e38
"""2**128 - 2**103: from here on a number rounds to no finite float32 (IEEE 754) and would reach the
model as infinity."""


class Numeric(msgspec.Struct, frozen=True, kw_only=True, tag="numeric"):
    """A number. Models see it as float32.

    Attributes:
        name: The field of the event that holds it.
        missing: What an absent field or a JSON ``null`` means. None: such an event is rejected.
    """

    name: str
    missing: float | None = None


class Category(msgspec.Struct, frozen=True, kw_only=True, tag="category"):
    """A word out of a limited set. Models see its index in the vocabulary, 0 for any other word.

    Attributes:
        name: The field of the event that holds it.
        missing: What an absent field or a JSON ``null`` means. None: such an event is rejected.
        vocabulary_max: How many words the trainer keeps, the most frequent first.
    """

    name: str
    missing: str | None = None
    vocabulary_max: int = 256


Feature = Numeric | Category


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Features frozen for one model version.

    Attributes:
        numeric: Numeric features in the order of the model's input columns.
        category: Categories in the order of the model's embedding tables.
        vocabularies: For each category its words; the word at position i has index i + 1.
            Index 0 is every other word.
    """

    numeric: tuple[Numeric, ...]
    category: tuple[Category, ...]
    vocabularies: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        """Refuse a spec whose parts cannot belong together."""
        if len(self.vocabularies) != len(self.category):
            raise ValueError(
                f"could not build FeatureSpec: {len(self.category)} categories but "
                f"{len(self.vocabularies)} vocabularies"
            )

    @property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of this spec."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...]:
        """All feature names: the numeric ones, then the categories."""
        return (*(f.name for f in self.numeric), *(f.name for f in self.category))


def split(features: Sequence[Feature]) -> tuple[tuple[Numeric, ...], tuple[Category, ...]]:
    """The numeric features and the categories, each in declared order."""
    return (
        tuple(f for f in features if isinstance(f, Numeric)),
        tuple(f for f in features if isinstance(f, Category)),
    )
