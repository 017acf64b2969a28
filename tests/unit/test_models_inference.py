"""Engines: the same answers whichever runs the model, and limits that no batch exceeds.

The GPU path runs here on the CPU, by the same code: padding, ring, copies and replays.
"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import inference
from models.dense import EMBEDDING_MLP, Constant, build
from models.graphs import Graphs
from models.inference import (
    ERROR_MAX,
    Eager,
    Limits,
    OnnxRuntime,
    choose,
    chunks,
    row_bytes,
)
from models.protocol import ModelInput
from schemas.errors import ModelError

HAS_ONNX = importlib.util.find_spec("onnxruntime") is not None


def batch(rows: int, *, seed: int = 0) -> ModelInput:
    random = torch.Generator().manual_seed(seed)
    return ModelInput(
        torch.randn(rows, 3, generator=random) * 10,
        torch.randint(0, 4, (rows, 2), generator=random),
    )


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return build(EMBEDDING_MLP, {"num_numeric": 3, "vocabulary_sizes": [3, 5]}).eval()


@given(st.integers(0, 5000), st.integers(1, 1 << 20), st.integers(1, 2000), st.integers(1, 1 << 22))
def test_no_chunk_exceeds_a_limit_and_no_row_is_lost(
    rows: int, width: int, rows_max: int, bytes_max: int
) -> None:
    """Never more rows or bytes than allowed, but one row that is larger alone; nothing twice."""
    parts = list(chunks(rows, width, Limits(rows_max, bytes_max)))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(rows))
    for part in parts:
        count = part.stop - part.start
        assert 1 <= count <= rows_max
        assert count * width <= bytes_max or count == 1
    if rows:
        step = max(1, min(rows_max, bytes_max // width))
        assert len(parts) == -(-rows // step), "as few as the limits allow"


def test_forward_passes_respect_both_limits() -> None:
    """Counted where it matters: in the module."""
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
            seen.append(len(numeric_BF))
            return numeric_BF[:, 0]

    whole = batch(100)
    assert row_bytes(whole) == 3 * 4 + 2 * 8
    Eager(Counting(), limits=Limits(rows_max=64, bytes_max=10 * 28 + 5))(whole)
    assert seen == [10] * 10


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 3))
def test_graphs_answer_as_eager_does_whatever_sizes_follow_each_other(
    sizes: list[int], slots: int
) -> None:
    """
    Padding, slots and buffers are used again and again; nothing of an earlier batch may show. The
    largest bucket is 8 here, so that larger batches go round the ring.
    """
    module = mlp()
    graphs = Graphs(module, batch(2), buckets=(1, 3, 8), slots=slots)
    eager = Eager(module)
    for number, rows in enumerate(sizes):
        given_ = batch(rows, seed=number)
        np.testing.assert_allclose(graphs(given_), eager(given_), rtol=0, atol=1e-6)


def test_an_answer_is_kept_when_its_slot_is_used_again() -> None:
    """A replay overwrites its outputs: what was handed out must be a copy."""
    graphs = Graphs(mlp(), batch(2), buckets=(8,), slots=1)
    first = graphs(batch(8, seed=1))
    kept = first.copy()
    graphs(batch(8, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_bf16_is_close_and_not_the_same() -> None:
    """Allowed on request only; probabilities differ in the third digit."""
    module = mlp()
    exact = Eager(module)(batch(64))
    rough = Graphs(module, batch(2), buckets=(64,), bf16=True)(batch(64))
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).max() < inference.ERROR_MAX_BF16


def test_a_failing_module_raises_what_eager_raises() -> None:
    """The scorer bisects on it: it must not be swallowed by buffers."""
    module = mlp()
    bad = ModelInput(torch.zeros(2, 3), torch.full((2, 2), 99))
    for run in (Eager(module), Graphs(module, batch(2), buckets=(8,))):
        with pytest.raises(IndexError):
            run(bad)
    np.testing.assert_allclose(run(batch(2)), Eager(module)(batch(2)), atol=1e-6)


@pytest.mark.parametrize(("onnx_s", "winner"), [(0.5, "onnx"), (2.0, "eager")])
def test_the_choice_is_the_fastest_by_the_clock(
    monkeypatch: pytest.MonkeyPatch, onnx_s: float, winner: str
) -> None:
    """Measured, not believed; and what is asked for by name is taken whatever it costs."""
    now, module = [0.0], mlp()

    class Timed(Eager):
        def __init__(self, _module: nn.Module, *, name: str = "eager", **_options: object) -> None:
            super().__init__(module)
            self.name = name

        def __call__(self, given_: ModelInput) -> np.ndarray:
            now[0] += {"eager": 1.0, "onnx": onnx_s}[self.name]
            return super().__call__(given_)

    monkeypatch.setattr(inference, "Eager", Timed)
    monkeypatch.setattr(inference, "_build", lambda *_a, **_k: Timed(module, name="onnx"))
    widths = {"num_numeric": 3, "num_category": 2}
    found = choose(module, **widths, wanted="fastest", clock=lambda: now[0])
    assert found.inference.name == winner
    assert found.measured_s["onnx"][64] == pytest.approx(onnx_s)
    forced = choose(module, **widths, wanted="onnx", clock=lambda: now[0])
    assert forced.inference.name == "onnx"


def test_an_engine_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name with ``auto``; loudly when it was asked for."""

    class Wrong:
        name = "onnx"

        def __call__(self, given_: ModelInput) -> np.ndarray:
            return Eager(mlp())(given_) + 2 * ERROR_MAX

    monkeypatch.setattr(inference, "_build", lambda *_a, **_k: Wrong())
    found = choose(mlp(), num_numeric=3, num_category=2, wanted="fastest")
    assert found.inference.name == "eager"
    assert "differs from torch" in found.refused["onnx"]
    with pytest.raises(ModelError, match="differs from torch"):
        choose(mlp(), num_numeric=3, num_category=2, wanted="onnx")


def test_graphs_can_be_asked_for_on_a_cpu() -> None:
    """The setting overrides what would be measured."""
    found = choose(mlp(), num_numeric=3, num_category=2, wanted="graphs")
    assert found.inference.name == "graphs"


def test_a_constant_model_is_run_by_every_engine() -> None:
    """It ignores its input; a graph must not need it."""
    found = choose(Constant(probability=0.25), num_numeric=3, num_category=2, wanted="graphs")
    assert found.inference(batch(5)).tolist() == [0.25] * 5


@pytest.mark.skipif(not HAS_ONNX, reason="the optional group onnx is not installed")
def test_onnx_runtime_answers_as_torch_does() -> None:
    """To 1e-5, at any number of rows."""
    module = mlp()
    run = OnnxRuntime(module, batch(2))
    for rows in (1, 2, 63, 1025):
        difference = np.abs(run(batch(rows)) - Eager(module)(batch(rows))).max()
        assert difference <= ERROR_MAX


@pytest.mark.skipif(HAS_ONNX, reason="the optional group onnx is installed")
def test_onnx_runtime_that_is_not_installed_is_named() -> None:
    """With the remedy."""
    with pytest.raises(ModelError, match=r"tidemill\[onnx\]"):
        OnnxRuntime(mlp(), batch(2))


def test_the_engines_and_their_benchmark_import_torch_and_numpy_alone() -> None:
    """They run on a bare GPU machine, where nothing else of ours is installed."""
    code = (
        "import sys\n"
        "import models.bench\n"
        "heavy = {'msgspec', 'pyarrow', 'faust', 'structlog', 'click', 'onnxruntime', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("size", [1, 3, 16, 33, 100, 500])
def test_a_score_does_not_depend_on_the_rows_it_came_with(size: int) -> None:
    """Not even in its last bit: otherwise a prediction could not be made again exactly."""
    torch.manual_seed(3)
    module = build(EMBEDDING_MLP, {"num_numeric": 6, "vocabulary_sizes": [16, 104, 30]})
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3)
    numeric_BF = torch.randn(1500, 6)
    category_BC = torch.stack([torch.randint(0, n, (1500,)) for n in (16, 104, 30)], 1)
    eager = Eager(module)
    together = eager(ModelInput(numeric_BF, category_BC))
    apart = [
        eager(ModelInput(numeric_BF[i : i + size], category_BC[i : i + size]))
        for i in range(0, 1500, size)
    ]
    assert np.concatenate(apart).tobytes() == together.tobytes()
