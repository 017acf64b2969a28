"""The weights a retraining begins with, random ones or the champion's word by word, and what it
leaves.

Shape letters: F = numeric features, C = categories, W = words of all vocabularies.
"""

from pathlib import Path

import msgspec
import safetensors.torch
import torch
from torch import nn

from models.dense import EMBEDDING_MLP, EmbeddingMLP, build, mlp_parameters
from schemas.errors import ModelError
from schemas.features import FeatureSpec
from schemas.manifest import Manifest
from trainers.windows import Plan

START = "start.safetensors"
TRAINED = "trained.safetensors"
OUTCOME = "outcome.json"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a finished training went; `TRAINED` lies beside it.

    Attributes:
        epochs: Passes made.
        best_epoch: The one whose weights were kept.
        loss: Validation loss after it, nats per row.
        ranks: Processes at the end.
        attempts: Starts of the ranks.
    """

    epochs: int
    best_epoch: int
    loss: float
    ranks: int
    attempts: int


def read_network(plan: Plan, weights: Path) -> EmbeddingMLP:
    """The module of this set with these weights."""
    network = build(EMBEDDING_MLP, mlp_parameters(plan.spec))
    assert isinstance(network, EmbeddingMLP)
    network.load_state_dict(safetensors.torch.load_file(weights))
    return network


def cold(spec: FeatureSpec, numeric_BF: torch.Tensor, *, seed: int) -> EmbeddingMLP:
    """Random weights, with the scale of the training rows ``numeric_BF``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(EMBEDDING_MLP, mlp_parameters(spec))
    assert isinstance(network, EmbeddingMLP)
    network.learn_scale(numeric_BF)
    return network


def warm(spec: FeatureSpec, manifest: Manifest, module: nn.Module) -> EmbeddingMLP:
    """The champion's weights in a network for ``spec``.

    Its scale stays, because its weights are made for it. A word it knows keeps its embedding though
    the word may have another index now; one it does not know begins as "every other word".

    Raises:
        ModelError: the champion is of another kind or has other features; start cold.
    """
    old = manifest.features
    if not isinstance(module, EmbeddingMLP) or (old.numeric, old.names) != (
        spec.numeric,
        spec.names,
    ):
        raise ModelError(
            f"could not start warm: the champion is architecture={manifest.architecture} with "
            f"features={list(old.names)}, the set has {list(spec.names)}. Start cold."
        )
    network = build(EMBEDDING_MLP, mlp_parameters(spec))
    assert isinstance(network, EmbeddingMLP)
    mine, theirs = network.state_dict(), module.state_dict()
    for name, tensor in theirs.items():
        if name not in {"embedding.weight", "start_C"}:
            mine[name].copy_(tensor)
    chosen_W = [
        int(start) + ({word: place for place, word in enumerate(known, 1)}.get(word, 0))
        for start, known, words in zip(
            theirs["start_C"].tolist(), old.vocabularies, spec.vocabularies, strict=True
        )
        for word in ("", *words)
    ]
    if chosen_W:
        mine["embedding.weight"].copy_(theirs["embedding.weight"][chosen_W])
    network.load_state_dict(mine)
    return network
