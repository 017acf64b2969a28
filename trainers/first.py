"""The first model of a pipeline: trained from its history, or its declared prior without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from models.dense import CONSTANT, EMBEDDING_MLP, EmbeddingMLP, build, mlp_parameters
from models.registry import Registry
from schemas.errors import ModelError
from schemas.features import FeatureSpec, split
from schemas.manifest import Manifest
from schemas.pipeline import Pipeline
from schemas.training import Recipe
from trainers.dataset import Split, split_history
from trainers.evaluate import evaluate
from trainers.loop import Progress, train


@dataclass(frozen=True, slots=True)
class Published:
    """A version that lies in the registry.

    Attributes:
        version: Its name.
        digest: SHA-256 of its manifest.
        manifest: Everything else about it.
    """

    version: str
    digest: str
    manifest: Manifest


def train_first(
    pipeline: Pipeline,
    registry: Registry,
    *,
    seed: int,
    now_ms: Callable[[], int],
    progress: Progress,
    days: int | None = None,
    recipe: Recipe | None = None,
) -> Published:
    """Train the first version of ``pipeline`` and put it into the registry.

    A pipeline without history gets the module that answers the declared prior, so that it can be
    served from its first event on.

    Raises:
        SetupError: the history cannot be used; the message says what to change.
        FeatureError: a value of the history breaks the declaration.
        ModelError: the training diverged, or the registry refused the version.
    """
    if pipeline.history is None:
        progress("no history declared: the prior answers until there is one")
        manifest, module = _prior(pipeline, now_ms=now_ms)
    else:
        progress("reading the history")
        rows = split_history(
            tuple(pipeline.features),
            pipeline.history(),
            days=pipeline.first_training_days if days is None else days,
        )
        progress(
            f"{len(rows.training)} rows to train, {len(rows.validation)} to stop, "
            f"{len(rows.evaluation)} to judge"
        )
        manifest, module = _trained(
            pipeline, rows, seed=seed, recipe=recipe or Recipe(), now_ms=now_ms, progress=progress
        )
    name, digest = registry.publish(manifest, module.state_dict())
    return Published(name, digest, registry.manifest(pipeline.name, name))


def _prior(pipeline: Pipeline, *, now_ms: Callable[[], int]) -> tuple[Manifest, torch.nn.Module]:
    numeric, category = split(pipeline.features)
    parameters = {"probability": pipeline.target.prior}
    manifest = Manifest(
        pipeline=pipeline.name,
        architecture=CONSTANT,
        parameters=parameters,
        features=FeatureSpec(
            numeric=numeric, category=category, vocabularies=tuple(() for _ in category)
        ),
        weights_sha256="",
        trained_at_ms=now_ms(),
        seed=0,
        created_by=release(),
    )
    return manifest, build(CONSTANT, parameters)


def _trained(
    pipeline: Pipeline,
    rows: Split,
    *,
    seed: int,
    recipe: Recipe,
    now_ms: Callable[[], int],
    progress: Progress,
) -> tuple[Manifest, torch.nn.Module]:
    parameters = mlp_parameters(rows.spec)
    with _seeded(seed):
        module = build(EMBEDDING_MLP, parameters)
        assert isinstance(module, EmbeddingMLP)
        module.learn_scale(rows.training.x.numeric_BF)
        try:
            trained = train(
                module,
                rows.training,
                rows.validation,
                seed=seed,
                recipe=recipe,
                progress=progress,
            )
        except FloatingPointError as cause:
            raise ModelError(f"could not train pipeline={pipeline.name}: {cause}") from cause
    trained_at_ms = now_ms()
    progress("comparing with the baselines on later rows")
    manifest = Manifest(
        pipeline=pipeline.name,
        architecture=EMBEDDING_MLP,
        parameters=parameters,
        features=rows.spec,
        weights_sha256="",
        trained_at_ms=trained_at_ms,
        seed=seed,
        data=rows.source,
        metrics=evaluate(rows, trained.module),
        created_by=release(),
    )
    return manifest, trained.module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch for a while, with one thread, and give the caller its own state back.

    One thread: sums in another order would round otherwise, and the weights of a version should not
    depend on the cores of the machine. The model is too small to gain from a second one.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def release() -> str:
    """The release of Tidemill that runs, for manifests."""
    try:
        return f"tidemill {version('tidemill')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "tidemill"
