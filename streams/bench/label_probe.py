"""Sends events and labels open loop, and notes how far each answer's learner had come: librdkafka.

``python -m streams.bench.label_probe`` reads one JSON request from standard input and answers with
one on standard output. A label's clock starts when the schedule says it is sent, not when it was.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition


class _Answer(msgspec.Struct):
    source_partition: int
    learner_position: int


_decode = msgspec.json.Decoder(_Answer).decode


def main() -> None:
    """Send, read, answer."""
    request = json.load(sys.stdin)
    records = msgspec.msgpack.decode(Path(request["records"]).read_bytes())
    steps: list[tuple[float, int, int]] = []
    stop, ready = threading.Event(), threading.Event()
    reader = threading.Thread(target=_read, args=(request, steps, stop, ready), daemon=True)
    reader.start()
    assert ready.wait(30), "the reader did not start"
    _send(request, records)
    time.sleep(request["tail_s"])  # for the last predictions
    stop.set()
    reader.join(10)
    json.dump({"steps": steps}, sys.stdout)


def _send(request: dict[str, Any], records: list[tuple[float, int, bytes, bytes]]) -> None:
    """Each record is due at a Unix time, and of a topic by its place in the request."""
    producer = Producer(
        {
            "bootstrap.servers": request["kafka"],
            "linger.ms": 1,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
        }
    )
    topics = request["topics"]
    for topic in topics:  # or the first records would wait until the client has heard of it
        producer.list_topics(topic, timeout=10)
    for due, topic, key, value in records:
        while (left := due - time.time()) > 0:
            producer.poll(0)
            time.sleep(min(left, 0.002))
        producer.produce(topics[topic], value, key=key)
    assert producer.flush(30) == 0, "not everything was acknowledged"


def _read(
    request: dict[str, Any],
    steps: list[tuple[float, int, int]],
    stop: threading.Event,
    ready: threading.Event,
) -> None:
    """Note when a partition's predictions were first of a learner that had come further."""
    consumer = Consumer(
        {
            "bootstrap.servers": request["kafka"],
            "group.id": "bench-label-probe",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign(
        [TopicPartition(request["answers"], p, at) for p, at in enumerate(request["from"])]
    )
    ready.set()
    newest: dict[int, int] = {}
    while not stop.is_set():
        if (first := consumer.poll(0.01)) is None:
            continue
        now = time.time()
        for message in (first, *consumer.consume(500, timeout=0)):
            if message.error() is not None:
                continue
            answer = _decode(message.value() or b"")
            if answer.learner_position > newest.get(answer.source_partition, -1):
                newest[answer.source_partition] = answer.learner_position
                steps.append((now, answer.source_partition, answer.learner_position))
    consumer.close()


if __name__ == "__main__":
    main()
