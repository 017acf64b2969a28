"""How good a model is on rows it never saw, beside two baselines it has to beat.

Shape letters: B = rows, F = numeric features, C = categories.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.protocol import ModelInput
from schemas.features import FeatureSpec
from schemas.manifest import Metrics
from trainers.dataset import Examples, Split

Floats = npt.NDArray[np.float64]

PROBABILITY_MIN = 1e-7
"""Probabilities are kept this far from 0 and 1: one sure error would make the log-loss infinite."""

CHUNK_ROWS = 8192


def evaluate(split: Split, module: nn.Module) -> dict[str, Metrics]:
    """Quality on the evaluation rows of the model, the logistic regression and no skill at all.

    Empty when there are no evaluation rows: a history that ends at the cut cannot judge.
    """
    if not len(split.evaluation):
        return {}
    labels = split.evaluation.labels
    base_rate = float(split.training.labels.mean())
    return {
        "model": measure(labels, predict(module, split.evaluation.x)),
        "logistic": measure(labels, logistic(split.spec, split.training, split.evaluation)),
        "no_skill": measure(labels, np.full(len(labels), base_rate)),
    }


def measure(labels: Floats, scores: Floats) -> Metrics:
    """AUC and log-loss of ``scores``, probabilities ``[B]``, against ``labels`` of 0.0 and 1.0."""
    return Metrics(rows=len(labels), auc=auc(labels, scores), log_loss=log_loss(labels, scores))


def auc(labels: Floats, scores: Floats) -> float:
    """Chance that a random 1 scores above a random 0, ties counting half; 0.5 if a class is empty.

    Source: Mann and Whitney 1947; the rank sum of the ones, with mean ranks for ties.
    """
    ones = int(labels.sum())
    zeros = len(labels) - ones
    if not ones or not zeros:
        return 0.5
    _, tie_of_row, tie_sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(tie_sizes) - (tie_sizes - 1) / 2
    rank_sum = float(mean_ranks[tie_of_row][labels == 1.0].sum())
    return (rank_sum - ones * (ones + 1) / 2) / (ones * zeros)


def log_loss(labels: Floats, scores: Floats) -> float:
    """Mean negative log-likelihood in nats per row; lower is better."""
    p = np.clip(scores, PROBABILITY_MIN, 1.0 - PROBABILITY_MIN)
    return float(-np.mean(labels * np.log(p) + (1.0 - labels) * np.log1p(-p)))


@torch.inference_mode()
def predict(module: nn.Module, x: ModelInput) -> Floats:
    """Probabilities, float64 ``[B]``."""
    module.eval()
    parts = [
        module(numeric_BF, category_BC).double()
        for numeric_BF, category_BC in zip(
            torch.split(x.numeric_BF, CHUNK_ROWS),
            torch.split(x.category_BC, CHUNK_ROWS),
            strict=True,
        )
    ]
    scores: Floats = torch.cat(parts).numpy()
    return scores


def logistic(spec: FeatureSpec, training: Examples, evaluation: Examples) -> Floats:
    """Probabilities of a logistic regression on the same features, scaled and one-hot."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(training.x.numeric_BF.numpy())

    def inputs(rows: Examples) -> Floats:
        numbers_BF = scaler.transform(rows.x.numeric_BF.numpy())
        words = [
            np.eye(len(vocabulary) + 1)[rows.x.category_BC[:, position].numpy()]
            for position, vocabulary in enumerate(spec.vocabularies)
        ]
        return np.hstack([numbers_BF, *words])

    model = LogisticRegression(max_iter=1000).fit(inputs(training), training.labels)
    scores: Floats = model.predict_proba(inputs(evaluation))[:, 1]
    return scores
