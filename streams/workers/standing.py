"""What a worker has to work on: its partitions in its report, and that it stands by without any.

A group with more workers than partitions leaves some without; they take over when others end.
"""

import time
from collections.abc import Callable
from typing import Any

from streams.telemetry import Reporter

STANDING_BY = "standing by: the group has no partition for it"
EMPTY_S_MIN = 2.0
"""Without partitions for less than that it is between two assignments."""


class Standing:
    """Looks at the consumer of one worker, four times a second."""

    def __init__(self, reporter: Reporter, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is known yet."""
        self._reporter, self._clock = reporter, clock
        self._empty_since = clock()

    def look(self, app: Any) -> None:
        """Note the partitions that are the worker's own now."""
        consumer, reporter = app.consumer, self._reporter
        owned = [tp for tp in consumer.assignment() if tp.topic in consumer.owned_topics]
        reporter.partitions = sorted(f"{tp.topic}/{tp.partition}" for tp in owned)
        if owned or not app.consumer_generation_id:
            self._empty_since = self._clock()
            if owned and reporter.detail == STANDING_BY:
                reporter.change("starting", "taking over")
        elif (
            reporter.state in {"starting", "running"}
            and reporter.detail != STANDING_BY
            and self._clock() - self._empty_since >= EMPTY_S_MIN
        ):
            reporter.change("running", STANDING_BY)
