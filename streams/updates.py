"""Which model version answers: follows ``tidemill.models`` and offers new versions to the
engine.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.engine import Engine, Loaded
from models.inference import Name
from models.registry import load_serving, open_registry
from schemas.errors import ModelError
from schemas.manifest import Announcement
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.topics import MODELS
from streams.telemetry import Reporter

log = structlog.get_logger()

POLL_MS = 500
RETRY_S = 1.0


class ModelUpdates:
    """Reads announcements from the start of the compacted topic, then as they come.

    Reads without a group: every worker sees every announcement. A version that cannot be loaded or
    warmed up is logged and counted, and the serving one stays.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        reporter: Reporter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._reporter = reporter
        self._clock = clock
        self._registry = open_registry(settings)
        self._consumer: AIOKafkaConsumer | None = None

    async def first(self) -> Engine:
        """Wait until a version that can serve has been announced, and load it."""
        while True:
            for announcement in await self._next():
                loaded = await self._load(announcement)
                if loaded is not None:
                    return Engine(loaded)
            self._reporter.change(
                "waiting",
                f"no model is announced for {self._pipeline.name}: "
                f"run `tidemill train {self._pipeline.name} --promote`",
            )

    async def follow(self, engine: Engine) -> None:
        """Offer every later announcement to ``engine``, for ever."""
        while True:
            for announcement in await self._next():
                loaded = await self._load(announcement)
                if loaded is None:
                    continue
                try:
                    engine.offer(loaded)
                except ModelError as old:
                    log.info("announcement ignored", why=str(old))
                else:
                    self._reporter.counters["swaps"] += 1
                    self._reporter.counters["model_epoch"] = loaded.epoch
                    log.info("model swapped", version=loaded.version, epoch=loaded.epoch)

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _next(self) -> list[Announcement]:
        """Announcements for this pipeline that arrived meanwhile; only the newest of each poll."""
        try:
            if self._consumer is None:
                self._consumer = await self._connect()
            polled = await self._consumer.getmany(timeout_ms=POLL_MS)
        except KafkaError as error:
            log.warning("announcements not readable", cause=repr(error))
            await asyncio.sleep(RETRY_S)
            return []
        newest: Announcement | None = None
        for records in polled.values():
            for record in records:
                if record.key != self._pipeline.name.encode() or record.value is None:
                    continue
                try:
                    found = msgspec.json.decode(record.value, type=Announcement)
                except msgspec.MsgspecError as error:
                    log.warning("announcement not understood", offset=record.offset, why=str(error))
                    continue
                if newest is None or found.epoch > newest.epoch:
                    newest = found
        return [] if newest is None else [newest]

    async def _connect(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client_options(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        consumer.assign([TopicPartition(MODELS, 0)])
        return consumer

    async def _load(self, announcement: Announcement) -> Loaded | None:
        try:
            loaded = await asyncio.to_thread(
                load_serving,
                self._registry,
                announcement,
                inference=cast("Name", self._settings.inference),  # checked by Settings
            )
        except (ModelError, OSError) as error:
            self._reporter.counters["models_refused"] += 1
            log.warning("model refused", version=announcement.version, why=str(error))
            return None
        choice = loaded.choice
        if choice is not None:
            log.info(
                "engine chosen",
                version=loaded.version,
                engine=choice.inference.name,
                us_per_call={
                    name: {rows: round(seconds * 1e6) for rows, seconds in found.items()}
                    for name, found in choice.measured_s.items()
                },
                refused=choice.refused,
            )
        return loaded
