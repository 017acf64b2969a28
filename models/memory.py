"""What was said at the time of a prediction, until its truth and its corrections have come."""

from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


class MemoryContent(msgspec.Struct, array_like=True, frozen=True):
    """A memory as bytes: keys, values and times of entry from the oldest to the newest.

    ``entered_ms`` is empty where a release wrote it that kept no times.
    """

    keys: bytes
    values: bytes
    evicted: int
    entered_ms: bytes = b""


class PredictionMemory:
    """Rows of ``width`` numbers by a whole-number key; beyond ``rows_max`` the oldest go."""

    def __init__(self, width: int, *, rows_max: int) -> None:
        self.evicted = 0
        """Rows that had to go because there were too many, since the beginning."""
        self._rows_max = rows_max
        self._slot_of: dict[int, int] = {}
        self._keys: deque[int] = deque()
        self._entered_ms: deque[int] = deque()
        self._free: list[int] = []
        self._values = np.empty((min(1024, rows_max), width))

    def __len__(self) -> int:
        """Rows that are remembered."""
        return len(self._keys)

    def put(self, keys: Sequence[int], values: Values, *, at_ms: int) -> None:
        """Remember one row per key; a key that is there keeps its age and gets the new values.

        ``at_ms`` never falls from call to call.
        """
        slots = np.fromiter((self._slot(key, at_ms) for key in keys), np.int64, len(keys))
        if len(self._keys) > len(self._values):
            capacity = min(self._rows_max, max(len(self._keys), 2 * len(self._values)))
            grown = np.empty((capacity, self._values.shape[1]))
            grown[: len(self._values)] = self._values
            self._values = grown
        self._values[slots] = values

    def _slot(self, key: int, at_ms: int) -> int:
        slot = self._slot_of.get(key)
        if slot is not None:
            return slot
        if len(self._keys) == self._rows_max:
            self._drop_oldest()
            self.evicted += 1
        slot = self._slot_of[key] = self._free.pop() if self._free else len(self._keys)
        self._keys.append(key)
        self._entered_ms.append(at_ms)
        return slot

    def _drop_oldest(self) -> None:
        self._entered_ms.popleft()
        self._free.append(self._slot_of.pop(self._keys.popleft()))

    def forget(self, *, before_ms: int) -> None:
        """Let go of what was put before that time."""
        while self._entered_ms and self._entered_ms[0] < before_ms:
            self._drop_oldest()

    def find(self, keys: Sequence[int]) -> tuple[npt.NDArray[np.bool_], Values]:
        """Which keys are remembered, and their rows; NaN for the others."""
        slots = np.fromiter((self._slot_of.get(key, -1) for key in keys), np.int64, len(keys))
        found = slots >= 0
        values = np.where(found[:, None], self._values[np.maximum(slots, 0)], np.nan)
        return found, values

    def content(self) -> MemoryContent:
        """The whole memory, in one canonical form."""
        rows = len(self._keys)
        slots = np.fromiter((self._slot_of[key] for key in self._keys), np.int64, rows)
        return MemoryContent(
            np.fromiter(self._keys, np.int64, rows).tobytes(),
            self._values[slots].tobytes(),
            self.evicted,
            np.fromiter(self._entered_ms, np.int64, rows).tobytes(),
        )

    def date(self, at_ms: int) -> None:
        """Take everything for put at that time: a release wrote it that kept none."""
        self._entered_ms = deque([at_ms] * len(self._keys))

    def load(self, content: MemoryContent) -> None:
        """Hold what ``content`` holds and nothing else.

        Raises:
            ValueError: it is of a memory of another width, or of more rows, or contradicts itself.
        """
        keys = np.frombuffer(content.keys, np.int64)
        values = np.frombuffer(content.values, np.float64)
        entered_ms = np.frombuffer(content.entered_ms, np.int64).tolist() or [0] * len(keys)
        width = self._values.shape[1]
        if (
            len(values) != len(keys) * width
            or len(keys) > self._rows_max
            or len(entered_ms) != len(keys)
            or len(set(keys.tolist())) != len(keys)
        ):
            raise ValueError(
                f"could not load a memory of rows={len(keys)}, values={len(values)} and "
                f"times={len(entered_ms)} into one of width={width} and rows_max={self._rows_max}"
            )
        for of in (self._slot_of, self._keys, self._entered_ms, self._free):
            of.clear()
        self.put(keys.tolist(), values.reshape(-1, width), at_ms=0)
        self._entered_ms = deque(entered_ms)
        self.evicted = content.evicted
