"""What a rank uses of its machine, cheap enough to be asked in every step."""

import time
from collections.abc import Callable

import psutil

MEMORY_S_MIN = 0.5
"""Between two looks at the memory: one costs some 20 us, the processor time less than 1."""


class Resources:
    """Of this process, all its threads included."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._process = psutil.Process()
        self._clock = clock
        self._looked_at = -MEMORY_S_MIN
        self._memory_bytes = 0

    def used(self) -> tuple[float, int]:
        """Processor seconds since the start, and resident bytes, half a second old at most."""
        now = self._clock()
        if now - self._looked_at >= MEMORY_S_MIN:
            self._looked_at = now
            self._memory_bytes = self._process.memory_info().rss
        return time.process_time(), self._memory_bytes
