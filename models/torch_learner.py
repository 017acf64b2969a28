"""A small network that learns on mini-batches: for rates that learners row by row do not reach.

A mini-batch is always the next ``batch_rows`` rows, never "what has arrived": rows wait in the
state until it is full. So the weights follow from the rows alone, however these were cut.

Shape letters, besides those of `models.protocol`: S = slots for numbers, U = buckets of a batch,
N = rows of a mini-batch.
"""

import json
import math
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from models.digest import canonical_digest
from models.protocol import FeatureColumns, Floats
from models.rows import check_labels, stretches
from schemas.errors import ModelError
from schemas.pipeline import Parameter, Target

SLOTS = 64
"""Numbers it can tell apart; further names are not looked at."""
ADAGRAD_START = 0.1
"""Makes the first steps small: nothing is known yet about the size of the gradients."""
_WEIGHTS = ("embedding", "wide", "layer1", "bias1", "layer2", "bias2")
_STATISTICS = ("count", "mean", "squares")


class _Block(NamedTuple):
    """Rows that wait for the others of their mini-batch."""

    numbers: Tensor
    buckets: Tensor
    labels: Floats
    weights: Floats


class TorchMLP:
    """One hidden layer over scaled numbers and a sum of hashed embeddings, and a weight per word.

    Learns by AdaGrad (Duchi et al., 2011); words are hashed by CRC-32: two may share a bucket.
    Contract: `models.protocol.Learner`. Call ``torch.set_num_threads(1)`` in the process: sums on
    more threads round in another order.
    """

    def __init__(self, settings: dict[str, Parameter | None], target: Target) -> None:
        self._settings, self._target = settings, target
        self._binary = target.kind == "binary"
        self._rows = int(settings["batch_rows"] or 1)
        self._buckets = int(settings["buckets"] or 1)
        self._learned = self._refused = 0
        self._slots: dict[str, int] = {}
        # Of the numbers, and in the last place of the label.
        self._statistics = {name: np.zeros(SLOTS + 1) for name in _STATISTICS}
        self._tensors = self._fresh()
        self._waiting: list[_Block] = []
        self._num_waiting = 0

    def _fresh(self) -> dict[str, Tensor]:
        width, hidden = (
            int(self._settings["embedding_width"] or 1),
            int(self._settings["hidden"] or 1),
        )
        dice = torch.Generator().manual_seed(int(self._settings["seed"] or 0))

        def noise(*shape: int, spread: float) -> Tensor:
            return torch.randn(*shape, generator=dice) * spread

        tensors = {
            # The last row stands for "missing" and stays zero.
            "embedding": noise(self._buckets + 1, width, spread=0.05),
            "wide": torch.zeros(self._buckets + 1, 1),
            "layer1": noise(SLOTS + width, hidden, spread=(2.0 / (SLOTS + width)) ** 0.5),
            "bias1": torch.zeros(hidden),
            "layer2": noise(hidden, 1, spread=0.1 * hidden**-0.5),
            "bias2": torch.zeros(1),
        }
        tensors["embedding"][-1] = 0.0
        if self._binary:
            prior = min(max(self._target.prior, 1e-3), 1.0 - 1e-3)
            tensors["bias2"].fill_(math.log(prior / (1.0 - prior)))
        return tensors | {
            f"{name}.squares": torch.full_like(tensors[name], ADAGRAD_START) for name in _WEIGHTS
        }

    @property
    def rows_learned(self) -> int:
        """See `Learner`. Up to ``batch_rows - 1`` of them wait for their mini-batch."""
        return self._learned

    @property
    def rows_refused(self) -> int:
        """See `Learner`."""
        return self._refused

    def score(self, columns: FeatureColumns) -> Floats:
        """See `Learner`."""
        numbers_BS, buckets_BC = self._encode(columns)
        return self._answer(numbers_BS, buckets_BC)

    def score_then_learn(self, columns: FeatureColumns, labels: Floats, weights: Floats) -> Floats:
        """See `Learner`. Rows of one mini-batch are all scored before any of it is learned."""
        check_labels(columns, labels, weights)
        for name in columns.numeric:
            if name not in self._slots and len(self._slots) < SLOTS:
                self._slots[name] = len(self._slots)
        numbers_BS, buckets_BC = self._encode(columns)
        scores = np.empty(columns.num_rows)
        for start, stop, learned in stretches(weights):
            if not learned:
                scores[start:stop] = self._answer(numbers_BS[start:stop], buckets_BC[start:stop])
            while learned and start < stop:
                here = slice(start, min(start + self._rows - self._num_waiting, stop))
                scores[here] = self._answer_in_place(numbers_BS[here], buckets_BC[here])
                self._waiting.append(
                    _Block(numbers_BS[here], buckets_BC[here], labels[here], weights[here])
                )
                self._num_waiting += here.stop - start
                start = here.stop  # noqa: PLW2901
                if self._num_waiting == self._rows:
                    self._learn()
        self._learned += int((weights > 0.0).sum())
        return scores

    def clone(self) -> "TorchMLP":
        """See `Learner`."""
        return TorchMLP(dict(self._settings), self._target)

    def snapshot(self) -> bytes:
        """See `Learner`. Tensors and JSON: nothing in it is code."""
        found = {name: tensor.contiguous() for name, tensor in self._tensors.items()}
        found |= {name: torch.from_numpy(array) for name, array in self._statistics.items()}
        if self._waiting:
            block = self._gathered()
            found["waiting.numbers"], found["waiting.buckets"] = block.numbers, block.buckets
            found["waiting.labels"] = torch.from_numpy(block.labels)
            found["waiting.weights"] = torch.from_numpy(block.weights)
        facts = {"learned": self._learned, "refused": self._refused, "slots": [*self._slots]}
        return safetensors.torch.save(found, {"facts": json.dumps(facts)})

    def restore(self, content: bytes) -> None:
        """See `Learner`."""
        try:
            length = int.from_bytes(content[:8], "little")
            facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["facts"])
            found = safetensors.torch.load(content)
            tensors = {name: found[name] for name in self._tensors}
            statistics = {name: found[name].numpy().copy() for name in _STATISTICS}
            waiting = []
            if "waiting.labels" in found:
                pair = (found[f"waiting.{name}"].numpy() for name in ("labels", "weights"))
                waiting = [_Block(found["waiting.numbers"], found["waiting.buckets"], *pair)]
            learned, refused = int(facts["learned"]), int(facts["refused"])
            slots = {str(name): index for index, name in enumerate(facts["slots"])}
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as cause:
            raise ModelError(f"could not read the state of a torch_mlp: {cause!r}") from cause
        shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise ModelError("could not read the state of a torch_mlp: its layers have other sizes")
        self._learned, self._refused, self._slots = learned, refused, slots
        self._tensors, self._statistics, self._waiting = tensors, statistics, waiting
        self._num_waiting = sum(len(block.labels) for block in waiting)

    def digest(self) -> str:
        """See `Learner`."""
        waiting = []
        if self._waiting:
            block = self._gathered()
            waiting = [block.numbers.numpy(), block.buckets.numpy(), block.labels, block.weights]
        return canonical_digest(
            (
                self._learned,
                self._refused,
                list(self._slots),
                [tensor.numpy() for tensor in self._tensors.values()],
                list(self._statistics.values()),
                waiting,
            )
        )

    def _encode(self, columns: FeatureColumns) -> tuple[Tensor, Tensor]:
        """Raw numbers by slot, NaN where missing or unknown, and the buckets of the words."""
        numbers_BS = np.full((columns.num_rows, SLOTS), np.nan, np.float32)
        for index, name in enumerate(columns.numeric):
            if name in self._slots:
                numbers_BS[:, self._slots[name]] = columns.numeric_BF[:, index]
        buckets_BC = np.full((columns.num_rows, len(columns.category)), self._buckets, np.int64)
        if columns.category:
            coded = columns.words.dictionary_encode()
            words = coded.dictionary.to_pylist()
            table_CU = np.full((len(columns.category), len(words) + 1), self._buckets, np.int64)
            for row, name in zip(table_CU, columns.category, strict=True):
                row[:-1] = [zlib.crc32(f"{name}={w}".encode()) % self._buckets for w in words]
            index_BC = coded.indices.fill_null(len(words)).to_numpy().reshape(buckets_BC.shape)
            buckets_BC = table_CU[np.arange(len(columns.category)), index_BC]
        return torch.from_numpy(numbers_BS), torch.from_numpy(buckets_BC)

    def _scaled(self, numbers_NS: Tensor) -> Tensor:
        mean, spread = self._scale()
        scaled_NS = (numbers_NS - torch.from_numpy(mean[:-1].astype(np.float32))) * (
            torch.from_numpy((1.0 / spread[:-1]).astype(np.float32))
        )
        return torch.nan_to_num(scaled_NS.clamp(-8.0, 8.0), nan=0.0)

    def _scale(self) -> tuple[Floats, Floats]:
        counts = np.maximum(self._statistics["count"], 1.0)
        spread = np.sqrt(self._statistics["squares"] / counts)
        return self._statistics["mean"], np.where(spread > 1e-6, spread, 1.0)

    def _sums(self, scaled_NS: Tensor, embedded_ND: Tensor, wide_N: Tensor) -> Tensor:
        t = self._tensors
        hidden_NH = functional.relu(
            torch.cat([scaled_NS, embedded_ND], 1) @ t["layer1"] + t["bias1"]
        )
        return (hidden_NH @ t["layer2"]).squeeze(1) + t["bias2"] + wide_N

    def _answer(self, numbers_BS: Tensor, buckets_BC: Tensor) -> Floats:
        t = self._tensors
        with torch.inference_mode():
            sums_B = self._sums(
                self._scaled(numbers_BS),
                t["embedding"][buckets_BC].sum(1),
                t["wide"][buckets_BC].sum((1, 2)),
            )
            if self._binary:
                said: Floats = torch.sigmoid(sums_B).double().numpy()
            else:
                mean, spread = self._scale()
                seen = bool(self._statistics["count"][-1])
                said = sums_B.double().numpy() * spread[-1] + (
                    mean[-1] if seen else self._target.prior
                )
        return np.where(np.isfinite(said), said, self._target.prior)

    def _answer_in_place(self, numbers_BS: Tensor, buckets_BC: Tensor) -> Floats:
        """`_answer`, with each row in the place of the mini-batch where it will be learned.

        A product of matrices of another size may round in another way: of always the same size, the
        answer to a row cannot depend on how many came with it.
        """
        first, rows = self._num_waiting, len(numbers_BS)
        whole_NS = torch.full((self._rows, SLOTS), math.nan)
        whole_NC = torch.full((self._rows, buckets_BC.shape[1]), self._buckets)
        whole_NS[first : first + rows] = numbers_BS
        whole_NC[first : first + rows] = buckets_BC
        return self._answer(whole_NS, whole_NC)[first : first + rows]

    def _gathered(self) -> "_Block":
        """The rows that wait as one block; as wide as the row with the most categories."""
        width = max(block.buckets.shape[1] for block in self._waiting)
        padded = [
            functional.pad(block.buckets, (0, width - block.buckets.shape[1]), value=self._buckets)
            for block in self._waiting
        ]
        return _Block(
            torch.cat([block.numbers for block in self._waiting]),
            torch.cat(padded),
            np.concatenate([block.labels for block in self._waiting]),
            np.concatenate([block.weights for block in self._waiting]),
        )

    def _learn(self) -> None:
        """Learn the mini-batch that waits."""
        numbers_NS, buckets_NC, label_N, weight_N = self._gathered()
        self._waiting, self._num_waiting = [], 0
        self._measure(numbers_NS.numpy(), label_N)
        mean, spread = self._scale()
        goal_N = label_N if self._binary else (label_N - mean[-1]) / spread[-1]
        words, index = np.unique(buckets_NC.numpy(), return_inverse=True)
        words_U, place = torch.from_numpy(words), torch.from_numpy(index.reshape(buckets_NC.shape))
        t = self._tensors
        rows = {name: t[name][words_U].requires_grad_() for name in ("embedding", "wide")}
        for name in _WEIGHTS[2:]:
            t[name] = t[name].detach().requires_grad_()
        sums_N = self._sums(
            self._scaled(numbers_NS),
            rows["embedding"][place].sum(1),
            rows["wide"][place].sum((1, 2)),
        )
        loss = functional.binary_cross_entropy_with_logits if self._binary else functional.mse_loss
        losses_N: Any = loss(sums_N, torch.from_numpy(goal_N).float(), reduction="none")
        (losses_N * torch.from_numpy(weight_N).float()).mean().backward()
        with torch.no_grad():
            known_U = words_U < self._buckets
            for name, gathered in rows.items():
                assert gathered.grad is not None
                self._step(name, gathered.grad[known_U], words_U[known_U])
            for name in _WEIGHTS[2:]:
                gradient = t[name].grad
                assert gradient is not None
                t[name] = t[name].detach()
                self._step(name, gradient, slice(None))

    def _step(self, name: str, gradient: Tensor, where: Any) -> None:
        if not bool(torch.isfinite(gradient).all()):
            return  # one absurd mini-batch must not end all learning
        squares = self._tensors[f"{name}.squares"]
        squares[where] += gradient * gradient
        rate = float(self._settings["learning_rate"] or 0.0)
        self._tensors[name][where] -= rate * gradient / squares[where].sqrt()

    def _measure(self, numbers_NS: npt.NDArray[np.float32], label_N: Floats) -> None:
        """Add a mini-batch to the running means and sums of squares (Chan et al., 1979)."""
        values = np.concatenate([numbers_NS.astype(np.float64), label_N[:, None]], axis=1)
        present = ~np.isnan(values)
        added = present.sum(0).astype(np.float64)
        safe = np.maximum(added, 1.0)
        mean = np.where(present, values, 0.0).sum(0) / safe
        squares = (np.where(present, values - mean, 0.0) ** 2).sum(0)
        known = self._statistics
        count = known["count"] + added
        safe = np.maximum(count, 1.0)
        gap = mean - known["mean"]
        known["squares"] += squares + gap * gap * known["count"] * added / safe
        known["mean"] += gap * added / safe
        known["count"] = count
