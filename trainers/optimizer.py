"""AdamW, step by step: the same numbers as ``torch.optim.AdamW``.

Making one of those imports the compiler of torch, which would cost the first model 5 s of processor
time.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MEMORY_GRADIENT = 0.9
MEMORY_SQUARE = 0.999
EPSILON = 1e-8
"""The usual constants: how much of the mean gradient and of its mean square a step keeps."""


class AdamW:
    """Steps along the mean gradient, each weight scaled by the size of its own gradients.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2.
    """

    def __init__(self, weights: Sequence[Tensor], *, weight_decay: float) -> None:
        self._weights = list(weights)
        self._weight_decay = weight_decay
        self._means = [torch.zeros_like(weight) for weight in weights]
        self._squares = [torch.zeros_like(weight) for weight in weights]
        self._steps = 0

    def state(self) -> dict[str, Any]:
        """The memories, in the order of the weights, and the steps taken: what a checkpoint holds.

        The tensors are the optimizer's own: filling them is half of `resume`.
        """
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def resume(self, steps: int) -> None:
        """Go on after ``steps``, once the tensors of `state` are those of that moment."""
        self._steps = steps

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], *, learning_rate: float) -> None:
        """Move every weight once; ``gradients`` are in the order of the weights."""
        self._steps += 1
        # Both memories start at zero, so early on they are too small by these factors.
        mean_share = 1.0 - MEMORY_GRADIENT**self._steps
        square_share = 1.0 - MEMORY_SQUARE**self._steps
        for weight, mean, square, gradient in zip(
            self._weights, self._means, self._squares, gradients, strict=True
        ):
            weight.mul_(1.0 - learning_rate * self._weight_decay)
            mean.lerp_(gradient, 1.0 - MEMORY_GRADIENT)
            square.mul_(MEMORY_SQUARE).addcmul_(gradient, gradient, value=1.0 - MEMORY_SQUARE)
            spread = square.sqrt().div_(math.sqrt(square_share)).add_(EPSILON)
            weight.addcdiv_(mean, spread, value=-learning_rate / mean_share)


def cosine(epoch: int, *, epochs: int, highest: float) -> float:
    """The learning rate of an epoch from 0: ``highest`` at first, a tenth of it at the end.

    Source: Loshchilov and Hutter, SGDR, 2017, without restarts.
    """
    lowest = highest / 10
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * epoch / epochs)) / 2
