"""Plain aiokafka: ``getmany`` in a loop, one `ConsumerRecord` per message."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.bench.rivals.request import Progress, read_request


async def main() -> None:
    """Count until all is read."""
    request = read_request()
    left = sum(request.ends) - sum(request.starts)
    progress = Progress()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=request.kafka,
        group_id=request.group,
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    places = [TopicPartition(request.source, p) for p in range(len(request.starts))]
    consumer.assign(places)
    for place, offset in zip(places, request.starts, strict=True):
        consumer.seek(place, offset)
    while left > 0:
        for records in (await consumer.getmany(timeout_ms=1000, max_records=10_000)).values():
            left -= len(records)
            progress.add(len(records), sum(len(record.value) for record in records))
    await consumer.stop()
    progress.write(request)


if __name__ == "__main__":
    asyncio.run(main())
