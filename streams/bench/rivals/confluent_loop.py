"""The hand-written loop that people write instead: confluent-kafka, msgspec, numpy, torch.

Reads batches, decodes them, asks the same torch module with the same features, and produces one
JSON record per event; librdkafka works in threads of its own, so reading, computing and sending
overlap. ``fetch.queue.backoff.ms=5``, or it stalls at half of its speed. With ``transactional``
every batch is one transaction that carries its offsets. It writes predictions only: no scored rows,
no dead letters (a bad record ends it), one model version for ever.
"""

import time
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.predictions import Prediction
from streams.bench.rivals.request import Progress, Request, read_request

CHUNK_ROWS = 1024


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


class Scorer:
    """Bytes of events to bytes of predictions."""

    def __init__(self, request: Request) -> None:
        import torch  # reading alone needs none of these

        from models.features import ColumnReader, Encoder
        from models.registry import open_registry
        from schemas.events import event_type
        from schemas.loading import load_pipeline
        from schemas.settings import Settings

        torch.set_num_threads(1)
        self._inference_mode = torch.inference_mode
        pipeline = load_pipeline(request.pipeline)
        manifest, self._module = open_registry(
            Settings(home=Path(request.home)), request.registry
        ).load(request.pipeline, request.version)
        self._decode = msgspec.json.Decoder(event_type(pipeline)).decode
        self._columns = ColumnReader(pipeline.features)
        self._encode_features = Encoder(manifest.features)
        self._key = pipeline.key
        self._version = request.version
        self._trained_at_ms = manifest.trained_at_ms
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, messages: list[Any], *, now_ms: int) -> list[bytes]:
        """One prediction per message, in their order."""
        events: list[Any] = [self._decode(message.value()) for message in messages]
        batch = self._encode_features(self._columns(events))
        scores: list[float] = []
        with self._inference_mode():
            for start in range(0, len(events), CHUNK_ROWS):
                part = slice(start, start + CHUNK_ROWS)
                scores += self._module(batch.numeric_BF[part], batch.category_BC[part]).tolist()
        age_ms = now_ms - self._trained_at_ms
        return [
            self._encode(
                Prediction(
                    event_id=event.event_id,
                    key=getattr(event, self._key),
                    score=round(score, 6),
                    event_time_ms=event.event_time_ms,
                    source_offset=message.offset(),
                    source_partition=message.partition(),
                    model_version=self._version,
                    model_age_ms=age_ms,
                    predicted_at_ms=now_ms,
                )
            )
            for event, score, message in zip(events, scores, messages, strict=True)
        ]


def main() -> None:
    """Work until every partition has reached its end."""
    request = read_request()
    progress = Progress()
    consumer = consumer_of(request)
    producer = producer_of(request) if request.sink else None
    scorer = Scorer(request) if request.sink else None
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
            answers = scorer(messages, now_ms=int(time.time() * 1000))
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
