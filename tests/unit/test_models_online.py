"""Declarations of learners that cannot work are refused at once, with the fix."""

from pathlib import Path

import pytest

from models.online import LEARNERS, check_learner, fingerprint
from schemas.errors import PipelineError
from schemas.pipeline import Pipeline, category, label, numeric, online


def pipeline(learner, kind="binary", features=None):
    return Pipeline(
        name="shop",
        key="user",
        features=features or [numeric("price"), category("country"), category("item")],
        target=label("bought", kind=kind),
        learner=learner,
    )


@pytest.mark.parametrize(
    ("learner", "kind", "said"),
    [
        (online("forest"), "binary", "there is no 'forest'. Take one of logistic_regression"),
        (online("naive_bayes"), "number", "is a number. Take linear_regression"),
        (online("linear_regression"), "binary", "is binary. Take logistic_regression"),
        (online("naive_bayes", aplha=1.0), "binary", "has no parameter 'aplha'. It takes alpha."),
        (online("torch_mlp", hidden=1.5), "binary", "hidden=1.5 must be a whole number, 1 to 1024"),
        (online("torch_mlp", hidden=True), "binary", "hidden=True must be a whole number"),
        (online("logistic_regression", learning_rate=0), "binary", "must be a number, 1e-06 to 10"),
        (
            online("logistic_regression", optimizer="lbfgs"),
            "binary",
            "optimizer='lbfgs' must be one of sgd, adagrad, adam",
        ),
        (online("matrix_factorization", user="country"), "binary", "needs item=, the name of"),
        (
            online("matrix_factorization", user="country", item="price"),
            "binary",
            "item='price' is no category of this pipeline. Take one of country, item.",
        ),
    ],
)
def test_a_wrong_learner_is_named_with_place_field_and_fix(learner, kind, said) -> None:
    """`tidemill up` says it before anything starts."""
    with pytest.raises(PipelineError) as raised:
        check_learner(pipeline(learner, kind))
    assert said in str(raised.value)
    assert f"{Path(__file__).name}:" in str(raised.value)
    assert "pipeline 'shop': learner: " in str(raised.value)


def test_anomalies_need_numbers() -> None:
    """Half-space trees cut ranges of numbers."""
    with pytest.raises(PipelineError, match="Declare a numeric"):
        check_learner(pipeline(online("half_space_trees"), features=[category("country")]))


def test_right_declarations_pass() -> None:
    """All of them, with their defaults; and no learner at all."""
    check_learner(pipeline(None))
    for name in LEARNERS:
        words = {"user": "country", "item": "item"} if name == "matrix_factorization" else {}
        kind = "number" if name == "linear_regression" else "binary"
        check_learner(pipeline(online(name, **words), kind))


def test_the_fingerprint_tells_what_a_snapshot_belongs_to() -> None:
    """Defaults are spelt out, so that a changed default does not pass for the same learner."""
    target = label("bought")
    text = fingerprint(online("naive_bayes"), target)
    assert text == fingerprint(online("naive_bayes", alpha=1.0), target)
    assert text.startswith("naive_bayes alpha=1.0 target=binary river=0.")
    assert text != fingerprint(online("naive_bayes", alpha=2.0), target)
    assert " torch=2." in fingerprint(online("torch_mlp"), target)
