"""What one user may use: bounds of a single query, and a fair part of what all share."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Self

from streams.store.gateway.errors import EngineError

QUERIES_MAX_DEFAULT: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one user; 0 is none. The engine's own bounds hold beside them."""

    queries_max: int = QUERIES_MAX_DEFAULT
    """Queries running or waiting at once."""
    memory_bytes_max: int = 0
    """Memory of one query."""
    seconds_max: int = 0
    """Run time of one query."""
    read_rows_max: int = 0
    """Rows that one query reads from tables."""
    read_bytes_max: int = 0
    """Bytes that one query reads from tables, uncompressed."""
    result_rows_max: int = 0
    """Rows of one answer."""
    result_bytes_max: int = 0
    """Bytes of one answer, as the engine counts them in memory."""

    @classmethod
    def read(cls, table: Mapping[str, object], *, base: "Limits | None" = None) -> Self:
        """``base`` with what ``table`` says.

        Raises:
            ValueError: an unknown name, or a value that is no whole number from 0.
        """
        names = [item.name for item in fields(cls)]
        values = {} if base is None else {name: getattr(base, name) for name in names}
        for name, value in table.items():
            if name not in names:
                raise ValueError(f"unknown limit {name!r}; known ones are {', '.join(names)}")
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"limit {name} must be a whole number, 0 for none")
            values[name] = value
        found = cls(**values)
        if not found.queries_max:
            raise ValueError("limit queries_max must be at least 1")
        return found

    def settings(self) -> dict[str, str]:
        """The engine's settings for them."""
        return {
            setting: str(value)
            for name, setting in _SETTINGS.items()
            if (value := getattr(self, name))
        }

    def check(self, name: str, value: str) -> None:
        """Refuse a setting that would lift a limit.

        Raises:
            EngineError: SETTING_CONSTRAINT_VIOLATION, as a server answers.
        """
        limit = self.settings().get(name)
        if limit is None:
            return
        try:
            asked = float(value)
        except ValueError:
            asked = 0.0
        if not 0 < asked <= float(limit):
            raise EngineError(
                452,
                f"Code: 452. DB::Exception: Setting {name} must be more than 0 and at most "
                f"{limit} for this user. (SETTING_CONSTRAINT_VIOLATION)",
            )


_SETTINGS: Final = {
    "memory_bytes_max": "max_memory_usage",
    "seconds_max": "max_execution_time",
    "read_rows_max": "max_rows_to_read",
    "read_bytes_max": "max_bytes_to_read",
    "result_rows_max": "max_result_rows",
    "result_bytes_max": "max_result_bytes",
}
LIMITED: Final = frozenset(_SETTINGS.values())
"""Settings that a user's limits set."""


@dataclass(slots=True)
class Shares:
    """A stock of equal units that no holder can exhaust.

    A holder may take more while it has less than twice of what is free (dynamic thresholds;
    Choudhury and Hahne, 1998). One alone gets two thirds, and whoever comes next always finds
    something. Not thread-safe.
    """

    total: int
    _held: dict[Hashable, int] = field(default_factory=dict)
    _taken: int = 0

    @property
    def free(self) -> int:
        """Units that nobody has."""
        return self.total - self._taken

    def held(self, holder: Hashable) -> int:
        """Units that ``holder`` has."""
        return self._held.get(holder, 0)

    def take(self, holder: Hashable, units: int = 1) -> bool:
        """Take ``units`` if ``holder`` may have them, else nothing."""
        if units > self.free or self.held(holder) >= 2 * self.free:
            return False
        self._held[holder] = self.held(holder) + units
        self._taken += units
        return True

    def give_back(self, holder: Hashable, units: int = 1) -> None:
        """Return ``units``."""
        left = self.held(holder) - units
        self._taken -= units
        if left:
            self._held[holder] = left
        else:
            self._held.pop(holder, None)
