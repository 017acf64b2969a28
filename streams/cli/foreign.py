"""`tidemill models import` and `export`: models that others made, and ours for others."""

import shutil
import sys
import time
from pathlib import Path

import click

from streams.cli.console import console, running_if_any
from streams.cli.reference import PIPELINE

IMPORTER = "trainers.importing"


@click.command("import")
@click.argument("pipeline", type=PIPELINE)
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--about",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="JSON: source, vocabularies of the categories, trained_at_ms.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def import_model(pipeline: str, model: Path, about: Path, as_json: bool) -> None:
    """Make a version of MODEL, an .onnx or .safetensors file, and ask the gate about it.

    An ONNX graph takes float [rows, numbers] and int64 [rows, categories], in the order in which
    the pipeline declares its features, and answers the probability of a 1. The index of a word is
    its place in the vocabulary, beginning with 1; 0 is every other word. Nothing of the file is
    ever run as code, and pickles are not read. Exit code 0: the gate passed it.

    \b
    Example:
      tidemill models import flights risk.onnx --about risk.json
    """  # noqa: D301
    from streams.cli.named import Named
    from streams.cli.train import print_result, progress_shown, serving_now, store_if_any
    from streams.rollout.retraining import new_job, only_training, run_job, write_job, write_rows

    if model.suffix not in {".onnx", ".safetensors"}:
        raise click.UsageError(f"{model} is neither .onnx nor .safetensors")
    settings, _stack = running_if_any()
    named = Named.load(pipeline)
    name = named.pipeline.name
    client = store_if_any(settings)
    champion = serving_now(settings, name)
    with only_training(settings, name):
        job = new_job(settings, named.pipeline, named.reference, champion, now_ms=_now_ms())
        folder = write_job(settings, job)
        shutil.copyfile(model, folder / f"model{model.suffix}")
        shutil.copyfile(about, folder / "about.json")
        write_rows(client, named.pipeline, folder, "auto", job)
        with progress_shown(name, quiet=as_json) as show:
            result = run_job(settings, folder, client=client, show=show, program=(IMPORTER,))
    print_result(result, folder, None, as_json=as_json)
    sys.exit(0 if result.verdict is not None and result.verdict.passed else 1)


@click.command("export")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_model(pipeline: str, version: str, file: Path) -> None:
    """Write VERSION as an ONNX graph to FILE, and what it takes and answers to FILE.json.

    The graph is compared with the model to 1e-5 before it is written. FILE.json is what `import`
    takes as --about.

    \b
    Example:
      tidemill models export flights 54464d902222 flights.onnx
    """  # noqa: D301
    import msgspec

    from models.foreign import ONNX
    from models.inference import checked_export
    from models.registry import open_registry
    from schemas.loading import load_pipeline

    settings, _stack = running_if_any()
    manifest, module = open_registry(settings).load(load_pipeline(pipeline).name, version)
    spec = manifest.features
    if manifest.architecture == ONNX:
        graph = module.get_buffer("graph").numpy().tobytes()
    else:
        graph = checked_export(
            module, num_numeric=len(spec.numeric), num_category=len(spec.category)
        )
    about = {
        "source": f"{manifest.pipeline} version {version}",
        "vocabularies": {
            item.name: list(words)
            for item, words in zip(spec.category, spec.vocabularies, strict=True)
        },
        "trained_at_ms": manifest.trained_at_ms,
    }
    file.write_bytes(graph)
    beside = file.with_name(f"{file.name}.json")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2))
    console().print(
        f"{file}: {len(graph):,} bytes; numeric float32 [rows, {len(spec.numeric)}], category "
        f"int64 [rows, {len(spec.category)}] -> score float32 [rows]; {beside}",
        markup=False,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
