"""A warm start: what the champion knew about a word stays with the word."""

import pytest
import torch

from models.dense import EMBEDDING_MLP, build, mlp_parameters
from schemas.errors import ModelError
from schemas.features import Category, FeatureSpec, Numeric
from schemas.manifest import Manifest
from trainers.start import warm


def spec(*vocabularies: tuple[str, ...], names: str = "ab") -> FeatureSpec:
    return FeatureSpec(
        numeric=(Numeric(name="x"),),
        category=tuple(Category(name=name) for name in names),
        vocabularies=vocabularies,
    )


def champion(features: FeatureSpec) -> tuple[Manifest, torch.nn.Module]:
    torch.manual_seed(1)
    module = build(EMBEDDING_MLP, mlp_parameters(features))
    manifest = Manifest(
        pipeline="p",
        architecture=EMBEDDING_MLP,
        parameters={},
        features=features,
        weights_sha256="",
        trained_at_ms=0,
        seed=0,
    )
    return manifest, module


def test_words_keep_their_embeddings_though_their_places_change() -> None:
    """The same row gets the same answer; a new word begins as "every other word"."""
    old = spec(("FI", "SE"), ("u", "v"))
    manifest, module = champion(old)
    network = warm(spec(("SE", "NO", "FI"), ("v",)), manifest, module).eval()
    x_BF = torch.tensor([[0.5], [0.5], [0.5]])
    before = module(x_BF, torch.tensor([[1, 2], [2, 2], [0, 0]]))  # FI v, SE v, other other
    after = network(x_BF, torch.tensor([[3, 1], [1, 1], [2, 0]]))  # FI v, SE v, NO other
    torch.testing.assert_close(after, before)


def test_other_features_cannot_start_warm() -> None:
    """Weights without a place to go would be a guess."""
    manifest, module = champion(spec(("FI",), ("u",)))
    with pytest.raises(ModelError, match="Start cold"):
        warm(spec(("FI",), ("u",), names="ac"), manifest, module)
