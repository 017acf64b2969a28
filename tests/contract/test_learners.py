"""What every online learner promises (`models.protocol.Learner`), whichever it is."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.online import LEARNERS, make_learner
from models.protocol import FeatureColumns
from schemas.errors import ModelError
from schemas.pipeline import label, online

torch.set_num_threads(1)
ROWS = 160
SMALL = {
    "adaptive_random_forest": {"num_trees": 3, "grace_period": 20},
    "hoeffding_adaptive_tree": {"grace_period": 20},
    "matrix_factorization": {"user": "country", "item": "shop", "factors": 4},
    "half_space_trees": {"window_rows": 20, "num_trees": 4, "height": 5},
    "torch_mlp": {"batch_rows": 16, "hidden": 8, "buckets": 256, "learning_rate": 0.3},
    "logistic_regression": {"learning_rate": 0.1},
}
BINARY = [name for name in LEARNERS if name != "linear_regression"]
NUMBER = [
    "linear_regression",
    "hoeffding_adaptive_tree",
    "adaptive_random_forest",
    "matrix_factorization",
    "torch_mlp",
]
EVERY = [(name, "binary") for name in BINARY] + [(name, "number") for name in NUMBER]
every_learner = pytest.mark.parametrize(("name", "kind"), EVERY)


def make(name, kind, **more):
    return make_learner(
        online(name, **(SMALL.get(name, {}) | more)), label("truth", kind=kind, prior=0.25)
    )


def columns(numbers, words, numeric=("price", "age"), category=("country", "shop")):
    flat = [word for row in words for word in row]
    return FeatureColumns(
        numeric, category, np.ascontiguousarray(numbers, np.float32), pa.array(flat, pa.utf8())
    )


def stream(rows=ROWS, *, seed=7, missing=0.0):
    """Rows whose label follows the price and the country; labels are 0 or 1."""
    dice = np.random.default_rng(seed)
    numbers = dice.normal(size=(rows, 2)).astype(np.float32)
    countries = dice.integers(0, 3, rows)
    shops = dice.integers(0, 5, rows)
    words = [[("FI", "SE", "NO")[c], f"s{s}"] for c, s in zip(countries, shops, strict=True)]
    labels = (numbers[:, 0] + (countries == 0) > 0.3).astype(np.float64)
    if missing:
        numbers[dice.random(numbers.shape) < missing] = np.nan
        for row in words:
            row[:] = [None if dice.random() < missing else word for word in row]
    return columns(numbers, words), labels, np.ones(rows)


def cut(found, start, stop):
    numbers, words = found.numeric_BF[start:stop], len(found.category)
    return FeatureColumns(
        found.numeric,
        found.category,
        numbers,
        found.words.slice(start * words, (stop - start) * words),
    )


def learn(learner, found, labels, weights, sizes=(ROWS,)):
    """Score then learn in batches of ``sizes``, again and again; all scores."""
    scores, start = [], 0
    while start < len(labels):
        for size in sizes:
            part = slice(start, min(start + size, len(labels)))
            if part.stop > start:
                batch = cut(found, start, part.stop)
                scores.append(learner.score_then_learn(batch, labels[part], weights[part]))
            start = part.stop
    return np.concatenate(scores)


@every_learner
def test_a_batch_is_learned_like_its_rows_one_by_one(name, kind):
    """How Kafka and the worker cut rows into batches must not show: a replay cuts them anew."""
    found = stream(missing=0.1)
    whole, single, mixed = (make(name, kind) for _ in range(3))
    scores = learn(whole, *found)
    assert np.array_equal(learn(single, *found, sizes=(1,)), scores)
    assert np.array_equal(learn(mixed, *found, sizes=(7, 1, 30)), scores)
    assert whole.digest() == single.digest() == mixed.digest()
    assert whole.rows_learned == ROWS
    assert np.isfinite(scores).all()


@every_learner
def test_each_row_is_scored_before_it_is_learned(name, kind):
    """Learning first would leak the label into its own score: labels of later rows, and its own,
    must not change what is said about a row.
    """
    found, labels, weights = stream()
    scores = learn(make(name, kind), found, labels, weights, sizes=(1,))
    at = 100
    other = labels.copy()
    other[at:] = 1.0 - other[at:]
    assert np.array_equal(
        learn(make(name, kind), found, other, weights)[: at + 1], scores[: at + 1]
    )


@every_learner
def test_a_restored_learner_is_the_same_now_and_in_future(name, kind):
    """Bit-identical: digest, what it says, and what it will have become after more rows."""
    found, labels, weights = stream(missing=0.1)
    learner = make(name, kind)
    learn(learner, cut(found, 0, 90), labels[:90], weights[:90])
    other = learner.clone()
    assert other.digest() == make(name, kind).digest() != learner.digest()
    other.restore(learner.snapshot())
    twice = learner.clone()
    twice.restore(other.snapshot())
    rest = cut(found, 90, ROWS)
    assert other.digest() == twice.digest() == learner.digest()
    assert (other.rows_learned, other.rows_refused) == (90, learner.rows_refused)
    assert np.array_equal(other.score(rest), learner.score(rest))
    expected = learn(learner, rest, labels[90:], weights[90:])
    assert np.array_equal(learn(other, rest, labels[90:], weights[90:]), expected)
    assert np.array_equal(learn(twice, rest, labels[90:], weights[90:], sizes=(1,)), expected)
    assert other.digest() == twice.digest() == learner.digest()


@every_learner
def test_scoring_teaches_nothing_and_agrees_one_by_one(name, kind):
    """The scorer asks as often as events come; that must not move the learner."""
    found, labels, weights = stream(missing=0.1)
    learner = make(name, kind)
    learn(learner, found, labels, weights)
    unseen = columns([[0.1, 9.0], [np.nan, -3.0]], [["IS", "s1"], ["FI", None]])
    before = learner.digest()
    many = learner.score(found)
    single = np.concatenate([learner.score(cut(found, i, i + 1)) for i in range(0, ROWS, 4)])
    np.testing.assert_allclose(single, many[::4], rtol=0, atol=1e-6)
    assert np.isfinite(learner.score(unseen)).all()
    assert learner.score(cut(found, 0, 0)).shape == (0,)
    assert learner.digest() == before
    if kind == "binary":
        assert 0.0 <= many.min() <= many.max() <= 1.0


@every_learner
def test_inputs_are_left_alone(name, kind):
    """The same columns go to the deep model and to the drift detectors."""
    found, labels, weights = stream(missing=0.1)
    numbers, words = found.numeric_BF.copy(), found.words.to_pylist()
    learner = make(name, kind)
    learn(learner, found, labels, weights)
    learner.score(found)
    assert np.array_equal(found.numeric_BF, numbers, equal_nan=True)
    assert found.words.to_pylist() == words
    assert np.array_equal(labels, stream(missing=0.1)[1])


@every_learner
def test_features_may_come_and_go(name, kind):
    """A pipeline gets a feature, loses another, and its learner lives on, restored or not."""
    found, labels, weights = stream(90)
    dice = np.random.default_rng(2)
    fewer = columns(dice.normal(size=(30, 1)), [["FI"]] * 30, ("price",), ("country",))
    more = columns(
        dice.normal(size=(30, 3)),
        [["NO", "s1", "web"]] * 30,
        ("age", "price", "weight_kg"),
        ("country", "shop", "channel"),
    )
    none = columns(np.empty((4, 0)), [[]] * 4, (), ())
    learner, other = make(name, kind), make(name, kind)
    for batch, size in ((found, 90), (fewer, 30), (more, 30), (none, 4), (found, 90)):
        said = learner.score_then_learn(batch, labels[:size], weights[:size])
        assert np.isfinite(said).all()
        other.score_then_learn(batch, labels[:size], weights[:size])
        copied = other.clone()
        copied.restore(other.snapshot())
        other = copied
    assert np.array_equal(other.score(more), learner.score(more))
    assert other.digest() == learner.digest()


@every_learner
def test_a_weight_counts_like_so_many_rows_and_none_like_no_row(name, kind):
    """Corrections and assumed labels come with a weight."""
    found, labels, weights = stream(120)
    with_zeros, without = make(name, kind), make(name, kind)
    zeros = weights.copy()
    zeros[::3] = 0.0
    learn(with_zeros, found, np.where(zeros > 0, labels, np.nan), zeros, sizes=(120, 50))
    kept = np.flatnonzero(zeros)
    for row in kept:
        without.score_then_learn(cut(found, row, row + 1), labels[[row]], weights[[row]])
    assert with_zeros.rows_learned == without.rows_learned == 80
    assert np.array_equal(without.score(found), with_zeros.score(found))
    with pytest.raises(ValueError, match="could not learn"):
        with_zeros.score_then_learn(found, labels, -weights)
    with pytest.raises(ValueError, match="could not learn"):
        with_zeros.score_then_learn(found, np.full(120, np.nan), weights)


@pytest.mark.parametrize("name", [n for n in BINARY if "seed" in LEARNERS[n]])
def test_the_seed_decides_what_is_random(name):
    """The same seed repeats, another differs."""
    found = stream()
    first, again, other = make(name, "binary"), make(name, "binary"), make(name, "binary", seed=5)
    for learner in (first, again, other):
        learn(learner, *found)
    assert first.digest() == again.digest() != other.digest()


def digests():
    """One line per learner after the same rows."""
    lines = []
    for name, kind in EVERY:
        learner = make(name, kind)
        learn(learner, *stream(missing=0.1))
        lines.append(f"digest {name} {kind} {learner.digest()}")
    return lines


def test_other_processes_learn_the_same():
    """No hash seed, no address and no clock may get into the weights."""
    program = "from tests.contract.test_learners import digests; print(*digests(), sep='\\n')"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=280,
        text=True,
    ).stdout.splitlines()
    assert [line for line in said if line.startswith("digest")] == digests()


@pytest.mark.parametrize("name", [n for n in BINARY if n != "half_space_trees"])
def test_what_is_to_be_learned_is_learned(name):
    """Beats no skill by far on unseen rows; anomalies have no label to be right about."""
    more = {"item": "shop", "user": "country"} if name == "matrix_factorization" else {}
    found, labels, weights = stream(1600, seed=1)
    learner = make(name, "binary", **more)
    learn(learner, found, labels, weights, sizes=(1600,))
    test, truth, _ = stream(400, seed=2)
    right = np.mean((learner.score(test) > 0.5) == (truth > 0.5))
    # Factors see the words only, and these say less than the price.
    assert right > (0.55 if name == "matrix_factorization" else 0.8)


def test_anomalies_score_higher_than_the_usual():
    """Half-space trees look at the numbers alone."""
    found, labels, weights = stream(300)
    learner = make("half_space_trees", "binary")
    learn(learner, found, labels, weights, sizes=(300,))
    odd = columns(np.array([[40.0, -40.0]]), [["FI", "s1"]])
    assert learner.score(odd)[0] > np.quantile(learner.score(found), 0.9)


@every_learner
def test_foreign_snapshots_are_refused_and_change_nothing(name, kind):
    """A learner that took half of another's state would be worse than one that stops."""
    learner = make(name, kind)
    learn(learner, *stream())
    before = learner.digest()
    other = "half_space_trees" if name == "torch_mlp" else "torch_mlp"
    foreign = make(other, "binary")
    foreign.score_then_learn(*stream(10))
    for content in (foreign.snapshot(), b"", b"\x80\x05N.", json.dumps([1, 2, []]).encode()):
        with pytest.raises(ModelError):
            learner.restore(content)
    assert learner.digest() == before


def test_the_linear_learner_is_rivers():
    """So published figures of River hold for it: same scores, bit by bit, on numbers."""
    from river import linear_model, preprocessing

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    learner = make_learner(online("logistic_regression"), label("truth"))
    found, labels, weights = stream()
    found = FeatureColumns(found.numeric, (), found.numeric_BF, pa.array([], pa.utf8()))
    expected = []
    for row, truth in zip(found.numeric_BF.tolist(), labels, strict=True):
        x = dict(zip(found.numeric, row, strict=True))
        expected.append(model.predict_proba_one(x)[True])
        model.learn_one(x, bool(truth))
    assert learn(learner, found, labels, weights).tolist() == expected
