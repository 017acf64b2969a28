"""The modules a manifest may name: built from its architecture and parameters, never from code.

Shape letters: B = rows, F = numeric features, C = categories, D = width of an embedding, W = words
of all vocabularies with one place per category for "other".
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.foreign import ONNX, OnnxGraph
from schemas.errors import ModelError
from schemas.features import FeatureSpec

EMBEDDING_MLP = "embedding-mlp"
CONSTANT = "constant"

STD_MIN = 1e-6
"""A feature that never varied is only centred: dividing by its spread would blow up noise."""


class EmbeddingMLP(nn.Module):
    """Numbers clipped and scaled, words embedded, then two hidden layers.

    Scaling lives in buffers of the module, so it travels with the weights and serving cannot scale
    differently from training. Numbers are clipped to the range of the training rows without their
    outermost tails: one absurd value of a sender must not drown all other features. A clipped
    number is also given as a signed logarithm, which resolves the few minutes around zero that a
    scale made for hours would blur.
    """

    def __init__(
        self,
        *,
        num_numeric: int,
        vocabulary_sizes: list[int],
        embedding_width: int = 8,
        hidden: int = 64,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.low_F: Tensor
        self.high_F: Tensor
        self.mean_F: Tensor
        self.std_F: Tensor
        self.start_C: Tensor
        for name, value in (("low_F", -1e30), ("high_F", 1e30), ("mean_F", 0.0), ("std_F", 1.0)):
            self.register_buffer(name, torch.full((num_numeric,), value))
        # All vocabularies share one table: one look-up per batch, not one per category.
        sizes = torch.tensor([size + 1 for size in vocabulary_sizes], dtype=torch.int64)
        self.register_buffer("start_C", sizes.cumsum(0) - sizes)
        self.embedding = nn.Embedding(max(1, int(sizes.sum())), embedding_width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        width = 2 * num_numeric + embedding_width * len(vocabulary_sizes)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, 1),
        )

    @torch.no_grad()
    def learn_scale(self, numeric_BF: Tensor, *, tail: float = 0.001) -> None:
        """Take range, mean and spread from the training rows; ``tail`` of each side is clipped."""
        ordered_BF = numeric_BF.sort(dim=0).values
        last = len(ordered_BF) - 1
        self.low_F.copy_(ordered_BF[round(last * tail)])
        self.high_F.copy_(ordered_BF[round(last * (1.0 - tail))])
        clipped_BF = numeric_BF.clamp(self.low_F, self.high_F).double()
        self.mean_F.copy_(clipped_BF.mean(0))
        self.std_F.copy_(clipped_BF.std(0, correction=0).clamp_min(STD_MIN))

    def logits(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Log-odds, float32 ``[B]``."""
        return self.logits_of(numeric_BF, self.embedded(category_BC))

    def embedded(self, category_BC: Tensor) -> Tensor:
        """Where the words lie, float32 ``[B, C, D]``."""
        found: Tensor = self.embedding(category_BC + self.start_C)
        return found

    def logits_of(self, numeric_BF: Tensor, embedded_BCD: Tensor) -> Tensor:
        """Log-odds, float32 ``[B]``; words may lie anywhere, also where no word is."""
        clipped_BF = numeric_BF.clamp(self.low_F, self.high_F)
        scaled_BF = (clipped_BF - self.mean_F) / self.std_F
        # Smooth at zero like asinh, which torch does not vectorise: 14 against 51 us for 1024 rows.
        # (`copysign` would save a product, but no ONNX exporter knows it.)
        signed_log_BF = clipped_BF.abs().log1p() * clipped_BF.sign()
        inputs = torch.cat([scaled_BF, signed_log_BF, embedded_BCD.flatten(1)], dim=1)
        answer: Tensor = self.layers(inputs)
        return answer.squeeze(1)

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities, float32 ``[B]``."""
        return torch.sigmoid(self.logits(numeric_BF, category_BC))


class Constant(nn.Module):
    """The same probability for every row: what serves until there is something to learn from."""

    def __init__(self, *, probability: float) -> None:
        super().__init__()
        self.probability: Tensor
        self.register_buffer("probability", torch.tensor(probability, dtype=torch.float32))

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities, float32 ``[B]``."""
        return self.probability.expand(numeric_BF.shape[0])


_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    EMBEDDING_MLP: EmbeddingMLP,
    CONSTANT: Constant,
    ONNX: OnnxGraph,
}


def build(architecture: str, parameters: Mapping[str, Any]) -> nn.Module:
    """An untrained module in evaluation mode: ``module(numeric_BF, category_BC)`` gives ``[B]``.

    Raises:
        ModelError: no such architecture in this release, or it does not take these parameters.
    """
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"could not build a model: architecture={architecture!r} is not one of "
            f"{', '.join(sorted(_ARCHITECTURES))}"
        )
    try:
        return _ARCHITECTURES[architecture](**parameters).eval()
    except (TypeError, ValueError, RuntimeError) as cause:
        raise ModelError(
            f"could not build a model: architecture={architecture} does not take "
            f"parameters={dict(parameters)!r}: {cause}"
        ) from cause


def mlp_parameters(spec: FeatureSpec) -> dict[str, Any]:
    """The parameters of an `EmbeddingMLP` for these features."""
    return {
        "num_numeric": len(spec.numeric),
        "vocabulary_sizes": [len(words) for words in spec.vocabularies],
    }
