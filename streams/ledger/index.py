"""Finds the row of an id among a million, for whole columns of ids at once.

Open addressing with linear probing on numpy arrays: 16 bytes a slot, where a dict of texts takes
190 a row. Nothing is ever deleted: an entry below the floor is dead and goes at the next rebuild,
which is enough for rows that leave in the order in which they came.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
_FREE = -1
_SLOTS_MIN = 1 << 10
_FULL = 0.6
"""Share of slots in use at which the table is rebuilt; probes get long above it."""


def hash_ids(ids: Sequence[str]) -> Int64:
    """Python's own hash of each id: seeded per process, so nobody can aim at collisions.

    It must never become part of a state.
    """
    return np.fromiter(map(hash, ids), np.int64, len(ids))


class Index:
    """Row numbers by hash. Rows are added in ascending order."""

    def __init__(self) -> None:
        self._rows = np.full(_SLOTS_MIN, _FREE, np.int64)
        self._hashes = np.zeros(_SLOTS_MIN, np.int64)
        self._used = 0

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        return self._rows.nbytes + self._hashes.nbytes

    def find(
        self, hashes: Int64, floor: int, same: Callable[[Int64, Int64], npt.NDArray[np.bool_]]
    ) -> Int64:
        """The row of each hash, or -1.

        ``same(positions, rows)`` says which of ``rows`` really hold the ids at ``positions``:
        two ids may have one hash. Rows below ``floor`` are not found.
        """
        found = np.full(len(hashes), _FREE, np.int64)
        mask = len(self._rows) - 1
        slots = hashes & mask
        todo = np.arange(len(hashes))
        while len(todo):
            rows = self._rows[slots]
            hit = np.flatnonzero((rows >= floor) & (self._hashes[slots] == hashes[todo]))
            going = rows != _FREE
            if len(hit):
                right = hit[same(todo[hit], rows[hit])]
                found[todo[right]] = rows[right]
                going[right] = False
            todo, slots = todo[going], (slots[going] + 1) & mask
        return found

    def add(self, hashes: Int64, rows: Int64, floor: int) -> None:
        """Enter rows under their hashes; what lies below ``floor`` may go."""
        if self._used + len(rows) > _FULL * len(self._rows):
            self._rebuild(len(rows), floor)
        self._enter(hashes, rows)

    def _rebuild(self, more: int, floor: int) -> None:
        alive = self._rows >= floor
        rows, hashes = self._rows[alive], self._hashes[alive]
        size = _SLOTS_MIN
        while size < 2 * (len(rows) + more):
            size *= 2
        self._rows = np.full(size, _FREE, np.int64)
        self._hashes = np.zeros(size, np.int64)
        self._used = 0
        self._enter(hashes, rows)

    def _enter(self, hashes: Int64, rows: Int64) -> None:
        mask = len(self._rows) - 1
        slots = hashes & mask
        todo = np.arange(len(rows))
        while len(todo):
            free = self._rows[slots] == _FREE
            # Where several want one slot, the last written gets it; the others go on.
            self._rows[slots[free]] = rows[todo[free]]
            won = self._rows[slots] == rows[todo]
            self._hashes[slots[won]] = hashes[todo[won]]
            todo, slots = todo[~won], (slots[~won] + 1) & mask
        self._used += len(rows)
