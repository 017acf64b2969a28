"""The hand-written loop that people write instead: confluent-kafka, msgspec, numpy, torch.

Reads batches, decodes them, asks the same torch module with the same features, and produces one
JSON record per event; librdkafka works in threads of its own, so reading, computing and sending
overlap. ``fetch.queue.backoff.ms=5``, or it stalls at half of its speed. With ``transactional``
every batch is one transaction that carries its offsets. It writes predictions only: no scored rows,
no dead letters (a bad record ends it), one model version for ever.
"""

from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from streams.bench.rivals.request import Progress, Request, read_request
from streams.bench.rivals.scorer import BatchScorer


def consumer_of(request: Request) -> Any:
    """A consumer at the first offset of every partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": request.kafka,
            "group.id": request.group,
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": request.wait_ms,
            "queued.min.messages": 200_000,
        }
    )
    consumer.assign(
        [TopicPartition(request.source, p, offset) for p, offset in enumerate(request.starts)]
    )
    return consumer


def producer_of(request: Request) -> Any:
    """An idempotent producer, transactional if asked for."""
    options: dict[str, Any] = {
        "bootstrap.servers": request.kafka,
        "linger.ms": 1 if request.wait_ms < 50 else 5,
        "batch.size": 512 << 10,
        "enable.idempotence": True,
        "queue.buffering.max.messages": 1_000_000,
    }
    if request.transactional:
        options |= {"transactional.id": f"{request.group}-id", "retry.backoff.ms": 1}
    producer = Producer(options)
    if request.transactional:
        producer.init_transactions(30)
    return producer


def main() -> None:
    """Work until every partition has reached its end."""
    request = read_request()
    progress = Progress()
    consumer = consumer_of(request)
    producer = producer_of(request) if request.sink else None
    scorer = BatchScorer(request) if request.sink else None
    left = sum(request.ends) - sum(request.starts) if request.ends else -1
    position = dict(enumerate(request.starts))
    while left:
        messages = consumer.consume(request.rows_max, timeout=request.wait_ms / 1000)
        if not messages:
            continue
        size = 0
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            size += len(message.value())
            position[message.partition()] = message.offset() + 1
        if producer is not None and scorer is not None:
            if request.transactional:
                producer.begin_transaction()
            answers = scorer(
                [message.value() for message in messages],
                [(message.partition(), message.offset()) for message in messages],
            )
            for message, answer in zip(messages, answers, strict=True):
                producer.produce(
                    request.sink, answer, key=message.key(), partition=message.partition()
                )
            _commit(request, consumer, producer, position)
        left -= len(messages)
        progress.add(len(messages), size)
    if producer is not None:
        producer.flush(60)
    if not request.transactional and request.sink:
        consumer.commit(offsets=_offsets(request, position), asynchronous=False)
    consumer.close()
    progress.write(request)


def _offsets(request: Request, position: dict[int, int]) -> list[Any]:
    return [TopicPartition(request.source, p, offset) for p, offset in position.items()]


def _commit(request: Request, consumer: Any, producer: Any, position: dict[int, int]) -> None:
    """At least once: offsets are committed behind acknowledged answers only, at the end."""
    producer.poll(0)
    if request.transactional:
        producer.send_offsets_to_transaction(
            _offsets(request, position), consumer.consumer_group_metadata(), 30
        )
        producer.commit_transaction(30)


if __name__ == "__main__":
    main()
