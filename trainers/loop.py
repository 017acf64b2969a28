"""The training itself: small steps down the loss until later rows stop getting better answers.

Shape letters: B = rows of a minibatch, F = numeric features, C = categories, N = all rows.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.dense import EmbeddingMLP
from schemas.training import Recipe
from trainers.dataset import Examples
from trainers.optimizer import AdamW, cosine

Progress = Callable[[str], None]
"""Takes one line for a person."""


STEPS_MIN = 50
"""Optimizer steps in one pass over the rows; with fewer a small history ends half learned."""

BATCH_ROWS_MIN = 32


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    Attributes:
        module: With the weights of the best epoch, in evaluation mode.
        epochs: Passes that were made.
        loss: Validation loss of the best epoch, nats per row.
    """

    module: EmbeddingMLP
    epochs: int
    loss: float


def train(
    module: EmbeddingMLP,
    training: Examples,
    validation: Examples,
    *,
    seed: int,
    recipe: Recipe,
    progress: Progress,
) -> Trained:
    """Train ``module`` in place and return it with the weights of its best epoch.

    The same arguments give the same weights, bit for bit, on the same kind of processor with the
    same number of torch threads. The caller seeds the initial weights and the drop-out.

    Raises:
        FloatingPointError: the loss became infinite or no number.
    """
    order = torch.Generator().manual_seed(seed)
    optimizer = AdamW(list(module.parameters()), weight_decay=recipe.weight_decay)
    best_loss, best_epoch, best_weights = math.inf, 0, copy.deepcopy(module.state_dict())
    batch_rows = rows_of_a_step(recipe, len(training))
    epoch = 0
    while epoch < recipe.epochs_max and epoch - best_epoch < recipe.patience_epochs:
        rate = cosine(epoch, epochs=recipe.epochs_max, highest=recipe.learning_rate)
        epoch += 1
        shuffled_N = torch.randperm(len(training), generator=order)
        batches = torch.split(shuffled_N, batch_rows)
        training_loss = train_epoch(module, optimizer, training, batches, learning_rate=rate)
        loss = mean_loss(module, validation)
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best_weights = copy.deepcopy(module.state_dict())
        progress(f"epoch {epoch:2d}  training loss {training_loss:.4f}  validation loss {loss:.4f}")
    module.load_state_dict(best_weights)
    return Trained(module.eval(), epoch, best_loss)


def rows_of_a_step(recipe: Recipe, rows: int) -> int:
    """Rows of a minibatch for ``rows`` training rows: at least `STEPS_MIN` steps in a pass."""
    return min(recipe.batch_rows_max, max(BATCH_ROWS_MIN, rows // STEPS_MIN))


def train_epoch(
    module: EmbeddingMLP,
    optimizer: AdamW,
    rows: Examples,
    batches: Sequence[torch.Tensor],
    *,
    learning_rate: float,
) -> float:
    """One step per batch of row numbers; return the mean loss, nats per row."""
    module.train()
    weights = list(module.parameters())
    total = 0.0
    for chosen_B in batches:
        logits_B = module.logits(rows.x.numeric_BF[chosen_B], rows.x.category_BC[chosen_B])
        loss = binary_cross_entropy_with_logits(logits_B, rows.y_B[chosen_B])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} on {len(chosen_B)} rows; step not taken")
        gradients = torch.autograd.grad(loss, weights)
        optimizer.step(gradients, learning_rate=learning_rate)
        total += value * len(chosen_B)
    return total / len(rows)


@torch.no_grad()
def mean_loss(module: EmbeddingMLP, rows: Examples) -> float:
    """Mean loss without learning or drop-out, nats per row."""
    module.eval()
    return float(binary_cross_entropy_with_logits(module.logits(*rows.x), rows.y_B))
