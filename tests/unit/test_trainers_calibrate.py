"""Calibration: two numbers that undo what a training got wrong, inside the weights."""

import numpy as np
import pytest
import torch

from models.dense import EmbeddingMLP
from models.protocol import ModelInput
from trainers.calibrate import calibrate, fit, log_odds
from trainers.dataset import Examples


def test_a_known_distortion_is_found() -> None:
    """Log-odds that are twice too large and shifted by one: half and minus a half undo it."""
    random = np.random.default_rng(0)
    true = random.normal(size=200_000) * 2.0
    labels = (random.random(len(true)) < 1.0 / (1.0 + np.exp(-true))).astype(float)
    scale, bias = fit(2.0 * true + 1.0, labels)
    assert scale == pytest.approx(0.5, abs=0.01)
    assert bias == pytest.approx(-0.5, abs=0.03)


def test_an_order_is_never_turned_round() -> None:
    """Log-odds that say the opposite of the truth stay as they are: that is for the gate."""
    labels = np.array([1.0] * 500 + [0.0] * 500)
    assert fit(np.where(labels == 1.0, -1.0, 1.0), labels) == (1.0, 0.0)


def test_the_weights_hold_the_calibration() -> None:
    """The log-odds after it are scale times those before plus bias, for rows never seen, too."""
    torch.manual_seed(0)
    network = EmbeddingMLP(num_numeric=2, vocabulary_sizes=[3]).eval()
    x = ModelInput(torch.randn(500, 2), torch.randint(0, 4, (500, 1)))
    rows = Examples(x, (torch.rand(500) < 0.2).float())
    before = log_odds(network, rows)
    found = calibrate(network, rows)
    assert found.loss_after < found.loss_before
    assert found.rows == 500
    np.testing.assert_allclose(
        log_odds(network, rows), found.scale * before + found.bias, rtol=1e-4, atol=1e-5
    )
