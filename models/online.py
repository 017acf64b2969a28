"""Which online learners there are, what they take, and how a declaration becomes one.

    learner=online("logistic_regression", learning_rate=0.05)

| name | target | learns | weights |
|---|---|---|---|
| logistic_regression | binary | numbers scaled, one weight per word | exact |
| linear_regression | number | numbers scaled, one weight per word | exact |
| hoeffding_adaptive_tree | both | a tree that replaces branches that got worse | exact |
| adaptive_random_forest | both | trees, each replaced when its error drifts | repeats |
| naive_bayes | binary | a Gaussian per number, counts per word | repeats |
| matrix_factorization | both | factors of two categories, ``user`` and ``item`` | repeats |
| half_space_trees | binary | how unusual the numbers are; the label is not used | repeats |
| torch_mlp | both | a small network on mini-batches, for high rates | exact |

All but ``torch_mlp`` are River's. With ``shards="partition"`` every partition of the examples has a
learner of its own: they scale with the partitions and need no order between them, but each sees
only its own keys, so with P partitions it knows 1/P of the examples and learns as much slower; a
word that is rare in one partition is nearly unknown to its learner. With ``shards="single"`` one
learner sees everything, in the one order that the single partition of the examples topic fixes: the
best quality, and the speed of one core.

This file imports neither River nor torch, so that a declaration can be checked at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.errors import PipelineError
from schemas.features import Category, Numeric
from schemas.imports import without
from schemas.pipeline import Online, Parameter, Pipeline, Target

if TYPE_CHECKING:
    from models.protocol import Learner


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter of a learner: its default, and what it may be."""

    default: Parameter | None
    lowest: float = 0.0
    highest: float = 0.0
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str:
        """What is wrong with ``value``; empty if nothing is."""
        if self.choices:
            return "" if value in self.choices else f"must be one of {', '.join(self.choices)}"
        if self.default is None:
            return "" if isinstance(value, str) else "must be the name of a category feature"
        whole = isinstance(self.default, int)
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if right and self.lowest <= value <= self.highest:  # type: ignore[operator]  # a number
            return ""
        return f"must be a {'whole ' * whole}number, {self.lowest:g} to {self.highest:g}"


_SEED = Setting(0, 0, 2**31 - 1)
_LINEAR = {
    "learning_rate": Setting(0.01, 1e-6, 10.0),
    "intercept_learning_rate": Setting(0.01, 0.0, 10.0),
    "l2": Setting(0.0, 0.0, 100.0),
    "optimizer": Setting("sgd", choices=("sgd", "adagrad", "adam")),
}
_TREE = {
    "grace_period": Setting(200, 1, 1_000_000),
    "delta": Setting(1e-7, 1e-12, 0.5),
    "tau": Setting(0.05, 0.0, 1.0),
    "depth_max": Setting(20, 1, 50),
    "seed": _SEED,
}

LEARNERS: Mapping[str, Mapping[str, Setting]] = {
    "logistic_regression": _LINEAR,
    "linear_regression": _LINEAR,
    "hoeffding_adaptive_tree": _TREE,
    "adaptive_random_forest": {
        **_TREE,
        "grace_period": Setting(50, 1, 1_000_000),
        "delta": Setting(0.01, 1e-12, 0.5),
        "num_trees": Setting(10, 1, 100),
    },
    "naive_bayes": {"alpha": Setting(1.0, 1e-6, 1e6)},
    "matrix_factorization": {
        "user": Setting(None),
        "item": Setting(None),
        "factors": Setting(10, 1, 256),
        "learning_rate": Setting(0.025, 1e-6, 10.0),
        "l2": Setting(0.0, 0.0, 100.0),
        "seed": _SEED,
    },
    "half_space_trees": {
        "num_trees": Setting(10, 1, 100),
        "height": Setting(8, 1, 12),
        "window_rows": Setting(250, 2, 1_000_000),
        "seed": _SEED,
    },
    "torch_mlp": {
        "hidden": Setting(32, 1, 1024),
        "embedding_width": Setting(8, 1, 64),
        "buckets": Setting(4096, 16, 1 << 18),
        "batch_rows": Setting(64, 1, 8192),
        "learning_rate": Setting(0.05, 1e-6, 10.0),
        "seed": _SEED,
    },
}
"""Every learner and its parameters. Trees grow to ``depth_max`` at most: that bounds them."""

_BINARY_ONLY = {"logistic_regression", "naive_bayes", "half_space_trees"}
_NUMBER_ONLY = {"linear_regression"}
_NEED_NUMBERS = {"half_space_trees"}


def check_learner(pipeline: Pipeline) -> None:
    """Return if the learner that ``pipeline`` declares exists and fits it, or if it declares none.

    Raises:
        PipelineError: with the file and line of the declaration, the field and the fix.
    """
    if pipeline.learner is None:
        return
    place = f"{pipeline.source}: pipeline {pipeline.name!r}"
    if pipeline.champion == "hybrid" and pipeline.target.kind == "number":
        raise PipelineError(
            f"{place}: champion: 'hybrid' corrects a probability, but target "
            f"{pipeline.target.name!r} is a number. Take 'online' or 'frozen'."
        )
    for problem in _problems(pipeline.learner, pipeline.target) or _unfit(pipeline):
        raise PipelineError(f"{place}: learner: {problem}")


def make_learner(declared: Online, target: Target) -> "Learner":
    """A learner that has learned nothing yet. Imports River (seconds) or torch.

    Raises:
        PipelineError: it is not declared as it should be; `check_learner` also says where.
    """
    for problem in _problems(declared, target):
        raise PipelineError(f"could not make a learner: {problem}")
    settings = {name: item.default for name, item in LEARNERS[declared.name].items()}
    settings |= dict(declared.parameters)
    if declared.name == "torch_mlp":
        from models.torch_learner import TorchMLP

        return TorchMLP(settings, target)
    with without("sklearn"):  # River takes it along where it is installed, and pandas with it
        from models.river_learners import make

    return make(declared.name, settings, target)


def fingerprint(declared: Online, target: Target) -> str:
    """What a snapshot belongs to: the declaration with its defaults, and the library behind it.

    Another library may keep its state in another way: its snapshots are not to be loaded.
    """
    from importlib.metadata import version

    library = "torch" if declared.name == "torch_mlp" else "river"
    settings = {name: item.default for name, item in LEARNERS[declared.name].items()}
    settings |= dict(declared.parameters)
    text = " ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    release = version(library).split("+")[0]
    return f"{declared.name} {text} target={target.kind} {library}={release}"


def _problems(declared: Online, target: Target) -> list[str]:
    name = declared.name
    if name not in LEARNERS:
        return [f"there is no {name!r}. Take one of {', '.join(LEARNERS)}."]
    if name in _BINARY_ONLY and target.kind != "binary":
        problem = f"{name} learns yes or no, but target {target.name!r} is a number."
        return [f"{problem} Take linear_regression, or declare a binary label."]
    if name in _NUMBER_ONLY and target.kind == "binary":
        problem = f"{name} learns numbers, but target {target.name!r} is binary."
        return [f"{problem} Take logistic_regression, or declare label(..., kind='number')."]
    known, given = LEARNERS[name], dict(declared.parameters)
    found = [
        f"{name} has no parameter {given_name!r}. It takes {', '.join(known)}."
        for given_name in given
        if given_name not in known
    ]
    for parameter, setting in known.items():
        if parameter not in given:
            if setting.default is None:
                found.append(f"{name} needs {parameter}=, the name of a category feature.")
        elif problem := setting.problem(given[parameter]):
            found.append(f"{parameter}={given[parameter]!r} {problem}.")
    return found


def _unfit(pipeline: Pipeline) -> list[str]:
    declared = pipeline.learner
    assert declared is not None
    words = {f.name for f in pipeline.features if isinstance(f, Category)}
    found = [
        f"{parameter}={value!r} is no category of this pipeline. Take one of "
        f"{', '.join(sorted(words)) or 'those you declare with category(...)'}."
        for parameter, value in declared.parameters
        if LEARNERS[declared.name][parameter].default is None and value not in words
    ]
    if declared.name in _NEED_NUMBERS and not any(
        isinstance(f, Numeric) for f in pipeline.features
    ):
        found.append(f"{declared.name} looks at numbers only. Declare a numeric(...) feature.")
    return found
