"""The hybrid: starts as the deep model, follows the truth, and keeps each version's weights apart."""

import numpy as np
import pyarrow as pa
import pytest

from models.champion import Champion, Served
from models.hybrid import LOGIT_MAX, VERSIONS_MAX, Corrector, OnlineModel, logits
from models.protocol import FeatureColumns
from schemas.errors import ModelError
from schemas.pipeline import Pipeline, label, numeric, online


def pipeline(champion="hybrid", shards="partition"):
    return Pipeline(
        name="shop",
        key="user",
        features=[numeric("price")],
        target=label("bought"),
        learner=online("logistic_regression", shards=shards),
        champion=champion,
    )


def rows(count, seed=1):
    """Prices, what a biased deep model said, and truths that follow the price."""
    dice = np.random.default_rng(seed)
    price = dice.normal(size=(count, 1)).astype(np.float32)
    truth = (dice.random(count) < 1 / (1 + np.exp(-2.0 * price[:, 0]))).astype(np.float64)
    said = 1 / (1 + np.exp(-(price[:, 0] + 1.5)))  # half as sure, and far too high
    return (
        FeatureColumns(("price",), (), price, pa.array([], pa.utf8())),
        said.astype(np.float32),
        truth,
    )


def taught(count=2000, version="v1"):
    model = OnlineModel(pipeline())
    columns, said, truth = rows(count)
    scores = model.take(columns, said, [version] * count, truth, np.ones(count))
    return model, scores


def test_without_truths_about_a_version_its_own_score_is_served() -> None:
    """A model that was swapped in is not corrected by what its predecessor got wrong."""
    model, _ = taught(version="v1")
    columns, said, _ = rows(50, seed=2)
    assert np.array_equal(model.hybrid(columns, said, "v2"), said)
    assert not np.array_equal(model.hybrid(columns, said, "v1"), said)
    before = model.hybrid(columns, said, "v1")
    flipped, ones = rows(300, seed=3), np.ones(300)
    model.take(flipped[0], flipped[1], ["v2"] * 300, 1.0 - flipped[2], ones)
    assert model.correctors["v1"].rows == 2000
    assert model.correctors["v2"].rows == 300
    # v1's weights are untouched; only the learner's part in it has moved.
    corrector = model.correctors["v1"]
    again = corrector.say(logits(said), logits(model.learner.score(columns)))
    np.testing.assert_allclose(model.hybrid(columns, said, "v1"), again, atol=1e-7)
    assert not np.array_equal(before, again)


def test_a_biased_model_is_calibrated() -> None:
    """It beats the deep score it corrects, on rows it has not seen."""
    model, _ = taught()
    columns, said, truth = rows(2000, seed=4)

    def loss(scores):
        return -np.mean(truth * np.log(scores) + (1 - truth) * np.log(1 - scores))

    corrected = model.hybrid(columns, said, "v1")
    assert loss(corrected) < loss(said) - 0.05
    assert abs(corrected.mean() - truth.mean()) < 0.05 < abs(said.mean() - truth.mean())


def test_each_row_is_scored_before_it_is_learned_and_cuts_do_not_show() -> None:
    """The weights, too, follow from the rows in order alone."""
    columns, said, truth = rows(200)
    weights = np.where(np.arange(200) % 5 == 0, 0.0, 1.0)
    labels = np.where(weights > 0, truth, np.nan)
    whole, parts = OnlineModel(pipeline()), OnlineModel(pipeline())
    versions = ["v1"] * 120 + ["v2"] * 80
    expected = whole.take(columns, said, versions, labels, weights)
    found = []
    for i in range(200):
        one = FeatureColumns(("price",), (), columns.numeric_BF[i : i + 1], columns.words)
        here = slice(i, i + 1)
        found.append(parts.take(one, said[here], versions[here], labels[here], weights[here]))
    for name in ("online", "hybrid"):
        np.testing.assert_allclose(
            np.concatenate([said[name] for said in found]), expected[name], atol=1e-12
        )
    assert whole.digest() == parts.digest()
    assert expected["hybrid"][0] == pytest.approx(said[0], abs=1e-6)


def test_a_restored_model_is_the_same() -> None:
    """Bit by bit, weights of all versions included."""
    model, _ = taught()
    other = OnlineModel(pipeline())
    other.restore(model.snapshot())
    columns, said, truth = rows(100, seed=5)
    arguments = (columns, said, ["v1"] * 100, truth, np.ones(100))
    assert other.digest() == model.digest()
    assert np.array_equal(other.take(*arguments)["hybrid"], model.take(*arguments)["hybrid"])
    assert other.digest() == model.digest()
    for content in (b"", b"x" * 40, model.learner.snapshot()):
        with pytest.raises(ModelError):
            other.restore(content)
    assert other.digest() == model.digest()


def test_only_the_newest_versions_are_kept() -> None:
    """Memory is bounded, however often a model is announced."""
    model = OnlineModel(pipeline())
    columns, said, truth = rows(40)
    model.take(columns, said, [f"v{i}" for i in range(40)], truth, np.ones(40))
    assert list(model.correctors) == [f"v{i}" for i in range(40 - VERSIONS_MAX, 40)]


def test_absurd_scores_move_the_weights_no_further_than_sensible_ones() -> None:
    """A deep model that says 0 or 1 must not make infinity of everything."""
    assert logits(np.array([0.0, 0.5, 1.0])).tolist() == [-LOGIT_MAX, 0.0, LOGIT_MAX]
    corrector = Corrector()
    for _ in range(1000):
        corrector.learn(LOGIT_MAX, -LOGIT_MAX, 0.0, 16.0)
    assert np.isfinite(corrector.weights).all()
    assert (np.array(corrector.covariance)[[0, 3, 5]] > 0).all()


def test_who_answers_follows_from_the_declaration() -> None:
    """And until a shard's learner is known, the deep model does."""
    model, _ = taught()
    columns, said, _ = rows(9, seed=6)
    hybrid, alone = Champion(pipeline()), Champion(pipeline("online"))
    single = Champion(pipeline(shards="single"))
    for champion in (hybrid, alone, single):
        scores, positions = champion.answer([(1, 9)], columns, said, "v1")
        assert np.array_equal(scores, said)
        assert positions == [-1]
    hybrid.offer(1, Served(model, 77))
    alone.offer(1, Served(model, 77))
    single.offer(0, Served(model, 78))
    expected = model.hybrid(columns, said, "v1")
    scores, positions = hybrid.answer([(0, 3), (1, 4), (2, 0), (3, 2)], columns, said, "v1")
    np.testing.assert_allclose(scores[3:7], expected[3:7], atol=1e-6)
    assert np.array_equal(scores[:3], said[:3])
    assert np.array_equal(scores[7:], said[7:])
    assert positions == [-1, 77, -1, -1]
    assert scores.dtype == np.float32
    learned = model.learner.score(columns)
    np.testing.assert_allclose(alone.answer([(1, 9)], columns, said, "v9")[0], learned, atol=1e-6)
    assert single.answer([(3, 9)], columns, said, "v1")[1] == [78]
