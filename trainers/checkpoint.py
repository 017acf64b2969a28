"""Where a training stands, on disk, so that a killed rank costs seconds.

A checkpoint is a folder of ``torch.distributed.checkpoint``: every rank writes its part, any number
of ranks can read it. ``.metadata`` comes last, so a folder without it is none.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from trainers.optimizer import AdamW
from trainers.ranks import Ranks

KEPT = 2
"""The newest, and one before it in case the newest cannot be read."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the training.

    Attributes:
        epoch: Passes finished.
        step: Steps taken in the pass that is under way.
        best_epoch: The pass after which validation was best; 0: none yet.
        best_loss: That validation loss, nats per row; None: none yet.
        loss_sum: Weighted training loss of the pass so far.
        weight_sum: And the weights of its rows.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_loss: float | None = None
    loss_sum: float = 0.0
    weight_sum: float = 0.0


class Checkpoints:
    """The checkpoints of one run.

    Args of the constructor:
        folder: For nothing else.
        ranks: All of them save and resume together.
        interval_s: Work that may be lost.
        clock: Seconds that never go back; the ranks take rank 0's word for it.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._ranks = ranks
        self._interval_s = interval_s
        self._clock = clock
        self._saved_at = clock()

    @property
    def due(self) -> bool:
        """Whether the interval is over, for rank 0."""
        return self._ranks.rank == 0 and self._clock() - self._saved_at >= self._interval_s

    def save(self, network: nn.Module, optimizer: AdamW, position: Position) -> None:
        """Write a checkpoint; every rank must call."""
        name = f"{position.epoch:06d}-{position.step:09d}"
        save(_state(network, optimizer, position), checkpoint_id=self._folder / name)
        self._ranks.wait()
        if self._ranks.rank == 0:
            for old in self._valid()[:-KEPT]:
                shutil.rmtree(old)
        self._saved_at = self._clock()

    def resume(self, network: nn.Module, optimizer: AdamW) -> Position:
        """Fill model and optimizer from the newest checkpoint; the start without one.

        The number of ranks may be another than that which wrote it.
        """
        found = self._valid()
        if not found:
            return Position()
        state = _state(network, optimizer, Position())
        load(state, checkpoint_id=found[-1])
        network.load_state_dict(state["network"])
        optimizer.resume(state["optimizer"]["steps"])
        position: Position = msgspec.json.decode(state["position"], type=Position)
        return position

    def _valid(self) -> list[Path]:
        return sorted(path.parent for path in self._folder.glob("*/.metadata"))


def _state(network: nn.Module, optimizer: AdamW, position: Position) -> dict[str, Any]:
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state(),
        "position": msgspec.json.encode(position).decode(),
    }
