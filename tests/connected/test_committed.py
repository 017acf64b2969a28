"""Reading what is committed, while transactions are open."""

import asyncio
import time

from aiokafka import AIOKafkaProducer

from schemas.settings import Settings
from streams.books.committed import CommittedReader, Span
from tests.connected.copying import make_topics


async def test_decided_spans_wait_for_the_transactions_that_are_open(kafka, tmp_path, unique):
    """Otherwise a commit that has reached the offsets but not yet the records looks like a loss."""
    settings = Settings(kafka=kafka, home=tmp_path)
    topic = unique("out")
    make_topics(settings, topic, partitions=1)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=unique("tx"))
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"x", partition=0)

    async def commit_later():
        await asyncio.sleep(0.5)
        await producer.commit_transaction()

    async with CommittedReader(settings) as reader:
        assert await reader.spans(topic) == {0: Span(0, 0)}
        started = time.monotonic()
        commit = asyncio.create_task(commit_later())
        assert await reader.decided_spans(topic) == {0: Span(0, 2)}
        assert time.monotonic() - started >= 0.5
        await commit
    await producer.stop()
