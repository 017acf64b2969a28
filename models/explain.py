"""Why a model answered what it did: what each feature adds, from a baseline to the answer.

Three ways, by what there is to look into. Each is complete: the baseline's answer and all
contributions add up to the answer, but for a remainder that is given.

| model | way | baseline |
|---|---|---|
| our networks | integrated gradients | numbers at their mean in training, words it does not know |
| linear learners | weight * (value - mean), exact | the same, as far as it has learned |
| everything else | Shapley values over sampled orders | learners: nothing is known of the event |

Sources: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017, equation 1;
Castro, Gomez and Tejada, Polynomial calculation of the Shapley value based on sampling, 2009.

A contribution says what the model did with a value. It does not say what would happen if the value
were another, and nothing about causes.

Shape letters: F = numeric features, C = categories, S = steps of the path.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from models.dense import EmbeddingMLP
from models.protocol import FeatureColumns, Floats, ModelInput

STEPS = 2048
"""Points on the path from the baseline: the remainder is below 0.001 of log-odds then."""
ORDERS = 32
"""Sampled orders of the features, each taken in both directions."""
MISSING = float("nan")

NETWORK_BASELINE = "numbers at their mean in training, words that the model does not know"
LEARNER_BASELINE = "an event of which nothing is known: numbers at the mean seen so far, no words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Contributions to one answer, in log-odds; of a target that is a number, in its unit.

    Attributes:
        method: How they were found, in words.
        baseline: What they are measured from, in words.
        base: The answer to the baseline.
        answer: The answer that is explained: base + contributions + remainder.
        contributions: By feature, all of them.
    """

    method: str
    baseline: str
    base: float
    answer: float
    contributions: Mapping[str, float]

    @property
    def remainder(self) -> float:
        """What the contributions do not account for."""
        return self.answer - self.base - sum(self.contributions.values())


def integrated_gradients(
    network: EmbeddingMLP, batch: ModelInput, *, numeric: tuple[str, ...], category: tuple[str, ...]
) -> Attribution:
    """Attribute the log-odds of one row: the mean gradient on the way to it, times the way.

    The way is straight and begins at the baseline. A word's goes from the place of unknown words to
    its own; its D numbers count together.
    """
    network = copy.deepcopy(network).double().eval()
    # Beyond its range a number changes nothing, so the way ends where the range does.
    end_F = batch.numeric_BF[0].double().clamp(network.low_F, network.high_F)
    start_F = network.mean_F
    with torch.no_grad():
        end_CD = network.embedded(batch.category_BC)[0]
        start_CD = network.embedded(torch.zeros_like(batch.category_BC))[0]
        ends = network.logits_of(
            torch.stack([start_F, end_F]), torch.stack([start_CD, end_CD])
        ).tolist()
    share_S = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    numeric_SF = torch.lerp(start_F, end_F, share_S[:, None]).requires_grad_()
    embedded_SCD = torch.lerp(start_CD, end_CD, share_S[:, None, None]).requires_grad_()
    by_numeric_SF, by_embedded_SCD = torch.autograd.grad(
        network.logits_of(numeric_SF, embedded_SCD).sum(), [numeric_SF, embedded_SCD],
        materialize_grads=True,
    )  # fmt: skip
    found_F = by_numeric_SF.mean(0) * (end_F - start_F)
    found_C = (by_embedded_SCD.mean(0) * (end_CD - start_CD)).sum(1)
    return Attribution(
        method=f"integrated gradients, {STEPS} steps",
        baseline=NETWORK_BASELINE,
        base=ends[0],
        answer=ends[1],
        contributions=dict(
            zip(numeric + category, found_F.tolist() + found_C.tolist(), strict=True)
        ),
    )


def shapley_values(
    answer: Callable[[FeatureColumns], Floats],
    row: FeatureColumns,
    *,
    baseline: FeatureColumns,
    words: str,
    seed: int = 0,
) -> Attribution:
    """Attribute ``answer(row)``: what a feature adds, on the mean over orders of telling them.

    For models that show nothing but their answers. ``words`` describes the baseline. With the same
    seed the same orders; each order alone accounts for the whole answer.
    """
    features = row.numeric + row.category
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(features)) for _ in range(ORDERS)]
    orders += [order[::-1] for order in orders]
    told = np.zeros((len(orders), len(features) + 1, len(features)), bool)
    for known, order in zip(told, orders, strict=True):
        for place, feature in enumerate(order):
            known[place + 1 :, feature] = True
    answers = answer(_mixed(row, baseline, told.reshape(-1, len(features))))
    steps = np.diff(answers.reshape(len(orders), -1), axis=1)
    sums = np.zeros(len(features))
    for step, order in zip(steps, orders, strict=True):
        sums[order] += step
    means = sums / len(orders)
    return Attribution(
        method=f"Shapley values over {len(orders)} orders",
        baseline=words,
        base=float(answers[0]),
        answer=float(answers[len(features)]),
        contributions=dict(zip(features, means.tolist(), strict=True)),
    )


def _mixed(row: FeatureColumns, baseline: FeatureColumns, told: np.ndarray) -> FeatureColumns:
    """A row for each line of ``told``: features that it names as they are, others as baseline."""
    width = len(row.numeric)
    numeric = np.where(told[:, :width], row.numeric_BF, baseline.numeric_BF)
    own, other = row.words.to_pylist(), baseline.words.to_pylist()
    chosen = [
        [mine if known else theirs for known, mine, theirs in zip(line, own, other, strict=True)]
        for line in told[:, width:]
    ]
    texts = pa.array([text for line in chosen for text in line], pa.utf8())
    return FeatureColumns(
        row.numeric, row.category, np.ascontiguousarray(numeric, np.float32), texts
    )


def nothing_known(row: FeatureColumns) -> FeatureColumns:
    """A row with the same features, all of them missing: to a learner it says nothing."""
    return FeatureColumns(
        row.numeric,
        row.category,
        np.full_like(row.numeric_BF, MISSING),
        pa.nulls(len(row.words), pa.utf8()),
    )


def weighted(
    parts: Sequence[tuple[float, Attribution]], *, bias: float, method: str
) -> Attribution:
    """What is a weighted sum of answers: the same weighted sum of their contributions."""
    names = dict.fromkeys(name for _, part in parts for name in part.contributions)
    return Attribution(
        method=method,
        baseline="; ".join(dict.fromkeys(part.baseline for _, part in parts)),
        base=bias + sum(weight * part.base for weight, part in parts),
        answer=bias + sum(weight * part.answer for weight, part in parts),
        contributions={
            name: sum(weight * part.contributions.get(name, 0.0) for weight, part in parts)
            for name in names
        },
    )
