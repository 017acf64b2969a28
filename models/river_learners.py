"""River's learners behind the one protocol, by the names of `models.online`."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from river import anomaly, forest, naive_bayes, optim, preprocessing, reco, tree

from models.protocol import FeatureColumns, Floats
from models.river_base import RiverLearner, Settings
from models.river_linear import LinearRegression, LogisticRegression
from models.rows import Row, number_rows, word_rows
from schemas.pipeline import Target


class _Nominal(RiverLearner):
    """Numbers and words in one dict: for learners that split by a word itself.

    River's trees note in a leaf which classes they were asked about, so `score` asks a copy; the
    copy is made when it is asked for the first time after something was learned.
    """

    _copy: tuple[Any, ...] | None = None

    def score(self, columns: FeatureColumns) -> Floats:
        """See `Learner`."""
        if self._copy is None:
            self._copy = copy.deepcopy(self._parts)
        own, self._parts = self._parts, self._copy
        try:
            return super().score(columns)
        finally:
            self._parts = own

    def _restored(self) -> None:
        self._copy = None

    def _rows(self, columns: FeatureColumns) -> Sequence[Row]:
        rows = number_rows(columns)
        for row, words in zip(rows, word_rows(columns), strict=True):
            row.update(
                (n, w) for n, w in zip(columns.category, words, strict=True) if w is not None
            )
        return rows

    def _say(self, row: Row) -> float:
        (model,) = self._parts
        if self._binary:
            said = model.predict_proba_one(row)
            return said.get(True, 0.0) / (sum(said.values()) or 1.0) if said else math.nan
        answer = model.predict_one(row)
        return math.nan if answer is None else float(answer)

    def _learn(self, row: Row, label: float, weight: float) -> None:
        (model,) = self._parts
        y = bool(label) if self._binary else label
        if self.weighted:
            model.learn_one(row, y, w=weight)
        else:
            model.learn_one(row, y)


def _tree_settings(settings: Settings, *, binary: bool) -> Settings:
    taken = {name: settings[name] for name in ("grace_period", "delta", "tau", "seed")}
    # Of regression trees, River's usual leaves are linear models, which fail on words, and its
    # usual splitters search trees without a bound, too deep for pickle after a while.
    other = {"leaf_prediction": "mean", "splitter": tree.splitter.QOSplitter()}
    return taken | ({} if binary else other) | {"max_depth": settings["depth_max"]}


class AdaptiveTree(_Nominal):
    """A Hoeffding adaptive tree (Bifet and Gavalda, 2009)."""

    weighted = True

    def _make(self, settings: Settings) -> tuple[Any, ...]:
        kind = (
            tree.HoeffdingAdaptiveTreeClassifier
            if self._binary
            else tree.HoeffdingAdaptiveTreeRegressor
        )
        return (kind(**_tree_settings(settings, binary=self._binary)),)


class AdaptiveForest(_Nominal):
    """An adaptive random forest (Gomes et al., 2017)."""

    def _make(self, settings: Settings) -> tuple[Any, ...]:
        kind = forest.ARFClassifier if self._binary else forest.ARFRegressor
        return (
            kind(n_models=settings["num_trees"], **_tree_settings(settings, binary=self._binary)),
        )


class NaiveBayes(RiverLearner):
    """A Gaussian per number, counts per word, multiplied as if independent."""

    def _make(self, settings: Settings) -> tuple[Any, ...]:
        river: Any = naive_bayes  # untyped there
        return river.GaussianNB(), river.MultinomialNB(alpha=settings["alpha"])

    def _rows(self, columns: FeatureColumns) -> Sequence[Any]:
        words = [
            {f"{n}={w}": 1 for n, w in zip(columns.category, row, strict=True) if w is not None}
            for row in word_rows(columns)
        ]
        return list(zip(number_rows(columns), words, strict=True))

    def _say(self, row: Any) -> float:
        gaussian, counts = self._parts
        numbers = gaussian.joint_log_likelihood(row[0])
        if not numbers:
            return math.nan
        words = counts.joint_log_likelihood(row[1]) if row[1] else {}
        # Both contain the prior of the class: it must count once.
        sums = {
            label: value + (words[label] - math.log(counts.p_class(label)) if words else 0.0)
            for label, value in numbers.items()
        }
        if len(sums) == 1:
            return float(next(iter(sums)))
        return 1.0 / (1.0 + math.exp(min(sums[False] - sums[True], 700.0)))

    def _learn(self, row: Any, label: float, weight: float) -> None:
        gaussian, counts = self._parts
        gaussian.learn_one(row[0], bool(label))
        counts.learn_one(row[1], bool(label))


class MatrixFactorization(RiverLearner):
    """Biases and factors of two categories (Paterek, 2007). A word it never met adds nothing."""

    def _make(self, settings: Settings) -> tuple[Any, ...]:
        step = optim.SGD(settings["learning_rate"])
        seed = settings["seed"]
        model = reco.BiasedMF(
            n_factors=settings["factors"],
            bias_optimizer=step,
            latent_optimizer=step,
            l2_bias=settings["l2"],
            l2_latent=settings["l2"],
            latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=seed),
            seed=seed,
        )
        return (model,)

    def _rows(self, columns: FeatureColumns) -> Sequence[Any]:
        rows = word_rows(columns)
        missing = len(columns.category)
        places = [
            columns.category.index(name) if name in columns.category else missing
            for name in (str(self._settings["user"]), str(self._settings["item"]))
        ]
        return [tuple((*row, None)[place] for place in places) for row in rows]

    def _say(self, row: Any) -> float:
        # Not predict_one: it makes factors for words it never met, which changes the model.
        (model,) = self._parts
        if not model.global_mean.n:
            return math.nan
        user, item = row
        said = model.global_mean.get()
        said += model.u_biases.get(user, 0.0) + model.i_biases.get(item, 0.0)
        if user in model.u_latents and item in model.i_latents:
            said += np.dot(model.u_latents[user], model.i_latents[item])
        return float(said)

    def _learn(self, row: Any, label: float, weight: float) -> None:
        (model,) = self._parts
        user, item = row
        if user is None or item is None:
            raise KeyError("a row without a user or an item teaches nothing")
        model.learn_one(user, item, label)


class HalfSpaceTrees(RiverLearner):
    """How unusual the numbers of a row are, 0 to 1 (Tan et al., 2011). Labels are not used.

    The trees are built of the numbers of the first row: one that emerges later is not looked at.
    """

    def _make(self, settings: Settings) -> tuple[Any, ...]:
        trees = anomaly.HalfSpaceTrees(
            n_trees=settings["num_trees"],
            height=settings["height"],
            window_size=settings["window_rows"],
            seed=settings["seed"],
        )
        return preprocessing.MinMaxScaler(), trees

    def _rows(self, columns: FeatureColumns) -> Sequence[Any]:
        return number_rows(columns)

    def _say(self, row: Any) -> float:
        scaler, trees = self._parts
        known = {name: value for name, value in row.items() if name in scaler.min}
        return float(trees.score_one(scaler.transform_one(known))) if known else math.nan

    def _learn(self, row: Any, label: float, weight: float) -> None:
        scaler, trees = self._parts
        if row:
            scaler.learn_one(row)
            trees.learn_one(scaler.transform_one(row))


_KINDS: dict[str, type[RiverLearner]] = {
    "logistic_regression": LogisticRegression,
    "linear_regression": LinearRegression,
    "hoeffding_adaptive_tree": AdaptiveTree,
    "adaptive_random_forest": AdaptiveForest,
    "naive_bayes": NaiveBayes,
    "matrix_factorization": MatrixFactorization,
    "half_space_trees": HalfSpaceTrees,
}


def make(name: str, settings: Settings, target: Target) -> RiverLearner:
    """The learner ``name`` of `models.online.LEARNERS`; the settings are complete and checked."""
    return _KINDS[name](copy.copy(settings), target)
