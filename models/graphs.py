"""Graphs over fixed buffers: the way to run a model on a GPU, by the same code on a CPU.

Shape letters: B = rows, F = numeric features, C = categories.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.protocol import ModelInput

BUCKET_ROWS = (16, 64, 256, 1024, 4096)
"""Sizes a graph is captured for; a batch is padded to the next one."""
RING_SLOTS = 3
"""Buffers in use at once: one is filled, one is copied, one is computed."""

Scores = npt.NDArray[np.float32]


class Graphs:
    """Padded buckets over fixed buffers, captured once and replayed: for a GPU.

    A ring of slots, each with pinned input and output buffers and device buffers of its own, lets
    the copy of one chunk overlap the computation of the one before. A replay overwrites the outputs
    of the last replay of its slot, so they are copied out before the slot is used again. On a CPU
    the same code runs: buffers are not pinned, streams do nothing, and a replay is a call.

    Args:
        module: On ``device`` already, in evaluation mode.
        example: Any batch; only its widths and types count.
        bf16: Compute in bfloat16 where torch's autocast does; answers stay float32.
    """

    name = "graphs"

    def __init__(
        self,
        module: nn.Module,
        example: ModelInput,
        *,
        device: str = "cpu",
        buckets: Sequence[int] = BUCKET_ROWS,
        slots: int = RING_SLOTS,
        bf16: bool = False,
    ) -> None:
        self._buckets = sorted(buckets)
        with torch.inference_mode():
            self._slots = [
                _Slot(module, example, torch.device(device), self._buckets, bf16=bf16)
                for _ in range(slots)
            ]

    def __call__(self, batch: ModelInput) -> Scores:
        """One float32 per row."""
        rows = batch.numeric_BF.shape[0]
        scores = np.empty(rows, np.float32)
        open_: list[tuple[_Slot, slice]] = []
        step = self._buckets[-1]
        with torch.inference_mode():
            for number, start in enumerate(range(0, rows, step)):
                part = slice(start, min(rows, start + step))
                slot = self._slots[number % len(self._slots)]
                if len(open_) == len(self._slots):  # the oldest one is this slot
                    busy, done = open_.pop(0)
                    scores[done] = busy.take()
                slot.start(ModelInput(batch.numeric_BF[part], batch.category_BC[part]))
                open_.append((slot, part))
            for slot, part in open_:
                scores[part] = slot.take()
        return scores


class _Slot:
    """Buffers for one chunk, and one captured graph per bucket over them."""

    def __init__(
        self,
        module: nn.Module,
        example: ModelInput,
        device: torch.device,
        buckets: Sequence[int],
        *,
        bf16: bool,
    ) -> None:
        self._cuda = device.type == "cuda"
        self._buckets = buckets
        self._rows = 0
        largest = buckets[-1]
        self._host = [
            torch.zeros((largest, *t.shape[1:]), dtype=t.dtype, pin_memory=self._cuda)
            for t in example
        ]
        self._inputs = [torch.zeros_like(t, device=device) for t in self._host]
        self._output = torch.zeros(largest, device=device)
        self._answer = torch.zeros(largest, pin_memory=self._cuda)
        cuda: Any = torch.cuda  # not typed
        self._copy = cuda.Stream(device) if self._cuda else None
        self._compute = cuda.Stream(device) if self._cuda else None
        self._done = cuda.Event() if self._cuda else None
        self._device = device
        self._replays = {rows: self._capture(module, rows, bf16=bf16) for rows in buckets}

    def _capture(self, module: nn.Module, rows: int, *, bf16: bool) -> Callable[[], None]:
        inputs = [t[:rows] for t in self._inputs]
        output = self._output[:rows]

        def forward() -> None:
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16):
                answer = module(*inputs)
            output.copy_(answer)

        if not self._cuda:
            return forward
        side = self._compute
        assert side is not None
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):  # picks kernels and allocates, which a capture may not
                forward()
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            forward()
        replay: Callable[[], None] = graph.replay
        return replay

    def start(self, batch: ModelInput) -> None:
        """Fill the buffers and begin; returns before the answer is there."""
        self._rows = rows = batch.numeric_BF.shape[0]
        bucket = next(size for size in self._buckets if size >= rows)
        for host, given in zip(self._host, batch, strict=True):
            host[:rows].copy_(given)
            host[rows:bucket].zero_()  # padding is computed and thrown away
        if self._copy is None or self._compute is None or self._done is None:
            for device, host in zip(self._inputs, self._host, strict=True):
                device[:bucket].copy_(host[:bucket])
            self._replays[bucket]()
            self._answer[:rows].copy_(self._output[:rows])
            return
        with torch.cuda.stream(self._copy):
            for device, host in zip(self._inputs, self._host, strict=True):
                device[:bucket].copy_(host[:bucket], non_blocking=True)
        self._compute.wait_stream(self._copy)
        with torch.cuda.stream(self._compute):
            self._replays[bucket]()
            self._answer[:rows].copy_(self._output[:rows], non_blocking=True)
            self._done.record(self._compute)

    def take(self) -> Scores:
        """Wait for the answer; a copy, so that the slot may be used again."""
        if self._done is not None:
            self._done.synchronize()
        return self._answer[: self._rows].numpy().copy()
