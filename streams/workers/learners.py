"""Learner snapshots as records of ``<pipeline>.learners``: written, read back, and followed.

Nothing of a snapshot is used before its header's signature is checked, and nothing that is older
than what was taken before: a record that somebody kept and sends again is refused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import cramjam
import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.champion import Champion, Served
from models.hybrid import OnlineModel
from models.online import check_learner, fingerprint
from models.signing import Keyring, load_keyring
from schemas.errors import (
    ChecksumMismatch,
    KafkaUnavailable,
    ModelError,
    PermanentError,
    SetupError,
)
from schemas.learners import (
    SNAPSHOT_BYTES_MAX,
    LearnerHeader,
    decode_header,
    encode_header,
    pieces,
    sha256,
)
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.transport.commit import Outgoing

log = structlog.get_logger()

PURPOSE = "learner snapshot"
MODEL, OBSERVER = "model", "observer"
"""The parts of a whole snapshot: what learned, and what watched."""
OFFER = "offer"
"""The one part of a snapshot for those who serve: what learned. Where it is small it is published
with every turn, a whole one rarely: what watched grows with the predictions that wait."""
POLL_MS = 100
FOLLOW_MS = 1_000
"""How long nothing may come while learners are followed. A new record is answered at once, so this
is only what an idle topic costs: a request, and 1 ms of a scorer, each time."""
RETRY_S = 1.0
READ_STALL_S_MAX = 60.0
"""How long the topic may yield nothing while a snapshot is looked for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose signature and digests were right."""

    header: LearnerHeader
    signed: str
    """SHA-256 of the signed header: names exactly this snapshot."""
    parts: Mapping[str, bytes]
    epoch_newest: int = 0
    """Of the shard, offers included; only `read_snapshots` knows it."""

    @property
    def model(self) -> bytes | None:
        """What learned; None if there is nothing to serve in it."""
        return self.parts.get(OFFER, self.parts.get(MODEL))


def pack(
    topic: str, header: LearnerHeader, parts: Mapping[str, bytes], keyring: Keyring
) -> tuple[Outgoing, str]:
    """The records of one snapshot, the header last, and the SHA-256 of the signed header.

    Raises:
        SetupError: it is larger than a snapshot may be.
    """
    packed = {name: pieces(bytes(cramjam.zstd.compress(part, 3))) for name, part in parts.items()}
    size = sum(len(piece) for cut in packed.values() for piece in cut)
    if size > SNAPSHOT_BYTES_MAX:
        raise SetupError(
            f"could not publish learner {header.fingerprint}: its snapshot has bytes={size}, "
            f"allowed are {SNAPSHOT_BYTES_MAX}. Declare a smaller one: fewer trees, factors or "
            "buckets, a smaller depth_max."
        )
    digests = {name: [sha256(piece) for piece in cut] for name, cut in packed.items()}
    full = msgspec.structs.replace(header, parts=digests)
    signed = keyring.sign(PURPOSE, encode_header(full))
    keys = [_piece(full.shard, name, i) for name, cut in packed.items() for i in range(len(cut))]
    values = [piece for cut in packed.values() for piece in cut]
    return Outgoing(topic, 0, [*values, signed], [*keys, _key(full)]), sha256(signed)


def _key(header: LearnerHeader) -> bytes:
    """Offers have a key of their own, or compaction would take the whole snapshot for one."""
    return b"%s%d" % (b"offer:" if header.parts.keys() == {OFFER} else b"", header.shard)


def _piece(shard: int, part: str, index: int) -> bytes:
    return f"{shard}/{part}/{index}".encode()


class Assembler:
    """Puts snapshots together from records in their order; keeps one copy of each piece.

    Args of the constructor:
        wanted: The parts to keep; pieces of others are let go.
    """

    def __init__(self, pipeline: str, keyring: Keyring, *, wanted: Iterable[str]) -> None:
        self._pipeline = pipeline
        self._keyring = keyring
        self._wanted = frozenset(wanted)
        self._pieces: dict[bytes, bytes] = {}
        self._epochs: dict[int, int] = {}

    def take(self, key: bytes | None, value: bytes | None) -> Snapshot | None:
        """The snapshot that this record completes, if it does and has a wanted part.

        Raises:
            SignatureRefused: nobody trusted signed the header.
            ChecksumMismatch: a piece is missing or is not the one that was signed. While the topic
                is being compacted that is normal for all but the newest snapshot of a shard.
            ModelError: it is of another pipeline, or not newer than one taken before.
        """
        if key is None or value is None:
            return None
        if b"/" in key:
            if key.split(b"/")[1].decode(errors="replace") in self._wanted:
                self._pieces[key] = value
                self._bound()
            return None
        header = decode_header(self._keyring.open(PURPOSE, value))
        if header.pipeline != self._pipeline or key != _key(header):
            raise ModelError(
                f"could not use a learner snapshot: it is of pipeline={header.pipeline} "
                f"shard={header.shard}, found at pipeline={self._pipeline} key={key!r}"
            )
        known = self._epochs.get(header.shard, 0)
        if header.epoch <= known:
            raise ModelError(
                f"could not use a learner snapshot: shard={header.shard} epoch={header.epoch} was "
                f"sent again; epoch={known} was taken before"
            )
        parts = {
            name: self._part(header, name, digests)
            for name, digests in header.parts.items()
            if name in self._wanted
        }
        self._epochs[header.shard] = header.epoch
        return Snapshot(header, sha256(value), parts) if parts else None

    def epoch(self, shard: int) -> int:
        """The newest of a shard that was seen; 0 before the first."""
        return self._epochs.get(shard, 0)

    def _part(self, header: LearnerHeader, name: str, digests: list[str]) -> bytes:
        cut = [self._pieces.get(_piece(header.shard, name, i), b"") for i in range(len(digests))]
        if [sha256(piece) for piece in cut] != digests:
            raise ChecksumMismatch(
                f"could not use a learner snapshot: shard={header.shard} epoch={header.epoch}: "
                f"pieces of part={name} are not those that were signed"
            )
        return bytes(cramjam.zstd.decompress(b"".join(cut)))

    def _bound(self) -> None:
        """Let the oldest pieces go when somebody floods the topic with keys of their own."""
        while sum(map(len, self._pieces.values())) > 2 * SNAPSHOT_BYTES_MAX:
            del self._pieces[next(iter(self._pieces))]


async def read_snapshots(
    pipeline: Pipeline, settings: Settings, keyring: Keyring
) -> dict[int, Snapshot]:
    """The newest whole snapshot of each shard; what cannot be trusted is logged and left out.

    Raises:
        KafkaUnavailable: the broker does not answer.
    """
    assembler = Assembler(pipeline.name, keyring, wanted={MODEL, OBSERVER})
    found: dict[int, Snapshot] = {}
    place = TopicPartition(pipeline.topics.learners.name, 0)
    consumer = _consumer(settings, wait_ms=POLL_MS)
    try:
        await consumer.start()
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        position, moved_at = -1, time.monotonic()
        while (now_at := await consumer.position(place)) < end:
            if now_at != position:
                position, moved_at = now_at, time.monotonic()
            elif time.monotonic() - moved_at > READ_STALL_S_MAX:
                raise KafkaUnavailable(f"could not read {place}: stuck at offset {position}")
            for record in (await consumer.getmany(place, timeout_ms=POLL_MS)).get(place, ()):
                if (snapshot := taken(assembler, record)) is not None:
                    found[snapshot.header.shard] = snapshot
    except KafkaError as cause:
        raise KafkaUnavailable(f"could not read {place}: {cause!r}") from cause
    finally:
        await consumer.stop()
    return {s: replace(one, epoch_newest=assembler.epoch(s)) for s, one in found.items()}


def taken(assembler: Assembler, record: object) -> Snapshot | None:
    """The snapshot that this record completes; what cannot be trusted is logged and left out."""
    try:
        return assembler.take(record.key, record.value)  # type: ignore[attr-defined]  # aiokafka's
    except ChecksumMismatch as why:
        log.info("learner snapshot incomplete", offset=record.offset, why=str(why))  # type: ignore[attr-defined]
    except (ModelError, PermanentError) as why:
        log.warning("learner snapshot refused", offset=record.offset, why=str(why))  # type: ignore[attr-defined]
    return None


def _consumer(settings: Settings, *, wait_ms: int) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **settings.kafka_client_options(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=wait_ms,
    )


class LearnerUpdates:
    """Follows the learners of a pipeline and offers each new snapshot to the champion."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        reporter: Reporter,
        keyring: Keyring,
        *,
        load: Callable[[Snapshot], Awaitable[Served]],
        fingerprint: str,
    ) -> None:
        self._topic = TopicPartition(pipeline.topics.learners.name, 0)
        self._settings = settings
        self._counters = reporter.counters
        self._assembler = Assembler(pipeline.name, keyring, wanted={MODEL, OFFER})
        self._load = load
        self._fingerprint = fingerprint
        self._consumer: AIOKafkaConsumer | None = None

    async def follow(self, champion: Champion) -> None:
        """Offer the newest snapshot of every shard, then each later one, for ever."""
        while True:
            try:
                if self._consumer is None:
                    self._consumer = _consumer(self._settings, wait_ms=FOLLOW_MS)
                    await self._consumer.start()
                    self._consumer.assign([self._topic])
                polled = await self._consumer.getmany(timeout_ms=FOLLOW_MS)
            except KafkaError as error:
                log.warning("learners not readable", cause=repr(error))
                await asyncio.sleep(RETRY_S)
                continue
            newest: dict[int, Snapshot] = {}
            for record in polled.get(self._topic, ()):
                if (snapshot := taken(self._assembler, record)) is not None:
                    newest[snapshot.header.shard] = snapshot
            for shard, snapshot in newest.items():
                await self._offer(champion, shard, snapshot)

    async def _offer(self, champion: Champion, shard: int, snapshot: Snapshot) -> None:
        header = snapshot.header
        if header.fingerprint != self._fingerprint or snapshot.model is None:
            self._counters["learners_refused"] += 1
            log.info("learner of another declaration", shard=shard, found=header.fingerprint)
            return
        try:
            served = await self._load(snapshot)
        except ModelError as why:
            self._counters["learners_refused"] += 1
            log.warning("learner refused", shard=shard, epoch=header.epoch, why=str(why))
            return
        champion.offer(shard, served)
        self._counters["learner_swaps"] += 1
        self._counters["learner_rows"] = header.rows_learned

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()


def follow_learners(
    pipeline: Pipeline, settings: Settings, reporter: Reporter
) -> tuple[Champion, LearnerUpdates] | None:
    """What blends the online learner into the answers, and what keeps it up to date; None where
    the deep model serves alone.

    Raises:
        SetupError: the learner is not declared as it should be, or the signing key is unusable.
    """
    learner = pipeline.learner
    if learner is None or pipeline.champion == "frozen":
        return None
    check_learner(pipeline)

    def restored(snapshot: Snapshot) -> Served:
        model = OnlineModel(pipeline)  # the first one imports River or torch: seconds
        assert snapshot.model is not None
        model.restore(snapshot.model)
        return Served(model, snapshot.header.position)

    async def load(snapshot: Snapshot) -> Served:
        return await asyncio.to_thread(restored, snapshot)

    updates = LearnerUpdates(
        pipeline,
        settings,
        reporter,
        load_keyring(settings.signing_key_file, settings.trusted_keys),
        load=load,
        fingerprint=fingerprint(learner, pipeline.target),
    )
    return Champion(pipeline), updates
