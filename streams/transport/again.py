"""Reads a stretch of one partition again, for a state that is rebuilt."""

import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.types import TP

from schemas.errors import KafkaUnavailable, SetupError
from schemas.settings import Settings
from streams.transport.records import Run

REPLAY_STALL_S_MAX = 60.0
"""How long the logs may yield nothing while a state is rebuilt."""


async def read_again(settings: Settings, tp: TP, first: int, end: int) -> Run:
    """The committed records of ``tp`` from ``first`` up to, not including, ``end``.

    Raises:
        KafkaUnavailable: the broker does not answer.
        SetupError: some of them are gone.
    """
    run = Run(tp, [], [], [], [], end)
    if first >= end:
        return run
    offsets: list[int] = []
    place = TopicPartition(tp.topic, tp.partition)
    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="none",
        fetch_max_wait_ms=100,
    )
    try:
        await consumer.start()
        consumer.assign([place])
        if (oldest := (await consumer.beginning_offsets([place]))[place]) > first:
            raise SetupError(
                f"could not read {tp} again from offset {first}: its log begins at {oldest}. "
                "The topic's retention must cover the time between two snapshots."
            )
        consumer.seek(place, first)
        position, moved_at = first, time.monotonic()
        while position < end:
            for record in (await consumer.getmany(place, timeout_ms=200)).get(place, ()):
                if record.offset < end:
                    offsets.append(record.offset)
                    run.keys.append(record.key)
                    run.values.append(record.value)
                    run.timestamps_ms.append(record.timestamp)
            if (now_at := await consumer.position(place)) != position:
                position, moved_at = now_at, time.monotonic()
            elif time.monotonic() - moved_at > REPLAY_STALL_S_MAX:
                raise KafkaUnavailable(f"could not read {tp} again: stuck at offset {position}")
    except KafkaError as cause:
        raise KafkaUnavailable(f"could not read {tp} again: {cause!r}") from cause
    finally:
        await consumer.stop()
    run.offsets = offsets
    return run
