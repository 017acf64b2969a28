"""Several ranks train what one would have trained, also from a checkpoint in the middle."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.local.ports import free_port
from trainers.distributed import permutation, row_weights, seed_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Distances between weights, by how they were trained."""
    folder = tmp_path_factory.mktemp("ranks")
    result = subprocess.run(
        [sys.executable, "-m", "tests.unit.forked_ranks", str(folder)],
        cwd=ROOT,
        env={**os.environ, "FIRST_PORT": str(free_port(29_600))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "how", ["three", "accumulated", "sharded", "resumed_on_one", "resumed_on_two"]
)
def test_the_number_of_ranks_does_not_change_what_is_learned(
    found: dict[str, Any], how: str
) -> None:
    """Means are exact also where a rank has fewer rows than others, or none: only the order of sums
    differs, which is worth some units in the last place of a float32 after hundreds of steps.
    """
    assert found[how] < 1e-4


def test_a_resumed_training_ends_with_the_same_weights(found: dict[str, Any]) -> None:
    """Bit for bit, drop-out included: nothing depends on what was in memory."""
    assert found["resumed_same"] is True


def test_the_comparisons_can_fail(found: dict[str, Any]) -> None:
    """Other weights of the rows, or drop-out, give another model."""
    assert found["balanced"] > 1e-2
    assert found["differ"] > 1e-2


def test_the_gradient_norm_is_that_of_all_rows_however_they_are_shared(
    found: dict[str, Any],
) -> None:
    """Replicas have the whole gradient each, shards a part of it: both give the same length."""
    assert set(found["norms"]) == {"alone", "three", "sharded"}
    assert all(abs(apart) < 1e-4 for apart in found["norms"].values()), found["norms"]


def test_weights_of_rows_balance_the_labels() -> None:
    """One 1 among four rows: it weighs as much as the three others together."""
    label_N = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    weight_N = row_weights(label_N, balanced=True)
    assert weight_N[0] == pytest.approx(weight_N[1:].sum())
    assert weight_N.mean() == pytest.approx(1.0)
    assert row_weights(label_N, balanced=False).tolist() == [1.0] * 4


def test_the_order_of_rows_is_a_function_of_seed_and_pass() -> None:
    """So a rank that starts in the middle knows which rows are left."""
    order_N = permutation(7, 3, 1000)
    assert sorted(order_N.tolist()) == list(range(1000))
    assert (permutation(7, 3, 1000) == order_N).all()
    assert (permutation(7, 4, 1000) != order_N).any()
    assert len({seed_of(a, b) for a in range(30) for b in range(30)}) == 900
