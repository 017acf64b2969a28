"""The processes that train together, and how a model is spread over them.

On one rank without torchrun everything here is a no-op, so that the loop has one form.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

GROUP_TIMEOUT_S = 60.0
"""After so long in one exchange a rank gives up, and torchrun starts all of them again. The default
is 30 minutes, which a hung rank would cost."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Who we are among the ranks.

    Attributes:
        rank: Our number from 0.
        size: How many.
        device: Where our part of the model is.
    """

    rank: int
    size: int
    device: torch.device

    def sums(self, *values: float) -> list[float]:
        """The sums of these numbers over all ranks, the same on each: every rank must call."""
        totals = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(totals)
        found: list[float] = totals.tolist()
        return found

    def decide(self, decision: bool) -> bool:
        """What rank 0 decided, on every rank: they must leave a loop together."""
        said = torch.tensor(float(decision))
        if self.size > 1:
            dist.broadcast(said, src=0)
        return bool(said.item())

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def spread(self, network: nn.Module, layout: Literal["replicated", "sharded"]) -> nn.Module:
        """``network`` on our device, so that its gradients become those of all ranks' rows."""
        network.to(self.device)
        if layout == "sharded":
            mesh = init_device_mesh(self.device.type, (self.size,))
            for part in network.children():
                for layer in part.children():
                    if any(True for _ in layer.parameters()):
                        fully_shard(layer, mesh=mesh)
            fully_shard(network, mesh=mesh)
            return network
        if self.size == 1:
            return network
        # Buffers are constants here: sent once, not in every step.
        return DistributedDataParallel(
            network, forward_sync_buffers=False, gradient_as_bucket_view=True
        )


def accumulating(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Within it a backward pass exchanges gradients only if it is the ``last`` of its step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        return contextlib.nullcontext()
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    skipped: contextlib.AbstractContextManager[Any] = model.no_sync()
    return skipped


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun or Ray started, connected: NCCL between GPUs, gloo otherwise."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Ranks(0, 1, device)
        return
    if dist.is_initialized():  # by Ray Train, which also ends it
        yield Ranks(rank, size, device)
        return
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=GROUP_TIMEOUT_S),
    )
    try:
        yield Ranks(rank, size, device)
    finally:
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A weight in one piece, on the CPU; every rank must call."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu()
