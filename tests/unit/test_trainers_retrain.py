"""A whole retraining, from the job to the verdict; the ranks are this process."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from click.testing import CliRunner

from models.registry import Registry, open_registry
from schemas.errors import SetupError
from schemas.settings import Settings
from schemas.training import JOB, RESULT, Gate, Recipe, RunResult, TrainingJob
from trainers import distributed
from trainers.ranks import Ranks
from trainers.retrain import main, retrain
from trainers.windows import read_plan

DECLARATION = """
from schemas.pipeline import Pipeline, label
from tests.unit.training_jobs import FEATURES, history

machines = Pipeline(name="machines", key="machine_id", features=FEATURES,
                    target=label("failed"), history=lambda: history({arguments}))
"""


class Here:
    """Launches nothing: one rank, in this process."""

    def __init__(self) -> None:
        self.launches = 0

    def launch(self, folder: Path) -> None:
        self.launches += 1
        job = msgspec.json.decode((folder / JOB).read_bytes(), type=TrainingJob)
        distributed.train(job, read_plan(folder), folder, Ranks(0, 1, torch.device("cpu")))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(Settings(home=tmp_path / "home"))


def done(
    folder: Path, registry: Registry, *, arguments: str = "", launcher: Any = None, **more: Any
) -> RunResult:
    """The result of a job in ``folder``, made there unless it is there."""
    if not folder.exists():
        folder.mkdir()
        file = folder / "machines.py"
        file.write_text(DECLARATION.format(arguments=arguments))
        fields: dict[str, Any] = {
            "run": folder.name,
            "pipeline": "machines",
            "reference": str(file),
            "registry": "none",
            "recipe": Recipe(epochs_max=5),
            # The models here are so good that chance moves them by more than the usual margin.
            "gate": Gate(loss_margin=0.02, latency_ms_max=60_000.0),
        }
        job = TrainingJob(**{**fields, **more})
        (folder / JOB).write_bytes(msgspec.json.encode(job))
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=TrainingJob)
    retrain(job, folder, registry, launcher or Here(), now_ms=lambda: 5)
    return msgspec.json.decode((folder / RESULT).read_bytes(), type=RunResult)


def test_shuffled_labels_are_stopped_and_honest_ones_are_not(
    tmp_path: Path, registry: Registry
) -> None:
    """A first version, one that learned from noise, and one that goes on from the first."""
    first = done(tmp_path / "first", registry)
    assert first.verdict is not None
    assert first.verdict.passed, first.verdict.reason
    champion: dict[str, Any] = {"champion": first.version, "champion_digest": first.digest}

    worse = done(tmp_path / "worse", registry, arguments="shuffled_until=0.8", **champion)
    assert worse.verdict is not None
    assert not worse.verdict.passed
    failed = {check.name for check in worse.verdict.checks if not check.passed}
    assert failed >= {"loss_excess", "errors_excess"}
    assert registry.verdict("machines", worse.version) == worse.verdict

    warm = done(tmp_path / "warm", registry, arguments="seed=1", start="warm", **champion)
    assert warm.verdict is not None
    assert warm.verdict.passed, warm.verdict.reason
    manifest = registry.manifest("machines", warm.version)
    assert manifest.parent == first.version
    assert manifest.calibration is not None
    assert manifest.calibration.loss_after <= manifest.calibration.loss_before
    assert manifest.metrics.keys() == {"model", "champion", "no_skill"}
    assert registry.needed("machines", {warm.version}) == {warm.version, first.version}


def test_a_job_that_broke_off_goes_on_where_it_ended(tmp_path: Path, registry: Registry) -> None:
    """Started again after the training, it publishes the same version without training."""
    launcher = Here()
    first = done(tmp_path / "job", registry, launcher=launcher)
    (tmp_path / "job" / RESULT).unlink()
    assert done(tmp_path / "job", registry, launcher=launcher).version == first.version
    assert launcher.launches == 1


def test_the_command_prints_a_job_for_kubernetes(tmp_path: Path) -> None:
    """With the folder's name below the volume, and a name that Kubernetes takes."""
    job = TrainingJob(run="big_flights-1", pipeline="p", reference="p", registry="r")
    (tmp_path / JOB).write_bytes(msgspec.json.encode(job))
    result = CliRunner().invoke(main, [str(tmp_path), "--kubernetes", "tidemill:1", "--hosts", "2"])
    assert result.exit_code == 0, result.output
    assert '"name": "big-flights-1"' in result.output
    assert f"/tidemill/{tmp_path.name}" in result.output


def test_a_warm_start_needs_something_to_begin_with(tmp_path: Path, registry: Registry) -> None:
    """The message says what to do."""
    with pytest.raises(SetupError, match="Start cold"):
        done(tmp_path / "job", registry, start="warm")
