"""Runs trainings on forked ranks, for test_trainers_distributed: torch is imported once for all.

``python forked_ranks.py FOLDER`` prints one JSON object.
"""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DDP imports it: once here instead of in every rank
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.unit.training_jobs import distance, history, job_in, same
from trainers import distributed
from trainers.checkpoint import Checkpoints
from trainers.loop import rows_of_a_step
from trainers.ranks import joined
from trainers.start import START, TRAINED
from trainers.windows import ENCODED, EncodedRows

ports = iter(range(int(os.environ["FIRST_PORT"]), 65_535))
warnings.simplefilter("ignore")


def run(folder: Path, job: Any, plan: Any, *, ranks: int, before: Callable[[], None]) -> list[int]:
    """Train on so many ranks; return their exit codes."""
    port = str(next(ports))
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            try:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                torch.set_num_threads(1)
                before()
                with joined() as group:
                    distributed.train(job, plan, folder, group)
            except SystemExit as left:
                os._exit(int(str(left.code)))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def nothing() -> None:
    """Train as it is."""


def without_dropout() -> None:
    """Which units drop out depends on the rank: without it the sums are all that may differ."""
    read = distributed.read_network

    def undropped(*arguments: Any) -> Any:
        network = read(*arguments)
        for layer in network.layers:
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        return network

    distributed.read_network = undropped  # type: ignore[attr-defined]
    tell = distributed.tell

    def noted(log: Any, at: Any, recipe: Any, steps: int, taken: Any, **facts: Any) -> None:
        if at.epoch == 0 and at.step == 1:
            log._path.with_name("norm").write_text(str(taken.gradient_norm))
        tell(log, at, recipe, steps, taken, **facts)

    distributed.tell = noted


def first_norm(folder: Path, job: Any, plan: Any) -> float:
    """The length of the first gradient, by autograd over all rows of the step at once."""
    without_dropout()
    network = distributed.read_network(plan, folder / START)
    training = plan.rows[0]
    chosen = distributed.permutation(job.seed, 0, training)
    chosen = chosen[: rows_of_a_step(job.recipe, training)]
    rows = EncodedRows(folder / ENCODED, plan.spec).gather(chosen)
    loss = binary_cross_entropy_with_logits(network.logits(*rows.x), rows.y_B)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return float(torch.cat([one.flatten() for one in gradients]).norm())


def leaving_after(steps: int, first: Callable[[], None]) -> Callable[[], None]:
    """All ranks end after so many steps, as if torchrun had lost one of them."""

    def prepare() -> None:
        first()
        taken = 0
        # One checkpoint, a few steps before the end: what came after it is done again.
        Checkpoints.due = property(lambda _: taken == steps - 5)  # type: ignore[assignment,misc]
        step = distributed.train_step

        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal taken
            if taken == steps:
                raise SystemExit(9)
            taken += 1
            return step(*arguments, **named)

        distributed.train_step = counted  # type: ignore[attr-defined]

    return prepare


def main(root: Path) -> dict[str, Any]:
    """What the test looks at."""

    def trained(
        name: str, ranks: int, before: Callable[[], None] = without_dropout, **recipe: Any
    ) -> Path:
        job, plan = jobs[name] = job_in(root / name, table, **recipe)
        assert run(root / name, job, plan, ranks=ranks, before=before) == [0] * ranks
        return root / name / TRAINED

    def interrupted(name: str, ranks: int, then: int, first: Callable[[], None]) -> Path:
        job, plan = job_in(root / name, table)
        left = run(root / name, job, plan, ranks=ranks, before=leaving_after(25, first))
        assert left == [9] * ranks, left
        assert run(root / name, job, plan, ranks=then, before=first) == [0] * then
        return root / name / TRAINED

    jobs: dict[str, Any] = {}
    table = history(rows=1_030)  # 642 rows in steps of 32: of three ranks one has none at the end
    alone = trained("alone", 1)
    found: dict[str, Any] = {
        "three": distance(alone, trained("three", 3)),
        "accumulated": distance(alone, trained("accumulated", 2, device_rows_max=5)),
        "sharded": distance(alone, trained("sharded", 2, layout="sharded", device_rows_max=5)),
        "balanced": distance(alone, trained("balanced", 1, balanced=True)),
        "resumed_on_one": distance(alone, interrupted("shrunk", 2, 1, without_dropout)),
        "resumed_on_two": distance(alone, interrupted("grown", 1, 2, without_dropout)),
    }
    undisturbed = trained("undisturbed", 2, nothing)
    found["resumed_same"] = same(undisturbed, interrupted("killed", 2, 2, nothing))
    found["differ"] = distance(alone, undisturbed)
    # Last: from here on nothing drops out in this process either.
    wanted = first_norm(root / "alone", *jobs["alone"])
    norms = {
        name: float((root / name / "norm").read_text()) for name in ("alone", "three", "sharded")
    }
    found["norms"] = {name: norm / wanted - 1 for name, norm in norms.items()}
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
