"""Which model version answers: follows ``tidemill.models`` and offers new versions to the
engine.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.engine import Arms, Engine, Loaded
from models.inference import Name
from models.registry import load_serving, open_registry
from models.signing import load_keyring
from schemas.errors import ModelError
from schemas.manifest import Announcement, NamedVersion
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.topics import MODELS
from streams.control.announce import opened
from streams.telemetry import Reporter

log = structlog.get_logger()

POLL_MS = 500
RETRY_S = 1.0


class ModelUpdates:
    """Reads announcements from the start of the compacted topic, then as they come.

    Reads without a group: every worker sees every announcement. A record that is old, unsigned,
    changed or broken is logged with the reason and counted, and changes nothing. So does a version
    that cannot be loaded or warmed up. Champion, previous champion and challenger stay in memory:
    a rollback loads nothing.
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
        self._keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
        self._resident: dict[NamedVersion, Loaded] = {}
        self._consumer: AIOKafkaConsumer | None = None

    async def first(self) -> Engine:
        """Wait until a version that can serve has been announced, and load it."""
        while True:
            for announcement in await self._next():
                arms = await self.arms(announcement)
                if arms is not None:
                    self._serves(arms)
                    return Engine(arms)
            self._reporter.change(
                "waiting",
                f"no model is announced for {self._pipeline.name}: "
                f"run `tidemill train {self._pipeline.name} --promote`",
            )

    async def follow(self, engine: Engine) -> None:
        """Offer every later announcement to ``engine``, for ever."""
        while True:
            for announcement in await self._next():
                if announcement.epoch <= engine.arms.epoch:
                    self._refuse(f"epoch={announcement.epoch} is not newer than what serves")
                    continue
                arms = await self.arms(announcement)
                if arms is None:
                    continue
                try:
                    engine.offer(arms)
                except ModelError as old:
                    log.info("announcement ignored", why=str(old))
                else:
                    self._reporter.counters["swaps"] += 1
                    self._serves(arms)
                    log.info(
                        "model swapped",
                        version=arms.champion.version,
                        epoch=arms.epoch,
                        action=announcement.action,
                        stage=announcement.stage,
                        share=announcement.share,
                    )

    def _serves(self, arms: Arms) -> None:
        self._reporter.counters["model_epoch"] = arms.epoch
        found = {"champion": arms.champion, "canary": arms.canary, "shadow": arms.shadow}
        self._reporter.models = {
            arm: (loaded.version, loaded.trained_at_ms) for arm, loaded in found.items() if loaded
        }

    async def arms(self, announcement: Announcement) -> Arms | None:
        """What an announcement asks for, loaded and warmed; None if its champion is unfit.

        A challenger that is unfit does no work; the champion answers alone.
        """
        wanted = (announcement.champion, announcement.previous, announcement.challenger)
        champion, _previous, challenger = [await self._load(announcement, one) for one in wanted]
        if champion is None:
            return None
        self._resident = {k: v for k, v in self._resident.items() if k in wanted}
        named = announcement.challenger
        return Arms(
            epoch=announcement.epoch,
            champion=champion,
            canary=challenger if announcement.stage == "canary" else None,
            share=announcement.share,
            salt="" if named is None else named.version,
            shadow=challenger if announcement.stage == "shadow" else None,
        )

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
                    found = opened(record, self._keyring)
                except ModelError as why:
                    self._refuse(str(why), offset=record.offset)
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

    def _refuse(self, why: str, **more: int) -> None:
        self._reporter.counters["announcements_refused"] += 1
        log.warning("announcement refused", why=why, **more)

    async def _load(self, announcement: Announcement, named: NamedVersion | None) -> Loaded | None:
        if named is None:
            return None
        if named in self._resident:
            return replace(self._resident[named], epoch=announcement.epoch)
        try:
            loaded = await asyncio.to_thread(
                load_serving,
                self._registry,
                msgspec.structs.replace(announcement, version=named.version, digest=named.digest),
                inference=cast("Name", self._settings.inference),  # checked by Settings
            )
        except (ModelError, OSError) as error:
            self._reporter.counters["models_refused"] += 1
            log.warning("model refused", version=named.version, why=str(error))
            return None
        self._resident[named] = loaded
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
