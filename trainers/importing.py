"""``python -P -m trainers.importing FOLDER``: somebody else's model becomes a version.

FOLDER is that of a job (`schemas.training`) with three more files: `ABOUT`, and the model as
``model.onnx`` or ``model.safetensors``. What is checked: that the file is one, that it fits the
declared features, that it answers probabilities, row by row the same whatever rows come with it;
then the gate judges it on the rows of the job like any other version. Pickles are not read.
"""

import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from models.dense import build
from models.foreign import ONNX, graph_of
from models.protocol import ModelInput
from models.registry import open_registry
from schemas.arrow import spare_pandas
from schemas.errors import ModelError, SetupError, TidemillError
from schemas.features import FeatureSpec, split
from schemas.loading import load_pipeline
from schemas.manifest import Manifest
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.training import JOB, RESULT, RunResult, TrainingJob, decode_job
from trainers.first import release
from trainers.progress import ProgressLog
from trainers.retrain import champion_of, judge_and_store, prepare_rows
from trainers.windows import JUDGED, Plan, read_rows

ABOUT = "about.json"
CHECKED_ROWS = 33
TOLERANCE = 1e-5


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What another team says of its model.

    Attributes:
        source: Where it comes from, for a person.
        vocabularies: For each category its words, in the order of the model: the first has index 1,
            every other word 0.
        trained_at_ms: End of its training, Unix milliseconds; None: when it is imported.
        architecture: ``onnx``, or the name of one of ours for safetensors.
        parameters: Sizes of that module, by argument name; not for ``onnx``.
    """

    source: str
    vocabularies: dict[str, list[str]] = {}
    trained_at_ms: int | None = None
    architecture: str = ONNX
    parameters: dict[str, Any] = {}


def decode_about(text: bytes) -> About:
    """Decode `ABOUT`.

    Raises:
        SetupError: it is none; the message names the field.
    """
    try:
        return msgspec.json.decode(text, type=About)
    except msgspec.MsgspecError as cause:
        raise SetupError(
            f"could not use {ABOUT}: {cause}. It is one JSON object such as "
            '{"source": "risk team, run 42", "vocabularies": {"country": ["FI", "SE"]}}.'
        ) from cause


def spec_of(pipeline: Pipeline, about: About) -> FeatureSpec:
    """The features of the pipeline with the model's vocabularies.

    Raises:
        SetupError: a category has none, or a vocabulary belongs to nothing or has a word twice.
    """
    numeric, category = split(pipeline.features)
    names = [item.name for item in category]
    if {*names} != {*about.vocabularies}:
        raise SetupError(
            f"could not import: the categories of {pipeline.name} are {sorted(names)}, but there "
            f"are vocabularies of {sorted(about.vocabularies)}"
        )
    for name, words in about.vocabularies.items():
        if len({*words}) != len(words):
            raise SetupError(f"could not import: the vocabulary of {name} has a word twice")
    return FeatureSpec(
        numeric=numeric,
        category=category,
        vocabularies=tuple(tuple(about.vocabularies[name]) for name in names),
    )


def read_model(
    folder: Path, about: About, spec: FeatureSpec
) -> tuple[nn.Module, str, dict[str, Any]]:
    """The module with its weights, the name of its architecture, and its parameters.

    Raises:
        SetupError: there is no file, or both.
        ModelError: it cannot be read, or does not fit.
    """
    files = [
        path for name in ("onnx", "safetensors") if (path := folder / f"model.{name}").exists()
    ]
    if [file.suffix for file in files] not in ([".onnx"], [".safetensors"]):
        raise SetupError(
            f"could not import {[file.name for file in files]}: one .onnx or .safetensors is needed"
        )
    if files[0].suffix == ".onnx":
        content = files[0].read_bytes()
        found = graph_of(content, num_numeric=len(spec.numeric), num_category=len(spec.category))
        state: dict[str, Tensor] = {
            "graph": torch.frombuffer(bytearray(content), dtype=torch.uint8)
        }
        architecture, parameters = ONNX, found
    else:
        architecture, parameters = about.architecture, about.parameters
        try:
            state = safetensors.torch.load_file(files[0])
        except (safetensors.SafetensorError, OSError, ValueError) as cause:
            raise ModelError(f"could not read {files[0].name}: {cause}") from cause
    try:
        module = build(architecture, parameters)
        module.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as cause:
        first = str(cause).strip().replace("\n", " ")
        raise ModelError(f"could not use {files[0].name} as {architecture}: {first}") from cause
    return module.eval(), architecture, parameters


def check_answers(module: nn.Module, spec: FeatureSpec) -> None:
    """Return if it answers probabilities that do not depend on the rows beside them.

    Raises:
        ModelError: it does not.
    """
    dice = torch.Generator().manual_seed(0)
    sizes = [len(words) + 1 for words in spec.vocabularies]
    numeric_BF = torch.randn(CHECKED_ROWS, len(spec.numeric), generator=dice)
    category_BC = torch.stack(
        [torch.randint(0, size, (CHECKED_ROWS,), generator=dice) for size in sizes], dim=1
    ) if sizes else torch.zeros(CHECKED_ROWS, 0, dtype=torch.int64)  # fmt: skip
    batch = ModelInput(numeric_BF, category_BC)
    try:
        with torch.inference_mode():
            together = module(*batch)
            alone = torch.cat([module(numeric_BF[i : i + 1], category_BC[i : i + 1])
                               for i in range(3)])  # fmt: skip
    except (RuntimeError, IndexError, TypeError, ValueError) as cause:
        raise ModelError(f"could not ask the model: {cause}") from cause
    if together.shape != (CHECKED_ROWS,) or not bool(((together >= 0) & (together <= 1)).all()):
        raise ModelError(
            f"could not use the model: {list(together.shape)} answers from "
            f"{float(together.min()):.3g} to {float(together.max()):.3g} for {CHECKED_ROWS} rows; "
            "one probability per row is needed. Add a sigmoid, or take column 1 of a softmax."
        )
    worst = float((together[:3] - alone).abs().max())
    if worst > TOLERANCE:
        raise ModelError(
            f"could not use the model: an answer differs by {worst:.3g} with the rows beside it"
        )


def bring(job: TrainingJob, folder: Path, *, now_ms: int) -> RunResult:
    """Check, publish and judge the model in ``folder``; what `RESULT` then says.

    Raises:
        SetupError, ModelError, FeatureError: it cannot be used, and nothing was published.
    """
    pipeline = load_pipeline(job.reference)
    log = ProgressLog(job, folder)
    about = decode_about((folder / ABOUT).read_bytes())
    spec = spec_of(pipeline, about)
    log.say("preparing", "reading the model")
    module, architecture, parameters = read_model(folder, about, spec)
    check_answers(module, spec)
    log.say("preparing", "reading the rows to judge it by")
    registry = open_registry(Settings.from_environment(), job.registry)
    plan: Plan = prepare_rows(job, pipeline, folder)
    manifest = Manifest(
        pipeline=job.pipeline,
        architecture=architecture,
        parameters=parameters,
        features=spec,
        weights_sha256="",
        trained_at_ms=now_ms if about.trained_at_ms is None else about.trained_at_ms,
        seed=job.seed,
        data=None,
        created_by=f"{about.source} (imported by {release()})",
    )
    return judge_and_store(
        job,
        manifest,
        module.state_dict(),
        registry=registry,
        champion=champion_of(job, registry),
        judged=read_rows(folder / JUDGED),
        features=pipeline.features,
        base_rate=plan.labels_mean,
        log=log,
        now_ms=now_ms,
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Bring the model in FOLDER into the registry, and judge it."""
    spare_pandas()
    torch.set_num_threads(1)
    job = decode_job((folder / JOB).read_bytes())
    try:
        result = bring(job, folder, now_ms=time.time_ns() // 1_000_000)
    except (TidemillError, OSError) as error:
        result = RunResult(run=job.run, error=str(error))
    (folder / RESULT).write_bytes(msgspec.json.encode(result))
    if result.error:
        click.echo(f"error: {result.error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
