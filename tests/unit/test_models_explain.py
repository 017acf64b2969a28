"""Contributions: they add up, and they are right where the right ones are known."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dense import EmbeddingMLP
from models.explain import integrated_gradients, nothing_known, shapley_values, weighted
from models.online import make_learner
from models.protocol import FeatureColumns, Floats, ModelInput
from models.river_linear import Linear
from schemas.pipeline import label, online

NUMERIC, CATEGORY = ("delay", "distance"), ("carrier",)
FINITE = st.floats(-(2.0**99), 2.0**99, width=32)


def network(seed: int) -> EmbeddingMLP:
    """With weights as large as a trained one's, and a scale of minutes and miles."""
    torch.manual_seed(seed)
    made = EmbeddingMLP(num_numeric=2, vocabulary_sizes=[3]).eval()
    with torch.no_grad():
        made.embedding.weight.normal_(std=1.0)
    made.learn_scale(torch.tensor([[-20.0, 100.0], [0.0, 500.0], [300.0, 4000.0]]), tail=0.0)
    return made


@given(seed=st.integers(0, 50), delay=FINITE, distance=FINITE, word=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_contributions_of_a_network_add_up_to_its_answer(
    seed: int, delay: float, distance: float, word: int
) -> None:
    """Completeness, for values far outside of what was learned as well."""
    made = network(seed)
    row = ModelInput(torch.tensor([[delay, distance]]), torch.tensor([[word]]))
    found = integrated_gradients(made, row, numeric=NUMERIC, category=CATEGORY)
    answer = made.logits(*row).item()
    assert found.answer == pytest.approx(answer, abs=1e-4)
    assert abs(found.remainder) < 1e-3
    assert set(found.contributions) == {*NUMERIC, *CATEGORY}
    if word == 0:  # it is the baseline's word
        assert found.contributions["carrier"] == 0.0


def test_the_baseline_of_a_network_is_the_mean_event() -> None:
    """Its answer is what the model says to means and a word that it does not know."""
    made = network(1)
    row = ModelInput(torch.tensor([[100.0, 700.0]]), torch.tensor([[2]]))
    found = integrated_gradients(made, row, numeric=NUMERIC, category=CATEGORY)
    mean = made.logits(made.mean_F[None], torch.tensor([[0]])).item()
    assert found.base == pytest.approx(mean, abs=1e-4)


def test_a_network_that_is_a_sum_gets_the_terms_of_the_sum() -> None:
    """Where the layers only add, each contribution is known by hand."""
    made = network(2)
    made.layers = torch.nn.Sequential(torch.nn.Linear(2 * 2 + 8, 1))
    with torch.no_grad():
        made.layers[0].weight.zero_()
        made.layers[0].weight[0, :2] = torch.tensor([2.0, -3.0])  # of the scaled numbers
        made.layers[0].weight[0, 4] = 5.0  # of the first number of the word
    row = ModelInput(torch.tensor([[100.0, 700.0]]), torch.tensor([[2]]))
    found = integrated_gradients(made, row, numeric=NUMERIC, category=CATEGORY)
    scaled = ((row.numeric_BF[0] - made.mean_F) / made.std_F).tolist()
    words = made.embedding.weight[:, 0].tolist()
    assert found.contributions["delay"] == pytest.approx(2.0 * scaled[0], rel=1e-4)
    assert found.contributions["distance"] == pytest.approx(-3.0 * scaled[1], rel=1e-4)
    assert found.contributions["carrier"] == pytest.approx(5.0 * (words[2] - words[0]), rel=1e-4)


def row_of(delay: float, distance: float, carrier: str | None) -> FeatureColumns:
    return FeatureColumns(
        NUMERIC, CATEGORY, np.array([[delay, distance]], np.float32), pa.array([carrier], pa.utf8())
    )


def test_shares_of_a_logistic_learner_are_exact() -> None:
    """weight * (value - mean) / spread and a word's weight: the sum is what it says, to rounding."""
    learner = make_learner(online("logistic_regression"), label("late"))
    assert isinstance(learner, Linear)
    dice = np.random.default_rng(3)
    rows = 500
    columns = FeatureColumns(
        NUMERIC, CATEGORY, dice.normal([10, 900], [30, 400], (rows, 2)).astype(np.float32),
        pa.array(dice.choice(["UA", "AA", "DL"], rows)),
    )  # fmt: skip
    truth = (columns.numeric_BF[:, 0] > 15).astype(np.float64)
    learner.score_then_learn(columns, truth, np.ones(rows))
    row = row_of(60.0, 300.0, "AA")
    shares, intercept = learner.shares(row)
    [said] = learner.score(row)
    assert intercept + sum(shares.values()) == pytest.approx(math.log(said / (1 - said)), abs=1e-9)
    assert shares["delay"] > abs(shares["distance"]), "only the delay decides"
    at_the_mean, _ = learner.shares(row_of(float(columns.numeric_BF[:, 0].mean()), 300.0, "AA"))
    assert at_the_mean["delay"] == pytest.approx(0.0, abs=1e-5)
    assert learner.shares(row_of(60.0, 300.0, "never seen"))[0]["carrier"] == 0.0
    [nothing] = learner.score(nothing_known(row))
    assert intercept == pytest.approx(math.log(nothing / (1 - nothing)), abs=1e-9), "the baseline"


def product(columns: FeatureColumns) -> Floats:
    """delay * distance + 7 for carrier AA: two that need each other, and one alone."""
    numbers = np.nan_to_num(columns.numeric_BF.astype(np.float64))
    return numbers[:, 0] * numbers[:, 1] + 7.0 * np.array(
        [w == "AA" for w in columns.words.to_pylist()]
    )


def test_shapley_values_share_what_two_features_do_together() -> None:
    """Half each: 3 * 4 makes 6 and 6; every order alone accounts for the whole."""
    row = row_of(3.0, 4.0, "AA")
    found = shapley_values(product, row, baseline=nothing_known(row), words="nothing")
    assert found.contributions == {
        "delay": pytest.approx(6.0), "distance": pytest.approx(6.0), "carrier": pytest.approx(7.0),
    }  # fmt: skip
    assert (found.base, found.answer) == (0.0, 19.0)
    assert abs(found.remainder) < 1e-9


def test_a_weighted_sum_of_answers_has_the_weighted_contributions() -> None:
    """What the corrector does with two models it does with what each feature adds."""
    row = row_of(3.0, 4.0, "AA")
    found = shapley_values(product, row, baseline=nothing_known(row), words="nothing")
    both = weighted([(0.5, found), (2.0, found)], bias=1.0, method="both")
    assert both.answer == 1.0 + 2.5 * 19.0
    assert both.contributions["carrier"] == pytest.approx(2.5 * 7.0)
    assert abs(both.remainder) < 1e-9
    assert both.baseline == "nothing"
