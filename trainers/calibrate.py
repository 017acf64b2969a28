"""What the model says becomes what comes true: two numbers fitted on rows it did not learn from.

Source: Platt, Probabilistic outputs for support vector machines, 1999.
"""

import numpy as np
import numpy.typing as npt
import torch

from models.dense import EmbeddingMLP
from schemas.manifest import Calibration
from trainers.dataset import Examples
from trainers.evaluate import CHUNK_ROWS

Floats = npt.NDArray[np.float64]

STEPS_MAX = 50
CONVERGED = 1e-10
RIDGE = 1.0
"""Rows' worth of belief that the model is right as it is: a handful of rows cannot turn it over."""


def calibrate(network: EmbeddingMLP, rows: Examples) -> Calibration:
    """Fit scale and bias of the log-odds on ``rows`` and put them into the last layer's weights.

    So whoever serves the weights serves the calibrated model. If the fit does not lower the loss of
    the rows it was made on, nothing changes.
    """
    logits, labels = log_odds(network, rows), rows.labels
    scale, bias = fit(logits, labels)
    before, after = loss(logits, labels), loss(scale * logits + bias, labels)
    if not after < before:
        scale, bias, after = 1.0, 0.0, before
    last = network.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale).add_(bias)
    return Calibration(scale=scale, bias=bias, rows=len(rows), loss_before=before, loss_after=after)


def fit(logits: Floats, labels: Floats) -> tuple[float, float]:
    """Scale and bias that make these labels most likely; the scale stays positive, so the order of
    the rows stays too.

    Newton's method; a step that would raise the loss is halved until it does not, because where the
    model is very sure the curvature is too small to be believed.
    """
    start = np.array([1.0, 0.0])
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)

    def height(point: Floats) -> float:
        distance = point - start
        return loss(inputs @ point, labels) * len(labels) + RIDGE / 2 * float(distance @ distance)

    point = start.copy()
    for _ in range(STEPS_MAX):
        said = 1.0 / (1.0 + np.exp(-np.clip(inputs @ point, -35.0, 35.0)))
        gradient = inputs.T @ (said - labels) + RIDGE * (point - start)
        curvature = (inputs * (said * (1.0 - said))[:, None]).T @ inputs + RIDGE * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        while height(point - move) > height(point) and float(np.abs(move).max()) > CONVERGED:
            move /= 2.0
        point -= move
        if float(np.abs(move).max()) < CONVERGED:
            break
    scale, bias = map(float, point)
    return (scale, bias) if scale > 0.0 else (1.0, 0.0)


def loss(logits: Floats, labels: Floats) -> float:
    """Mean log-loss of log-odds, nats per row."""
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


@torch.no_grad()
def log_odds(network: EmbeddingMLP, rows: Examples) -> Floats:
    """Log-odds, float64 ``[B]``."""
    network.eval()
    parts = zip(
        torch.split(rows.x.numeric_BF, CHUNK_ROWS),
        torch.split(rows.x.category_BC, CHUNK_ROWS),
        strict=True,
    )
    found: Floats = torch.cat([network.logits(*part).double() for part in parts]).numpy()
    return found
