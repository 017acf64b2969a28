"""What benchmarks read back from Kafka, with a client that is not ours."""

import functools
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.settings import Settings

_decode = msgspec.json.decode
LEADERS_S_MAX = 10.0


def consumer(settings: Settings, *, committed: bool = True, **more: object) -> Consumer:
    """A confluent-kafka consumer without a group of its own."""
    return Consumer(
        {
            "bootstrap.servers": settings.kafka,
            "group.id": f"bench-{uuid.uuid4().hex[:8]}",
            "enable.auto.commit": False,
            "log_level": 0,  # when the stand goes away before it, it would tell us so for ever
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            **more,
        }
    )


def end_offsets(settings: Settings, topic: str, partitions: int) -> list[int]:
    """Where each partition ends now; waits for the leaders of a topic that is new."""
    reader, deadline = consumer(settings), time.monotonic() + LEADERS_S_MAX
    try:
        while True:
            try:
                return [
                    reader.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1]
                    for p in range(partitions)
                ]
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    finally:
        reader.close()


@functools.cache
def _member(kafka: str, group: str) -> Consumer:
    """A consumer that asks about a group and never joins it. (librdkafka's administration client
    crashed the process here once.)
    """
    return Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": group,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )


def committed_total(settings: Settings, *, group: str, topic: str, partitions: int) -> int:
    """Sum of a group's committed offsets over the partitions of a topic."""
    wanted = [TopicPartition(topic, p) for p in range(partitions)]
    deadline = time.monotonic() + 20
    while True:
        try:
            found = _member(settings.kafka, group).committed(wanted, timeout=20)
            break
        except KafkaException:  # nobody coordinates the group yet: its topic is being made
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    return sum(max(0, tp.offset) for tp in found)


def predictions(
    settings: Settings, topic: str, since: list[int], *, prefix: str, stamped: bool = True
) -> tuple[int, int, list[tuple[float, int]], dict[str, float]]:
    """Predictions of events with this prefix behind the offsets ``since``, ``read_committed``.

    Returns how many there are, how many distinct event ids, when they were computed (Unix seconds,
    with the number of each; empty unless ``stamped``), and the scores by event id.
    """
    ends = end_offsets(settings, topic, len(since))
    scores: dict[str, float] = {}
    moments: Counter[int] = Counter()
    count = 0
    for _key, value, _partition in records(settings, topic, since, ends):
        found = _decode(value)
        if found["event_id"].startswith(prefix):
            count += 1
            scores[found["event_id"]] = found["score"]
            if stamped:
                moments[found["predicted_at_ms"]] += 1
    stamps = [(ms / 1000, rows) for ms, rows in sorted(moments.items())]
    return count, len(scores), stamps, scores


def last_events(
    settings: Settings, topic: str, partitions: int, rows: int
) -> Iterator[tuple[bytes | None, bytes, int]]:
    """The last ``rows`` messages of a topic, as many of each partition: key, value, partition."""
    ends = end_offsets(settings, topic, partitions)
    starts = [max(0, end - rows // partitions) for end in ends]
    yield from records(settings, topic, starts, ends)


def records(
    settings: Settings, topic: str, starts: list[int], ends: list[int]
) -> Iterator[tuple[bytes | None, bytes, int]]:
    """Committed messages between offsets, partition by partition mixed: key, value, partition."""
    reader = consumer(settings, **{"enable.partition.eof": True})
    spans = enumerate(zip(starts, ends, strict=True))
    left = {p for p, (a, b) in spans if a < b}
    reader.assign([TopicPartition(topic, p, starts[p]) for p in sorted(left)])
    try:
        while left:
            messages = reader.consume(10_000, timeout=10)
            assert messages, "nothing came for 10 s: a transaction was left open"
            for message in messages:
                partition = message.partition()
                assert partition is not None
                if message.error():
                    left.discard(partition)
                elif (message.offset() or 0) < ends[partition]:
                    yield message.key(), message.value() or b"", partition
    finally:
        reader.close()


def sizes(settings: Settings, topic: str, ends: list[int], some: list[int]) -> tuple[int, int]:
    """Bytes of all values up to ``ends``, and of those before the offsets ``some``."""
    seen = [0] * len(ends)
    whole = part = 0
    for _key, value, partition in records(settings, topic, [0] * len(ends), ends):
        whole += len(value)
        if seen[partition] < some[partition]:
            part += len(value)
        seen[partition] += 1
    return whole, part
