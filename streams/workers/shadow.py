"""The shadow: a challenger answers the same batches as the champion, in a thread of its own.

Its answers go nowhere but into counters: no consumer ever sees them. It never makes a batch wait:
one batch at most waits for it, one that comes while it is busy or rests is dropped and counted, and
of the wall clock it takes `BUSY_SHARE_MAX` at most.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, Full, Queue

import numpy as np
import numpy.typing as npt
import structlog

from models.engine import Loaded
from models.protocol import FeatureColumns

log = structlog.get_logger()

BUSY_SHARE_MAX = 0.2
"""Of one processor: after a forward pass of 1 ms the shadow rests for 4 ms."""
LATE_S_MAX = 0.25
"""A batch that has waited longer is dropped."""
STOP_S_MAX = 2.0

Job = tuple[Loaded, FeatureColumns, npt.NDArray[np.float32], float]


class Shadow:
    """Takes batches from the scorer and compares.

    Counts ``shadow_rows`` answered, ``shadow_dropped`` not answered in time, ``shadow_errors`` on
    which the challenger failed, and ``shadow_difference``, the sum of absolute differences from
    what the champion said. Its forward passes run in plain torch, because an engine answers one
    thread at a time and this one may become the canary's at any moment.
    """

    def __init__(
        self, counters: defaultdict[str, float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._jobs: Queue[Job | None] = Queue(maxsize=1)
        self._thread: threading.Thread | None = None

    def offer(
        self, shadow: Loaded, columns: FeatureColumns, scores: npt.NDArray[np.float32]
    ) -> None:
        """Answer ``columns`` some time soon, or never. Does not wait."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait((shadow, columns, scores, self._clock()))
        except Full:
            self._counters["shadow_dropped"] += columns.num_rows

    def stop(self) -> None:
        """End the thread; a batch that still waits is dropped."""
        if self._thread is None:
            return
        with contextlib.suppress(Empty):
            self._jobs.get_nowait()
        self._jobs.put(None)
        self._thread.join(STOP_S_MAX)
        self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            shadow, columns, scores, offered_at = job
            started = self._clock()
            if started - offered_at > LATE_S_MAX:
                self._counters["shadow_dropped"] += columns.num_rows
                continue
            try:
                answer = replace(shadow, choice=None).score(columns)
            except Exception as error:  # a module is other people's code
                self._counters["shadow_errors"] += columns.num_rows
                log.warning("shadow failed on a batch", version=shadow.version, error=repr(error))
            else:
                self._counters["shadow_rows"] += columns.num_rows
                self._counters["shadow_difference"] += float(np.abs(answer - scores).sum())
            time.sleep((self._clock() - started) * (1 / BUSY_SHARE_MAX - 1))
