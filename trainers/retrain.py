"""``python -P -m trainers.retrain FOLDER``: one retraining, from a job to a version and a verdict.

    prepare   the set, and the weights to begin with      windows.py, start.py
    ranks     the training, by torchrun                   launcher.py, distributed.py
    finish    calibrate, publish, judge                   calibrate.py, gate.py

Each step leaves its result in the folder as its last act and is skipped when that is there: a job
whose trainer died is finished by starting it again on the same folder.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import click
import msgspec
import numpy as np
import pyarrow as pa
import safetensors.torch
from torch import Tensor

from models.dense import EMBEDDING_MLP, EmbeddingMLP, mlp_parameters
from models.engine import Loaded
from models.registry import Registry, load_serving, open_registry
from schemas.arrow import spare_pandas
from schemas.errors import ModelError, SetupError, TidemillError
from schemas.features import Feature
from schemas.loading import load_pipeline
from schemas.manifest import Announcement, Manifest, Metrics
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.training import (
    JOB,
    RESULT,
    ROWS,
    SOURCE,
    RowsSource,
    RunResult,
    TrainingJob,
    decode_job,
)
from trainers.calibrate import calibrate
from trainers.evaluate import measure
from trainers.first import release
from trainers.gate import judge, refused
from trainers.launcher import Hosts, Launcher, RayTrain, Torchrun, kubernetes_job
from trainers.progress import ProgressLog
from trainers.start import OUTCOME, START, TRAINED, cold, read_network, warm
from trainers.windows import (
    ENCODED,
    JUDGED,
    EncodedRows,
    Plan,
    prepare,
    read_plan,
    read_rows,
)

SCALE_ROWS_MAX = 1_000_000
"""Evenly spread training rows from which range, mean and spread are taken."""

Clock = Callable[[], int]
STEPS = ("prepare", "ranks", "finish")


def retrain(
    job: TrainingJob,
    folder: Path,
    registry: Registry,
    launcher: Launcher,
    *,
    steps: Sequence[str] = STEPS,
    now_ms: Clock,
) -> None:
    """Bring the job to its end, or through some of its steps; `RESULT` says how it ended.

    Raises:
        SetupError: the set cannot be used; the message says what to change.
        FeatureError: a value breaks the declaration.
        ModelError: the ranks or the registry failed.
    """
    pipeline = load_pipeline(job.reference)
    log = ProgressLog(job, folder, now_ms=now_ms)
    if "prepare" in steps:
        prepare_job(job, pipeline, folder, registry, log)
    if "ranks" in steps and not (folder / OUTCOME).exists():
        launcher.launch(folder)
    if "finish" in steps:
        finish_job(job, pipeline, folder, registry, log, now_ms=now_ms)


def prepare_job(
    job: TrainingJob, pipeline: Pipeline, folder: Path, registry: Registry, log: ProgressLog
) -> None:
    """Make the set and the weights to begin with, unless they are there."""
    if (folder / START).exists():
        return
    if pipeline.target.kind != "binary":
        raise SetupError(
            f"could not train: the target of {pipeline.name} is a number; only targets that are "
            "yes or no can be trained."
        )
    log.say("preparing", "reading and encoding the rows")
    plan = prepare_rows(job, pipeline, folder)
    network = _begin(job, plan, folder, registry)
    draft = folder / f"{START}.draft"
    safetensors.torch.save_file(network.state_dict(), draft)
    draft.replace(folder / START)
    training, stopping, calibrating, judged = plan.rows
    log.say(
        "preparing",
        f"{training} rows to train, {stopping} to stop, {calibrating} to calibrate, "
        f"{judged} to judge",
    )


def finish_job(
    job: TrainingJob,
    pipeline: Pipeline,
    folder: Path,
    registry: Registry,
    log: ProgressLog,
    *,
    now_ms: Clock,
) -> None:
    """Calibrate what the ranks left, publish it, judge it, and store the verdict beside it."""
    log.say("judging", "calibrating")
    plan = read_plan(folder)
    network = read_network(plan, folder / TRAINED)
    rows = EncodedRows(folder / ENCODED, plan.spec)
    first = plan.rows[0] + plan.rows[1]
    calibration = calibrate(network, rows.gather(np.arange(first, first + plan.rows[2])))
    judged = read_rows(folder / JUDGED)
    champion = champion_of(job, registry)
    manifest = Manifest(
        pipeline=job.pipeline,
        architecture=EMBEDDING_MLP,
        parameters=mlp_parameters(plan.spec),
        features=plan.spec,
        weights_sha256="",
        trained_at_ms=now_ms(),
        seed=job.seed,
        data=plan.data,
        metrics=_metrics(plan, network, champion, judged, pipeline),
        created_by=release(),
        parent=job.champion if job.start == "warm" else "",
        calibration=calibration,
    )
    result = judge_and_store(
        job,
        manifest,
        network.state_dict(),
        registry=registry,
        champion=champion,
        judged=judged,
        features=pipeline.features,
        base_rate=plan.labels_mean,
        log=log,
        now_ms=now_ms(),
    )
    _write(folder / RESULT, msgspec.json.encode(result))


def judge_and_store(
    job: TrainingJob,
    manifest: Manifest,
    weights: Mapping[str, Tensor],
    *,
    registry: Registry,
    champion: Loaded | None,
    judged: pa.Table,
    features: Sequence[Feature],
    base_rate: float,
    log: ProgressLog,
    now_ms: int,
) -> RunResult:
    """Publish a version, ask the gate about it as it would serve, and store what it said.

    Raises:
        ModelError: the registry refused it, or the champion cannot answer the rows.
    """
    version, digest = registry.publish(manifest, weights)
    log.say("judging", f"version {version} against {job.champion or 'the base rate'}")
    try:
        challenger = _loaded(registry, job.pipeline, version, digest)
    except ModelError as error:
        verdict = refused(manifest, version, digest, why=str(error), now_ms=now_ms)
    else:
        verdict = judge(
            challenger,
            manifest,
            champion,
            judged=judged,
            features=features,
            gate=job.gate,
            digest=digest,
            base_rate=base_rate,
            size_bytes=sum(one.numel() * one.element_size() for one in weights.values()),
            seed=job.seed,
            now_ms=now_ms,
        )
    registry.store_verdict(verdict)
    log.say("done", f"version {version}: {verdict.reason}")
    return RunResult(run=job.run, version=version, digest=digest, verdict=verdict)


def prepare_rows(job: TrainingJob, pipeline: Pipeline, folder: Path) -> Plan:
    """Split and write the rows that were put into the folder, or the history.

    Raises:
        SetupError, FeatureError: see `prepare`.
    """
    table, source = _rows(pipeline, folder)
    return prepare(pipeline.features, table, source, folder, as_of_ms=job.as_of_ms, days=job.days)


def _rows(pipeline: Pipeline, folder: Path) -> tuple[pa.Table, RowsSource]:
    """The rows that were put into the folder, or the history of the pipeline."""
    if (folder / ROWS).exists():
        source = msgspec.json.decode((folder / SOURCE).read_bytes(), type=RowsSource)
        return read_rows(folder / ROWS), source
    if pipeline.history is None:
        raise SetupError(
            f"could not train: {pipeline.name} declares no history, and there are no examples. "
            "Declare one, or wait for labels."
        )
    return pipeline.history(), RowsSource(words="history of the pipeline")


def _begin(job: TrainingJob, plan: Plan, folder: Path, registry: Registry) -> EmbeddingMLP:
    if job.start == "warm":
        if not job.champion:
            raise SetupError("could not start warm: nothing serves yet. Start cold.")
        manifest, module = registry.load(job.pipeline, job.champion, digest=job.champion_digest)
        return warm(plan.spec, manifest, module)
    count = min(plan.rows[0], SCALE_ROWS_MAX)
    numbers = np.linspace(0, plan.rows[0] - 1, count).astype(np.int64)
    sample = EncodedRows(folder / ENCODED, plan.spec).gather(numbers)
    return cold(plan.spec, sample.x.numeric_BF, seed=job.seed)


def champion_of(job: TrainingJob, registry: Registry) -> Loaded | None:
    """What the job is to beat, as it serves; None if nothing did.

    Raises:
        ModelError: it cannot be loaded.
    """
    if not job.champion:
        return None
    return _loaded(registry, job.pipeline, job.champion, job.champion_digest)


def _loaded(registry: Registry, pipeline: str, version: str, digest: str) -> Loaded:
    """As a worker loads it."""
    return load_serving(
        registry,
        Announcement(pipeline=pipeline, version=version, digest=digest, epoch=0, announced_at_ms=0),
    )


def _metrics(
    plan: Plan,
    network: EmbeddingMLP,
    champion: Loaded | None,
    judged: pa.Table,
    pipeline: Pipeline,
) -> dict[str, Metrics]:
    """Quality on the judged rows of the new model, the champion and no skill at all."""
    if not len(judged):
        return {}
    from models.features import Encoder, from_table
    from trainers.evaluate import predict

    columns = from_table(pipeline.features, judged)
    labels = judged["label"].to_numpy().astype(np.float64)
    scores = {
        "model": predict(network, Encoder(plan.spec)(columns)),
        "no_skill": np.full(len(labels), plan.labels_mean),
    }
    if champion is not None:
        scores["champion"] = champion.score(columns).astype(np.float64)
    return {name: measure(labels, found) for name, found in scores.items()}


def _write(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(path)


@click.command(
    epilog="Example: python -P -m trainers.retrain /shared/jobs/flights-1 --step ranks "
    "--hosts 2 --rendezvous 10.0.0.1:29400 --address 10.0.0.2"
)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--ranks", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option(
    "--step",
    type=click.Choice(["all", "prepare", "ranks", "finish"]),
    default="all",
    show_default=True,
    help="With several hosts: prepare on one, ranks on each at once, finish on one.",
)
@click.option(
    "--launcher", type=click.Choice(["torchrun", "ray"]), default="torchrun", show_default=True
)
@click.option("--hosts", "num_hosts", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--rendezvous", default="", help="host:port of one of the hosts.")
@click.option("--address", default="", help="Of this host, as the others reach it.")
@click.option("--kubernetes", "image", default="", help="Print the step ranks as a job for it.")
@click.option("--claim", default="jobs", show_default=True, help="Volume claim of that job.")
def main(  # noqa: PLR0917  # click passes by name
    folder: Path,
    ranks: int,
    step: Literal["all", "prepare", "ranks", "finish"],
    launcher: Literal["torchrun", "ray"],
    num_hosts: int,
    rendezvous: str,
    address: str,
    image: str,
    claim: str,
) -> None:
    """Bring the job in FOLDER to its end, or do one step of it.

    Exit code 0: it is done; whether the version passed the gate is in result.json. 1: it is not;
    the reason is on standard error, and starting it again goes on where it ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    spare_pandas()
    job = decode_job((folder / JOB).read_bytes())
    hosts = None
    if image:
        click.echo(
            kubernetes_job(
                name=job.run.lower().replace("_", "-"),
                image=image,
                hosts=num_hosts,
                ranks=ranks,
                claim=claim,
                folder=folder.absolute().name,
            )
        )
        return
    if num_hosts > 1:
        if not rendezvous or not address:
            raise click.UsageError("several hosts need --rendezvous and --address")
        hosts = Hosts(num=num_hosts, rendezvous=rendezvous, address=address, run=job.run)
    try:
        retrain(
            job,
            folder,
            open_registry(Settings.from_environment(), job.registry),
            RayTrain(ranks=ranks) if launcher == "ray" else Torchrun(ranks=ranks, hosts=hosts),
            steps=STEPS if step == "all" else (step,),
            now_ms=_now_ms,
        )
    except (TidemillError, OSError) as error:
        ProgressLog(job, folder).say("failed", str(error))
        _write(folder / RESULT, msgspec.json.encode(RunResult(run=job.run, error=str(error))))
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    main()
