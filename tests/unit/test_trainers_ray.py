"""The ranks on Ray Train: the same weights as under torchrun. Runs where tidemill[ray] is."""

from pathlib import Path

import msgspec
import pytest

from tests.unit.training_jobs import job_in, same
from trainers.launcher import RayTrain, Torchrun
from trainers.start import TRAINED

pytest.importorskip("ray", reason="the group tidemill[ray] is not installed")


@pytest.mark.timeout(280)
def test_ranks_on_ray_learn_what_ranks_of_torchrun_learn(tmp_path: Path) -> None:
    for name, launcher in (("ray", RayTrain(ranks=2)), ("torchrun", Torchrun(ranks=2))):
        job, _plan = job_in(tmp_path / name, epochs_max=2)
        (tmp_path / name / "job.json").write_bytes(msgspec.json.encode(job))
        launcher.launch(tmp_path / name)
    assert same(tmp_path / "ray" / TRAINED, tmp_path / "torchrun" / TRAINED)
