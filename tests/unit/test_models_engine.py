"""The engine: one version per batch, never an older one, never an answer that is no probability."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.dense import CONSTANT, EMBEDDING_MLP, Constant, EmbeddingMLP, build
from models.engine import Engine, Loaded, warm_up
from models.inference import CHUNK_ROWS
from models.protocol import ModelInput
from schemas.errors import ModelError


def loaded(epoch: int, module: torch.nn.Module | None = None) -> Loaded:
    return Loaded(
        version=f"{epoch:012x}",
        epoch=epoch,
        trained_at_ms=0,
        module=Constant(probability=0.25) if module is None else module,
        encode=lambda batch: batch,
    )


def batch(rows: int, *, seed: int = 0) -> ModelInput:
    random = torch.Generator().manual_seed(seed)
    return ModelInput(
        torch.randn(rows, 3, generator=random) * 10,
        torch.randint(0, 4, (rows, 2), generator=random),
    )


def mlp() -> EmbeddingMLP:
    torch.manual_seed(1)
    module = build(EMBEDDING_MLP, {"num_numeric": 3, "vocabulary_sizes": [3, 5]})
    assert isinstance(module, EmbeddingMLP)
    return module


@given(st.lists(st.integers(1, 50), min_size=1))
def test_serving_epoch_never_goes_back(offered: list[int]) -> None:
    """However announcements are reordered or repeated, serving ends on the newest."""
    engine = Engine(loaded(0))
    seen = [0]
    for epoch in offered:
        with suppress(ModelError):
            engine.offer(loaded(epoch))
        seen.append(engine.serving.epoch)
    assert seen == sorted(seen)
    assert seen[-1] == max(offered)


def test_a_batch_finishes_on_the_version_it_began_with() -> None:
    """The promise behind the version in every prediction."""
    engine = Engine(loaded(0))
    serving = engine.serving
    engine.offer(loaded(1, Constant(probability=0.75)))
    assert serving.score(batch(2)).tolist() == [0.25, 0.25]
    assert engine.serving.score(batch(2)).tolist() == [0.75, 0.75]


@pytest.mark.parametrize("rows", [0, 1, CHUNK_ROWS - 1, CHUNK_ROWS, 2 * CHUNK_ROWS + 3])
def test_chunks_change_nothing(rows: int) -> None:
    """Every row gets its own answer, in order, whatever the size of the batch."""
    module, x = mlp(), batch(rows)
    scores = loaded(1, module).score_input(x)
    assert scores.shape == (rows,)
    assert scores.dtype == np.float32
    with torch.inference_mode():
        np.testing.assert_allclose(scores, module(*x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_clipped_number_cannot_break_a_score() -> None:
    """The largest float32 is a legal number: the answer is still a probability."""
    module = mlp()
    module.learn_scale(batch(100).numeric_BF)
    huge = torch.full((1, 3), 3.4e38)
    score = loaded(1, module).score_input(ModelInput(huge, torch.zeros(1, 2, dtype=torch.int64)))
    assert 0.0 <= score[0] <= 1.0


def test_categories_do_not_share_embeddings() -> None:
    """All vocabularies lie in one table: the same index of two categories is another row."""
    module = mlp()
    assert module.start_C.tolist() == [0, 4]
    assert module.embedding.num_embeddings == 4 + 6


@pytest.mark.parametrize("answer", [float("nan"), 1.5, -0.1])
def test_an_answer_that_is_no_probability_is_an_error(answer: float) -> None:
    """It must become a dead letter, not a prediction."""
    with pytest.raises(ModelError, match="2 of 2 answers"):
        loaded(1, Constant(probability=answer)).score_input(batch(2))


def test_a_model_that_cannot_answer_fails_its_warm_up() -> None:
    """So it is refused beside the serving one, before any event sees it."""
    warm_up(loaded(1, mlp()), num_numeric=3, num_category=2)
    with pytest.raises(ModelError, match="could not warm up"):
        warm_up(loaded(1, mlp()), num_numeric=4, num_category=2)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [("pickle", {}), (CONSTANT, {"probability": "x"}), (EMBEDDING_MLP, {"depth": 3})],
)
def test_what_this_release_cannot_build_is_refused(
    architecture: str, parameters: dict[str, Any]
) -> None:
    """A manifest comes from a store: a strange one keeps the current model serving."""
    with pytest.raises(ModelError, match="could not build"):
        build(architecture, parameters)
