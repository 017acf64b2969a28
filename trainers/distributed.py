"""The training loop of a retraining, from top to bottom; every rank runs it.

``python -P -m torch.distributed.run --nproc-per-node 2 -m trainers.distributed FOLDER``

What a rank does is a function of the job, the set and the number of ranks: which rows a step has,
which of them are ours, which units drop out. So ranks that were killed and went on from a
checkpoint end with the weights of those that were not, bit for bit on the same kind of processor.

Shape letters: B = rows of a step on all ranks, N = training rows.
"""

import hashlib
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.dense import EmbeddingMLP
from schemas.training import JOB, Recipe, TrainingJob, decode_job
from trainers.checkpoint import Checkpoints, Position
from trainers.dataset import Examples
from trainers.launcher import end_with_parents
from trainers.loop import rows_of_a_step
from trainers.optimizer import AdamW, cosine
from trainers.progress import ProgressLog, attempt
from trainers.ranks import Ranks, accumulating, joined, whole
from trainers.resources import Resources
from trainers.start import OUTCOME, START, TRAINED, Outcome, read_network
from trainers.windows import ENCODED, EncodedRows, Plan, read_plan

Numbers = npt.NDArray[np.int64]

MEASURED_EVERY = 8
"""Steps from one look at the gradient to the next: its length costs 3 % of a step of 512 rows."""


def train(
    job: TrainingJob,
    plan: Plan,
    folder: Path,
    ranks: Ranks,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train, from the newest checkpoint if there is one; rank 0 leaves `TRAINED` and `OUTCOME`.

    Every rank takes part in every step, also with no rows of its own.

    Raises:
        FloatingPointError: the loss became infinite or no number.
    """
    recipe, (num_training, num_validation, _, _) = job.recipe, plan.rows
    rows = EncodedRows(folder / ENCODED, plan.spec)
    weight_N = row_weights(rows.labels(0, num_training), balanced=recipe.balanced)
    step_rows = rows_of_a_step(recipe, num_training)
    steps = math.ceil(num_training / step_rows)

    network = Logits(read_network(plan, folder / START))
    model = ranks.spread(network, recipe.layout)
    optimizer = AdamW(list(network.parameters()), weight_decay=recipe.weight_decay)
    checkpoints = Checkpoints(
        folder / "checkpoints", ranks, interval_s=recipe.checkpoint_interval_s, clock=clock
    )
    at = checkpoints.resume(network, optimizer)
    batches = Batches(rows, weight_N, ranks, recipe.device_rows_max)
    log = ProgressLog(job, folder, clock=clock, attempt=attempt(), ranks=ranks.size)

    while at.epoch < recipe.epochs_max and at.epoch - at.best_epoch < recipe.patience_epochs:
        rate = cosine(at.epoch, epochs=recipe.epochs_max, highest=recipe.learning_rate)
        order_N = permutation(job.seed, at.epoch, num_training)

        while at.step < steps:
            chosen_B = order_N[at.step * step_rows : (at.step + 1) * step_rows]
            torch.manual_seed(seed_of(job.seed, at.epoch, at.step, ranks.rank))  # for drop-out
            taken = train_step(
                model,
                optimizer,
                batches,
                chosen_B,
                learning_rate=rate,
                save=checkpoints.due,
                measured=at.step % MEASURED_EVERY == 0,
            )
            at = msgspec.structs.replace(
                at,
                step=at.step + 1,
                loss_sum=at.loss_sum + taken.loss_sum,
                weight_sum=at.weight_sum + float(weight_N[chosen_B].sum()),
            )
            if taken.save:
                checkpoints.save(network, optimizer, at)
            if ranks.rank == 0:
                tell(log, at, recipe, steps, taken, rows=len(chosen_B), learning_rate=rate)

        last = num_training + num_validation
        loss = mean_loss(model, batches, np.arange(num_training, last))
        at = msgspec.structs.replace(at, epoch=at.epoch + 1, step=0, loss_sum=0.0, weight_sum=0.0)
        if ranks.decide(at.best_loss is None or loss < at.best_loss):
            at = msgspec.structs.replace(at, best_loss=loss, best_epoch=at.epoch)
            keep(network, folder / f"best-{at.epoch}.safetensors", ranks)

    if ranks.rank == 0:
        finish(at, folder, ranks)
    ranks.wait()


def train_step(
    model: nn.Module,
    optimizer: AdamW,
    batches: "Batches",
    chosen_B: Numbers,
    *,
    learning_rate: float,
    save: bool,
    measured: bool = False,
) -> "Taken":
    """Take one step; its gradient is measured only if ``measured``: that costs some 90 us.

    The gradient is that of the weighted mean over the rows of all ranks, exactly, however unevenly
    they are shared: DDP and FSDP average over ranks, so each scales its sum by ranks / weights.
    """
    model.train()
    scale = batches.ranks.size / float(batches.weight_N[chosen_B].sum())
    parts = batches.of(chosen_B)
    loss_sum = 0.0
    for number, (part, weight_B) in enumerate(parts, start=1):
        with accumulating(model, last=number == len(parts)), half_precision(batches.ranks.device):
            logits_B = model(*part.x)
        loss = binary_cross_entropy_with_logits(
            logits_B.float(), part.y_B, weight=weight_B, reduction="sum"
        )
        with accumulating(model, last=number == len(parts)):
            torch.autograd.backward(loss * scale)
        loss_sum += float(loss.detach())
    weights = list(model.parameters())
    square = gradient_square(weights, batches.ranks) if measured else 0.0
    loss_total, saves, square, cpu_s, memory_bytes = batches.ranks.sums(
        loss_sum, float(save), square, *batches.resources.used()
    )
    if not math.isfinite(loss_total):
        raise FloatingPointError(f"loss is {loss_total} on {len(chosen_B)} rows; step not taken")
    optimizer.step([_gradient(weight) for weight in weights], learning_rate=learning_rate)
    for weight in weights:
        weight.grad = None
    norm = math.sqrt(square) if measured else None
    return Taken(loss_total, saves > 0, norm, cpu_s, memory_bytes)


def gradient_square(weights: list[nn.Parameter], ranks: Ranks) -> float:
    """Our share of the squared length of the gradient: the shares of all ranks make the whole.

    A sharded gradient lies here in part, a replicated one as a whole on every rank.
    """
    square = 0.0
    for weight in weights:
        gradient = _gradient(weight)
        part = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        share = 1.0 if isinstance(gradient, DTensor) else 1.0 / ranks.size
        square += share * float(torch.linalg.vector_norm(part)) ** 2
    return square


@torch.no_grad()
def mean_loss(model: nn.Module, batches: "Batches", numbers: Numbers) -> float:
    """Mean loss of these rows without learning or drop-out, the same number on every rank."""
    model.eval()
    loss_sum = 0.0
    for part, _ in batches.of(numbers):
        logits_B = model(*part.x)
        loss_sum += float(
            binary_cross_entropy_with_logits(logits_B.float(), part.y_B, reduction="sum")
        )
    return batches.ranks.sums(loss_sum)[0] / len(numbers)


class Logits(nn.Module):
    """A network whose answer is log-odds: DDP and FSDP see ``forward`` only."""

    def __init__(self, inner: EmbeddingMLP) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Log-odds ``[B]``."""
        return self.inner.logits(numeric_BF, category_BC)


@dataclass(frozen=True, slots=True)
class Taken:
    """One step that was taken, over all ranks.

    Attributes:
        loss_sum: Weighted loss of its rows.
        save: Whether a rank wants a checkpoint.
        gradient_norm: Length of the gradient of the mean loss; None if it was not measured.
        cpu_s: Processor time since the ranks started.
        memory_bytes: Resident now.
    """

    loss_sum: float
    save: bool
    gradient_norm: float | None
    cpu_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Batches:
    """Our rows of a step, on our device, in parts that fit it.

    Attributes:
        rows: All of them.
        weight_N: What each training row counts.
        ranks: Who shares them.
        device_rows_max: Rows of a part.
        resources: What we use.
    """

    rows: EncodedRows
    weight_N: npt.NDArray[np.float32]
    ranks: Ranks
    device_rows_max: int
    resources: Resources = field(default_factory=Resources)

    def of(self, chosen_B: Numbers) -> list[tuple[Examples, Tensor | None]]:
        """Every so many-th of ``chosen_B``, at least one part and all ranks equally many.

        Parts go one after the other through the model; those of some ranks may be empty.
        """
        ranks = self.ranks
        ours = chosen_B[ranks.rank :: ranks.size]
        most = math.ceil(len(chosen_B) / ranks.size)
        count = max(1, math.ceil(most / self.device_rows_max))
        parts: list[tuple[Examples, Tensor | None]] = []
        for number in range(count):
            numbers = ours[number * self.device_rows_max : (number + 1) * self.device_rows_max]
            part = self.rows.gather(numbers)
            weight_B = None
            if not len(numbers) or numbers.max() < len(self.weight_N):
                weight_B = torch.from_numpy(self.weight_N[numbers]).to(ranks.device)
            x = part.x._replace(
                numeric_BF=part.x.numeric_BF.to(ranks.device),
                category_BC=part.x.category_BC.to(ranks.device),
            )
            parts.append((Examples(x, part.y_B.to(ranks.device)), weight_B))
        return parts


def row_weights(label_N: npt.NDArray[np.float32], *, balanced: bool) -> npt.NDArray[np.float32]:
    """What each training row counts: 1, or so much that both labels count alike."""
    if not balanced:
        return np.ones(len(label_N), np.float32)
    share = float(label_N.mean())
    weight_N: npt.NDArray[np.float32] = np.where(
        label_N == 1.0, 0.5 / share, 0.5 / (1.0 - share)
    ).astype(np.float32)
    return weight_N


def permutation(seed: int, epoch: int, rows: int) -> Numbers:
    """The order of the training rows in one pass."""
    order = torch.Generator().manual_seed(seed_of(seed, epoch))
    numbers: Numbers = torch.randperm(rows, generator=order).numpy()
    return numbers


def seed_of(*numbers: int) -> int:
    """One seed made of several numbers, so that none of them shifts another's sequence."""
    text = "/".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU, whose range needs no loss scaling; on CPUs without it it only costs."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def keep(network: Logits, path: Path, ranks: Ranks) -> None:
    """Write the weights as one file; every rank must call."""
    weights = {name: whole(tensor) for name, tensor in network.inner.state_dict().items()}
    if ranks.rank == 0:
        draft = path.with_suffix(".draft")
        safetensors.torch.save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, draft
        )
        draft.replace(path)


def finish(at: Position, folder: Path, ranks: Ranks) -> None:
    """Leave the best weights and how it went, the latter last."""
    assert at.best_loss is not None  # the first pass was the best so far
    best = folder / f"best-{at.best_epoch}.safetensors"
    (folder / TRAINED).write_bytes(best.read_bytes())
    outcome = Outcome(
        epochs=at.epoch,
        best_epoch=at.best_epoch,
        loss=at.best_loss,
        ranks=ranks.size,
        attempts=attempt() + 1,
    )
    (folder / OUTCOME).write_bytes(msgspec.json.encode(outcome))


def tell(
    log: ProgressLog,
    at: Position,
    recipe: Recipe,
    steps: int,
    taken: Taken,
    *,
    rows: int,
    learning_rate: float,
) -> None:
    """Count one step; say how far it is, if that is due."""
    step, most = at.epoch * steps + at.step, recipe.epochs_max * steps
    log.step(
        rows=rows,
        steps_left=most - step,
        cpu_s=taken.cpu_s,
        memory_bytes=taken.memory_bytes,
        gradient_norm=taken.gradient_norm,
        epoch=at.epoch,
        epochs_max=recipe.epochs_max,
        step=step,
        steps_max=most,
        training_loss=at.loss_sum / at.weight_sum,
        validation_loss=at.best_loss,
        learning_rate=learning_rate,
    )


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None  # every weight of our networks has a part in every answer
    return weight.grad


def rank_in(folder: Path) -> None:
    """One rank of the job in ``folder``, from beginning to end."""
    torch.set_num_threads(1)  # ranks share the cores, and sums in another order would round else
    job = decode_job((folder / JOB).read_bytes())
    with joined() as ranks:
        train(job, read_plan(folder), folder, ranks)


def main() -> None:
    """One rank, as torchrun starts it."""
    end_with_parents()
    rank_in(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
