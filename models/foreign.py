"""A graph that somebody else made, served like our own: ONNX in a buffer of a module.

The graph lies in the registry as the weights do, so the same digest and signature stand for it. It
is data: ONNX has no code, and a graph that lies in memory can name no files beside it. What it can
do is take long, take memory, and answer nonsense: the gate and the checks of every batch are for
that.

Shape letters: B = rows, F = numeric features, C = categories.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from schemas.errors import ModelError

ONNX = "onnx"
GRAPH_BYTES_MAX = 256 << 20


class OnnxGraph(nn.Module):
    """Probabilities from somebody's graph.

    Args of the constructor:
        graph_bytes: Length of the graph.
        numeric: Name of its input of float32 ``[B, F]``; empty if it takes none.
        category: Name of its input of int64 ``[B, C]``; empty if it takes none.
        output: Name of its output: float ``[B]`` or ``[B, 1]``, the probability of a 1.
    """

    def __init__(self, *, graph_bytes: int, numeric: str, category: str, output: str) -> None:
        super().__init__()
        self.graph: Tensor
        self.register_buffer("graph", torch.zeros(graph_bytes, dtype=torch.uint8))
        self._numeric, self._category, self._output = numeric, category, output
        self._session: Any = None

    def forward(self, numeric_BF: Tensor, category_BC: Tensor) -> Tensor:
        """Probabilities, float32 ``[B]``.

        Raises:
            ModelError: ONNX Runtime is not installed, or cannot run the graph.
        """
        if self._session is None:
            self._session = session(self.graph.numpy().tobytes())
        feed = {}
        if self._numeric:
            feed[self._numeric] = numeric_BF.numpy()
        if self._category:
            feed[self._category] = category_BC.numpy()
        try:
            [answer] = self._session.run([self._output], feed)
        except Exception as cause:  # ONNX Runtime's own errors have no common class
            raise ModelError(f"could not run the graph: {_first_line(cause)}") from cause
        found = np.asarray(answer)
        if found.size != len(numeric_BF) or not np.issubdtype(found.dtype, np.floating):
            raise ModelError(
                f"could not use the answer {self._output!r}: {found.dtype} {list(found.shape)} for "
                f"{len(numeric_BF)} rows; one float per row is needed, the probability of a 1"
            )
        return torch.from_numpy(found.reshape(-1).astype(np.float32))


def runtime() -> Any:
    """The module ``onnxruntime``.

    Raises:
        ModelError: the optional group is not installed.
    """
    try:
        import onnxruntime
    except ImportError as missing:
        raise ModelError(
            "could not use ONNX Runtime: it is not installed. pip install 'tidemill[onnx]'."
        ) from missing
    return onnxruntime


def session(graph: bytes) -> Any:
    """ONNX Runtime on one core with this graph.

    Raises:
        ModelError: the optional group is not installed, or it is no graph that can be run.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # as above
        raise ModelError(f"could not load the graph: {_first_line(cause)}") from cause


def graph_of(content: bytes, *, num_numeric: int, num_category: int) -> dict[str, Any]:
    """The parameters of an `OnnxGraph` for ``content``: which input is which.

    An input of floats takes the numbers, one of int64 the categories; the first output is the
    answer.

    Raises:
        ModelError: the graph is too large, cannot be run, or has other inputs than these.
    """
    if len(content) > GRAPH_BYTES_MAX:
        raise ModelError(f"could not use the graph: bytes={len(content)} max={GRAPH_BYTES_MAX}")
    found = session(content)
    names = {"numeric": "", "category": ""}
    widths = {
        "tensor(float)": ("numeric", num_numeric),
        "tensor(int64)": ("category", num_category),
    }
    for item in found.get_inputs():
        place, width = widths.get(item.type, ("", 0))
        declared = item.shape[1] if len(item.shape) == 2 else None
        if not place or names[place] or (isinstance(declared, int) and declared != width):
            raise ModelError(
                f"could not use the graph's input {item.name!r}: {item.type} {item.shape}. Wanted "
                f"are float [rows, {num_numeric}] and int64 [rows, {num_category}], each once."
            )
        names[place] = item.name
    output = found.get_outputs()[0].name
    return {"graph_bytes": len(content), **names, "output": output}


def _first_line(cause: Exception) -> str:
    return (str(cause).strip().splitlines() or [repr(cause)])[0]
