"""What was said at the time of a prediction, until its truth and its corrections have come."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


class MemoryContent(msgspec.Struct, array_like=True, frozen=True):
    """A memory as bytes: keys and values from the oldest to the newest."""

    keys: bytes
    values: bytes
    evicted: int


class PredictionMemory:
    """Rows of ``width`` numbers by a whole-number key; beyond ``rows_max`` the oldest go."""

    def __init__(self, width: int, *, rows_max: int) -> None:
        self.evicted = 0
        """Rows that had to go because there were too many, since the beginning."""
        self._rows_max = rows_max
        self._slot_of: dict[int, int] = {}
        self._keys: list[int] = []
        self._values = np.empty((min(1024, rows_max), width))
        self._next = 0

    def __len__(self) -> int:
        """Rows that are remembered."""
        return len(self._keys)

    def put(self, keys: Sequence[int], values: Values) -> None:
        """Remember one row per key; a key that is there keeps its age and gets the new values."""
        slots = np.fromiter((self._slot(key) for key in keys), np.int64, len(keys))
        if len(self._keys) > len(self._values):
            capacity = min(self._rows_max, max(len(self._keys), 2 * len(self._values)))
            grown = np.empty((capacity, self._values.shape[1]))
            grown[: len(self._values)] = self._values
            self._values = grown
        self._values[slots] = values

    def _slot(self, key: int) -> int:
        slot = self._slot_of.get(key)
        if slot is not None:
            return slot
        slot = self._next
        if slot == len(self._keys):
            self._keys.append(key)
        else:
            del self._slot_of[self._keys[slot]]
            self._keys[slot] = key
            self.evicted += 1
        self._slot_of[key] = slot
        self._next = (slot + 1) % self._rows_max
        return slot

    def find(self, keys: Sequence[int]) -> tuple[npt.NDArray[np.bool_], Values]:
        """Which keys are remembered, and their rows; NaN for the others."""
        slots = np.fromiter((self._slot_of.get(key, -1) for key in keys), np.int64, len(keys))
        found = slots >= 0
        values = np.where(found[:, None], self._values[np.maximum(slots, 0)], np.nan)
        return found, values

    def content(self) -> MemoryContent:
        """The whole memory, in one canonical form."""
        full = len(self._keys) == self._rows_max
        first = self._next if full else 0
        order = [*range(first, len(self._keys)), *range(first)]
        keys = np.fromiter((self._keys[slot] for slot in order), np.int64, len(order))
        return MemoryContent(keys.tobytes(), self._values[order].tobytes(), self.evicted)

    def load(self, content: MemoryContent) -> None:
        """Hold what ``content`` holds and nothing else.

        Raises:
            ValueError: it is of a memory of another width, or of more rows.
        """
        keys = np.frombuffer(content.keys, np.int64)
        values = np.frombuffer(content.values, np.float64)
        width = self._values.shape[1]
        if len(values) != len(keys) * width or len(keys) > self._rows_max:
            raise ValueError(
                f"could not load a memory of rows={len(keys)} and values={len(values)} into one "
                f"of width={width} and rows_max={self._rows_max}"
            )
        self._slot_of.clear()
        self._keys.clear()
        self._next = 0
        self.put(keys.tolist(), values.reshape(-1, width))
        self.evicted = content.evicted
