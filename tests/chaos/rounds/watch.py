"""When what came out last moved, so that a pause can be measured in seconds."""

import asyncio
import bisect
import contextlib
import itertools
import threading
import time
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.telemetry import read_reports

SAMPLE_S = 0.2
"""How often is looked: the resolution of every figure. Reports are written once a second."""


class Watch:
    """Tracks, by name: partitions of predictions as `read_committed` consumers see them, and what
    workers that have no topic for all to see say of their work.

    ``times[track]`` are moments of `time.monotonic` at which it had moved on.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self.times: dict[str, list[float]] = {}
        self._settings, self._topic = settings, pipeline.topics.predictions
        self._name = pipeline.name
        self._last: dict[str, tuple[float, ...]] = {}
        self._stop = threading.Event()
        self._leaders: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def predictions(self) -> list[str]:
        """The tracks of the predictions."""
        return [f"predictions {p}" for p in range(self._topic.partitions)]

    def leader(self) -> int:
        """Node that leads partition 0 of the predictions, as far as is known."""
        return self._leaders.get(0, 1)

    def silence_s(self, track: str, since: float, until: float) -> float:
        """The longest time without progress between two moments."""
        times = self.times.get(track, [])
        first, end = bisect.bisect_left(times, since), bisect.bisect_right(times, until)
        moments = [since, *times[first:end], until]
        return max(b - a for a, b in itertools.pairwise(moments))

    def moved_after(self, track: str, moment: float) -> bool:
        """Whether it has moved on since."""
        return bool(times := self.times.get(track)) and times[-1] > moment

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.run(self._sample())

    async def _sample(self) -> None:
        places = [TopicPartition(self._topic.name, p) for p in range(self._topic.partitions)]
        while not self._stop.is_set():
            consumer = AIOKafkaConsumer(
                **self._settings.kafka_client_options(), isolation_level="read_committed",
                request_timeout_ms=2_000, metadata_max_age_ms=1_000,
            )  # fmt: skip
            with contextlib.suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(consumer.start(), 5.0)
                while not self._stop.is_set():
                    ends = await asyncio.wait_for(consumer.end_offsets(places), 3.0)
                    for place, end in ends.items():
                        self._saw(f"predictions {place.partition}", (end,))
                        leader = consumer._client.cluster.leader_for_partition(place)
                        self._leaders[place.partition] = leader or 1
                    self._read_reports()
                    await asyncio.sleep(SAMPLE_S)
            with contextlib.suppress(KafkaError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(consumer.stop(), 2.0)
            self._read_reports()
            await asyncio.sleep(SAMPLE_S)

    def _read_reports(self) -> None:
        for report in read_reports(self._settings.run_folder):
            done = report.counters.get("records", 0) + report.counters.get("inserts", 0)
            if report.pipeline == self._name and done:
                self._saw(report.name.removeprefix(f"{self._name}-"), (report.pid, done))

    def _saw(self, track: str, value: tuple[float, ...]) -> None:
        if self._last.get(track, value) != value:
            self.times.setdefault(track, []).append(time.monotonic())
        self._last[track] = value
