"""``python -P -m trainers.ray_ranks FOLDER --ranks N``: the ranks of a job as workers of Ray Train.

For those who have a Ray cluster: it places the ranks on its machines and starts them again when one
dies; what they do is the same as under torchrun. The folder of the job lies on a file system that
all machines mount, and Tidemill is installed on each. ``RAY_ADDRESS`` names the cluster; without it
Ray runs on this machine. Needs the optional group tidemill[ray].
"""

from pathlib import Path

import click

from schemas.errors import SetupError
from trainers.launcher import RESTARTS_MAX
from trainers.ranks import GROUP_TIMEOUT_S

RESULTS = "ray"
"""Folder below the job's for what Ray itself writes."""


def rank(options: dict[str, str]) -> None:
    """One worker; Ray has connected it to the others."""
    from trainers.distributed import rank_in

    rank_in(Path(options["folder"]))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--ranks", type=click.IntRange(1, 1024), default=1, show_default=True)
def main(folder: Path, ranks: int) -> None:
    """Train the prepared job in FOLDER on Ray; returns when its ranks have ended."""
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as missing:
        raise SetupError(
            "could not train on Ray: it is not installed. pip install 'tidemill[ray]'."
        ) from missing
    import torch

    ray.init(logging_level="WARNING", include_dashboard=False)
    trainer = TorchTrainer(
        rank,
        train_loop_config={"folder": str(folder.absolute())},
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.absolute() / RESULTS),
            failure_config=FailureConfig(max_failures=RESTARTS_MAX),
        ),
        torch_config=TorchConfig(timeout_s=int(GROUP_TIMEOUT_S)),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
