"""The broker's own log of offset commits: what a group committed, one commit after the other."""

import io
import struct
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

TOPIC = "__consumer_offsets"


@dataclass(frozen=True)
class Commit:
    """One committed offset of one partition."""

    topic: str
    partition: int
    offset: int
    metadata: str


async def commits_of(kafka: str, group: str) -> list[Commit]:
    """Every offset that ``group`` has committed, in order; of transactions, the committed ones."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        tps = [TopicPartition(TOPIC, p) for p in await _partitions(consumer)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found = []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    commit = _decode(record.key, record.value, group)
                    if commit is not None:
                        found.append(commit)
        return found
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer) -> list[int]:
    await consumer._client._wait_on_metadata(TOPIC)
    return sorted(consumer.partitions_for_topic(TOPIC))


def _decode(key: bytes, value: bytes | None, group: str) -> Commit | None:
    """See OffsetCommitKey.json and OffsetCommitValue.json of Apache Kafka."""
    source = io.BytesIO(key)
    if _number(source, ">h") > 1 or value is None or _text(source) != group:
        return None  # 2: the group itself, not an offset of it
    topic, partition = _text(source), _number(source, ">i")
    source = io.BytesIO(value)
    version = _number(source, ">h")
    assert 0 <= version <= 4, version
    offset = _number(source, ">q")
    if version >= 3:
        _number(source, ">i")  # leader epoch
    metadata = _text(source) if version < 4 else _compact_text(source)
    return Commit(topic, partition, offset, metadata)


def _number(source: io.BytesIO, form: str) -> int:
    return int(struct.unpack(form, source.read(struct.calcsize(form)))[0])


def _text(source: io.BytesIO) -> str:
    return source.read(_number(source, ">h")).decode()


def _compact_text(source: io.BytesIO) -> str:
    """Its length and one more as a varint, then its bytes."""
    length = shift = 0
    while True:
        byte = source.read(1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return source.read(length - 1).decode()
