"""``python -m models.bench``: rows per second of each engine, for four sizes of model.

Needs torch and numpy alone, so it runs on a bare GPU machine: copy `models` and `schemas/errors.py`
there. Answers are compared with eager torch before anything is timed. On a GPU the share of time in
which it computed is measured by events on its own clock.
"""

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.graphs import Graphs
from models.inference import (
    ERROR_MAX,
    ERROR_MAX_BF16,
    Eager,
    Inference,
    Limits,
    OnnxRuntime,
)
from models.protocol import ModelInput
from schemas.errors import ModelError

BATCH_ROWS = (1, 16, 256, 1024, 4096)
SECONDS = 0.5


class MLP(nn.Module):
    """64-256-256-1, 83 thousand parameters."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
        )

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities ``[B]``."""
        return torch.sigmoid(self.layers(numeric_BF)).squeeze(1)


class CNN(nn.Module):
    """Three convolutions over 3 x 32 x 32."""

    width = 3 * 32 * 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        )
        self.out = nn.Linear(64, 1)

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities ``[B]``."""
        found = self.layers(numeric_BF.view(-1, 3, 32, 32)).mean((2, 3))
        return torch.sigmoid(self.out(found)).squeeze(1)


class GRU(nn.Module):
    """16 to 64 over 32 steps."""

    width = 32 * 16

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(16, 64, batch_first=True)
        self.out = nn.Linear(64, 1)

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities ``[B]``."""
        steps, _ = self.gru(numeric_BF.view(-1, 32, 16))
        return torch.sigmoid(self.out(steps[:, -1])).squeeze(1)


class Transformer(nn.Module):
    """Two layers, width 64, four heads, 32 tokens."""

    width = 32 * 64

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(64, 1)

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities ``[B]``."""
        found = self.encoder(numeric_BF.view(-1, 32, 64)).mean(1)
        return torch.sigmoid(self.out(found)).squeeze(1)


MODELS: dict[str, Any] = {"mlp": MLP, "cnn": CNN, "gru": GRU, "transformer": Transformer}


def batch(rows: int, width: int) -> ModelInput:
    """Random numbers, no categories."""
    values = np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)
    return ModelInput(torch.from_numpy(values), torch.zeros(rows, 0, dtype=torch.int64))


def engines(
    module: nn.Module, width: int, *, device: str, bf16: bool
) -> dict[str, tuple[Inference, float]]:
    """What can run this module here, with the error each may have."""
    large = Limits(rows_max=BATCH_ROWS[-1], bytes_max=1 << 30)
    found: dict[str, tuple[Inference, float]] = {
        "eager": (Eager(module, device=device, limits=large), ERROR_MAX)
    }
    if device == "cpu":
        found["eager, chunks"] = (Eager(module), ERROR_MAX)
        try:
            found["onnx"] = (OnnxRuntime(module, batch(2, width)), ERROR_MAX)
        except ModelError as error:
            print(f"# {error}")
    found["graphs"] = (Graphs(module, batch(2, width), device=device), 10 * ERROR_MAX)
    if bf16:
        rough = Graphs(module, batch(2, width), device=device, bf16=True)
        found["graphs, bf16"] = (rough, ERROR_MAX_BF16)
    return found


def measure(run: Inference, given: ModelInput, *, seconds: float, device: str) -> dict[str, Any]:
    """Calls for so long: rows per second, p50 and p99 of a call, share of time the GPU computed."""
    for _ in range(3):
        run(given)
    taken: list[float] = []
    cpu_s, started = time.process_time(), time.perf_counter()
    while time.perf_counter() - started < seconds or len(taken) < 5:
        before = time.perf_counter()
        run(given)
        taken.append(time.perf_counter() - before)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    rows = len(given.numeric_BF)
    p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1000
    found = {
        "rows_per_s": round(rows * len(taken) / wall_s),
        "rows_per_cpu_s": round(rows * len(taken) / max(1e-9, cpu_s)),
        "ms_p50": round(float(p50), 3),
        "ms_p99": round(float(p99), 3),
    }
    if device != "cpu":
        found["gpu_busy"] = busy(run, given)
    return found


def busy(run: Inference, given: ModelInput, calls: int = 20) -> float:
    """Share of the time of some calls in which kernels ran, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        started = time.perf_counter()
        for _ in range(calls):
            run(given)
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
    kernels_us = sum(item.self_device_time_total for item in found.key_averages())
    return round(float(kernels_us) / 1e6 / wall_s, 3)


def main() -> None:
    """Measure what was asked for and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m models.bench", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each cell")
    parser.add_argument("--bf16", action="store_true", help="graphs in bfloat16, too")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    results: list[dict[str, Any]] = []
    for name in asked.models:
        torch.manual_seed(0)
        module = MODELS[name]().eval().to(asked.device)
        width = MODELS[name].width
        found = engines(module, width, device=asked.device, bf16=asked.bf16)
        for rows in BATCH_ROWS:
            given = batch(rows, width)
            expected = found["eager"][0](given)
            for engine, (run, error_max) in found.items():
                worst = float(np.abs(run(given) - expected).max())
                assert worst <= error_max, (name, engine, rows, worst)
                cell = measure(run, given, seconds=asked.seconds, device=asked.device)
                results.append({"model": name, "engine": engine, "rows": rows} | cell)
                if not asked.json:
                    print(json.dumps(results[-1]), flush=True)
    if asked.json:
        device = asked.device
        hardware = torch.cuda.get_device_name() if device != "cpu" else platform.processor()
        facts = {"device": device, "hardware": hardware, "torch": torch.__version__}
        print(json.dumps({"machine": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
