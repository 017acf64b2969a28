"""Ways to run a model: eager torch, ONNX Runtime, and graphs over fixed buffers for a GPU.

All of them answer the same question (`Inference`): an encoded batch of any size to one number per
row. Which one serves a version is measured when it is warmed up (`choose`), because it depends on
the module and on the machine. Imports torch, numpy and the error tree only; ONNX Runtime when it is
asked for.

Shape letters: B = rows, F = numeric features, C = categories.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from models.foreign import runtime, session
from models.graphs import Graphs, Scores
from models.protocol import ModelInput
from schemas.errors import ModelError

CHUNK_ROWS = 1024
"""Rows in one forward pass. Above it large temporaries go back to the system after every call and
cost page faults: 1.6 times slower at 4096 rows (plain malloc, measured)."""
CHUNK_BYTES = 8 << 20
"""Bytes of input in one forward pass, for models with wide rows."""
BLOCK_ROWS = 32
"""On a CPU a forward pass gets a multiple of so many rows, the last ones empty: matrix kernels
treat what is left of a block differently, and then the last bits of a row's score depend on how
many rows happened to come with it. With whole blocks a prediction made again is the same bit for
bit (measured for `models.dense` with MKL on AVX-512: 16 is not enough; 35 us more for one row)."""
ERROR_MAX = 1e-5
"""Largest difference from eager torch that another engine may show."""
ERROR_MAX_BF16 = 2e-2
WARM_UP_ROWS = (1, 2, 64, CHUNK_ROWS)
"""Sizes a model answers before it serves; the first call of each allocates and picks kernels."""
MEASURE_CALLS = 5

Name = Literal["eager", "onnx", "graphs", "fastest"]


class Inference(Protocol):
    """One way to run one version. Not for concurrent use: one thread at a time."""

    name: str

    def __call__(self, batch: ModelInput) -> Scores:
        """One float32 per row, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one forward pass may hold. A single row that is larger than ``bytes_max`` goes alone."""

    rows_max: int = CHUNK_ROWS
    bytes_max: int = CHUNK_BYTES


def chunks(rows: int, row_bytes: int, limits: Limits) -> Iterator[slice]:
    """Cut ``rows`` into consecutive parts, none above a limit, as few as that allows."""
    step = max(1, min(limits.rows_max, limits.bytes_max // max(1, row_bytes)))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def row_bytes(batch: ModelInput) -> int:
    """Bytes of one row of input."""
    return sum(math.prod(part.shape[1:]) * part.element_size() for part in batch)


class Eager:
    """Plain torch, chunk by chunk, in inference mode."""

    name = "eager"

    def __init__(
        self, module: nn.Module, *, device: str = "cpu", limits: Limits | None = None
    ) -> None:
        self._module = module
        self._device = device
        self._limits = limits or Limits()

    def __call__(self, batch: ModelInput) -> Scores:
        """One float32 per row."""
        rows = batch.numeric_BF.shape[0]
        scores = np.empty(rows, np.float32)
        with torch.inference_mode():
            for part in chunks(rows, row_bytes(batch), self._limits):
                numeric_BF, category_BC = batch.numeric_BF[part], batch.category_BC[part]
                if self._device == "cpu":
                    numeric_BF, category_BC = self._whole_blocks(numeric_BF, category_BC)
                    answer = self._module(numeric_BF, category_BC)
                    scores[part] = answer[: part.stop - part.start].numpy()
                else:
                    answer = self._module(numeric_BF.to(self._device), category_BC.to(self._device))
                    scores[part] = answer.float().cpu().numpy()
        return scores

    def _whole_blocks(
        self, numeric_BF: torch.Tensor, category_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same rows and empty ones up to a multiple of `BLOCK_ROWS`, if the limits allow it."""
        rows = len(numeric_BF)
        lacking = -rows % BLOCK_ROWS
        wide = row_bytes(ModelInput(numeric_BF, category_BC)) * (rows + lacking)
        if not lacking or rows + lacking > self._limits.rows_max or wide > self._limits.bytes_max:
            return numeric_BF, category_BC
        more = (part.new_zeros((lacking, *part.shape[1:])) for part in (numeric_BF, category_BC))
        numeric_more, category_more = more
        return torch.cat([numeric_BF, numeric_more]), torch.cat([category_BC, category_more])


class OnnxRuntime:
    """ONNX Runtime on one core; the graph is exported from the module and compared with it.

    Raises:
        ModelError: the optional group is not installed, or this module cannot be exported, or the
            exported graph answers otherwise.
    """

    name = "onnx"

    def __init__(
        self, module: nn.Module, example: ModelInput, *, limits: Limits | None = None
    ) -> None:
        runtime()  # before the export, which takes seconds
        self.graph = export(module, example)
        self._session = session(self.graph)
        self._names = [item.name for item in self._session.get_inputs()]
        self._limits = limits or Limits()

    def __call__(self, batch: ModelInput) -> Scores:
        """One float32 per row."""
        rows = batch.numeric_BF.shape[0]
        scores = np.empty(rows, np.float32)
        inputs = dict(zip(("numeric", "category"), (t.numpy() for t in batch), strict=True))
        for part in chunks(rows, row_bytes(batch), self._limits):
            feed = {name: inputs[name][part] for name in self._names}
            scores[part] = self._session.run(None, feed)[0]
        return scores


def export(module: nn.Module, example: ModelInput) -> bytes:
    """The module as an ONNX graph with a free number of rows. Takes 2 to 20 s of CPU.

    Raises:
        ModelError: the exporter is not installed, or does not know an operator of the module.
    """
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    used = {"numeric": {0: rows}, "category": {0: rows}}
    try:
        with warnings.catch_warnings():  # of the exporter about itself
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(example),
                dynamo=True,
                dynamic_shapes=tuple(used.values()),
                input_names=list(used),
                output_names=["score"],
                verbose=False,
            )
        assert program is not None
        graph: bytes = program.model_proto.SerializeToString()
    except Exception as cause:  # the exporter's own errors have no common class
        first = (str(cause).strip().splitlines() or [repr(cause)])[0]
        raise ModelError(f"could not export {type(module).__name__} to ONNX: {first}") from cause
    return graph


def checked_export(module: nn.Module, *, num_numeric: int, num_category: int) -> bytes:
    """`export`, compared with the module on batches of several sizes.

    Raises:
        ModelError: it cannot be exported, ONNX Runtime is not installed, or the answers differ.
    """
    batches = [_batch(rows, num_numeric, num_category) for rows in WARM_UP_ROWS]
    engine = OnnxRuntime(module, batches[1])
    _compare("onnx", engine, batches, [Eager(module)(batch) for batch in batches], bf16=False)
    return engine.graph


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why: seconds of one call by engine and number of rows."""

    inference: Inference
    measured_s: dict[str, dict[int, float]]
    refused: dict[str, str]


def choose(
    module: nn.Module,
    *,
    num_numeric: int,
    num_category: int,
    device: str = "cpu",
    wanted: Name = "eager",
    bf16: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Build the engines that may serve this module, compare their answers, and take the fastest.

    ``fastest`` measures eager torch and, where they make sense, ONNX Runtime (on a CPU, if
    installed) and graphs (on a GPU): the mean over `WARM_UP_ROWS` of the time per call, each
    relative to eager. Any other name takes that engine alone. Exporting to ONNX takes 2 to 20 s of
    CPU, which is why nothing is measured unless asked for.

    Raises:
        ModelError: the model cannot answer, or the engine asked for cannot be used. With
            ``fastest`` an engine other than eager that fails is left out: see `Choice.refused`.
    """
    batches = [_batch(rows, num_numeric, num_category) for rows in WARM_UP_ROWS]
    eager = Eager(module, device=device)
    try:
        expected = [eager(batch) for batch in batches]
    except (RuntimeError, IndexError, TypeError, ValueError) as cause:
        raise ModelError(f"could not warm up: {cause}") from cause
    built: dict[str, Inference] = {"eager": eager}
    refused: dict[str, str] = {}
    others = {"fastest": ["graphs"] if device != "cpu" else ["onnx"], "eager": []}
    for name in others.get(wanted, [wanted]):
        try:
            built[name] = _build(name, module, batches[1], device=device, bf16=bf16)
            _compare(name, built[name], batches, expected, bf16=bf16)
        except ModelError as error:
            if wanted != "fastest":
                raise
            built.pop(name, None)
            refused[name] = str(error)
    measured = {
        name: {
            rows: _seconds(run, batch, clock)
            for rows, batch in zip(WARM_UP_ROWS, batches, strict=True)
        }
        for name, run in built.items()
    }
    if wanted != "fastest":
        return Choice(built[wanted], measured, refused)
    base = measured["eager"]
    cost = {
        name: sum(seconds / base[rows] for rows, seconds in found.items())
        for name, found in measured.items()
    }
    return Choice(built[min(cost, key=lambda name: cost[name])], measured, refused)


def _build(
    name: str, module: nn.Module, example: ModelInput, *, device: str, bf16: bool
) -> Inference:
    if name == "onnx":
        return OnnxRuntime(module, example)
    if name == "graphs":
        return Graphs(module, example, device=device, bf16=bf16)
    raise ModelError(f"could not choose an engine: {name!r} is none of eager, onnx, graphs")


def _compare(
    name: str,
    inference: Inference,
    batches: Sequence[ModelInput],
    expected: Sequence[Scores],
    *,
    bf16: bool,
) -> None:
    limit = ERROR_MAX_BF16 if bf16 and name == "graphs" else ERROR_MAX
    for batch, wanted in zip(batches, expected, strict=True):
        worst = float(np.abs(inference(batch) - wanted).max())
        if not worst <= limit:
            raise ModelError(
                f"could not use engine {name}: it differs from torch by {worst:.3g} in "
                f"{len(wanted)} rows, allowed is {limit:g}"
            )


def _seconds(inference: Inference, batch: ModelInput, clock: Callable[[], float]) -> float:
    """The best of a few calls: what a quiet moment costs."""
    found = []
    for _ in range(MEASURE_CALLS):
        started = clock()
        inference(batch)
        found.append(clock() - started)
    return max(1e-9, min(found))


def _batch(rows: int, num_numeric: int, num_category: int) -> ModelInput:
    """Numbers around zero and index 0, which every vocabulary has."""
    values: Any = np.random.default_rng(rows).standard_normal((rows, num_numeric))
    return ModelInput(
        torch.from_numpy(values.astype(np.float32)),
        torch.zeros(rows, num_category, dtype=torch.int64),
    )
