"""Open-loop producer and ``read_committed`` reader in one process of their own: librdkafka.

``python -m streams.bench.rivals.probe`` reads one JSON request from standard input and answers with
one on standard output. An event's clock starts when the schedule says it is sent, not when it was.
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
    event_id: str


_decode = msgspec.json.Decoder(_Answer).decode


def main() -> None:
    """Send, read, answer."""
    request = json.load(sys.stdin)
    events = [tuple(item) for item in msgspec.msgpack.decode(Path(request["events"]).read_bytes())]
    seen: dict[str, float] = {}
    reading, ready = threading.Event(), threading.Event()
    reader = threading.Thread(
        target=_read, args=(request, {e[0] for e in events}, seen, reading, ready), daemon=True
    )
    reader.start()
    assert ready.wait(30), "the reader did not start"
    due = _send(request, events)
    reader.join(request["tail_s"])  # for the last predictions
    reading.set()
    json.dump(
        {
            "due_s": due,
            "ids": [event_id for event_id, _key, _value in events],
            "seen_s": [seen.get(event_id) for event_id, _key, _value in events],
        },
        sys.stdout,
    )


def _send(request: dict[str, Any], events: list[tuple[str, bytes, bytes]]) -> list[float]:
    """Send on schedule; returns when each event was due (Unix seconds)."""
    producer = Producer(
        {
            "bootstrap.servers": request["kafka"],
            "linger.ms": 1,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
        }
    )
    # Or the first events would wait 100 ms until the client has heard of the topic.
    producer.list_topics(request["topic"], timeout=10)
    topic, interval_s = request["topic"], 1.0 / request["rate"]
    started = time.time() + 0.5
    due = [started + i * interval_s for i in range(len(events))]
    for moment, (_event_id, key, value) in zip(due, events, strict=True):
        while (left := moment - time.time()) > 0:
            producer.poll(0)
            time.sleep(min(left, 0.002))
        producer.produce(topic, value, key=key)
    producer.flush(30)
    return due


def _read(
    request: dict[str, Any],
    wanted: set[str],
    seen: dict[str, float],
    stop: threading.Event,
    ready: threading.Event,
) -> None:
    """Note when the prediction of each wanted event was first read."""
    consumer = Consumer(
        {
            "bootstrap.servers": request["kafka"],
            "group.id": "bench-probe",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    offsets = request["from"]
    consumer.assign(
        [TopicPartition(request["answers"], p, offset) for p, offset in enumerate(offsets)]
    )
    ready.set()
    while len(seen) < len(wanted) and not stop.is_set():
        # Not `consume(500, 0.01)`: it waits all of its time for the 500th.
        if (first := consumer.poll(0.01)) is None:
            continue
        now = time.time()
        for message in (first, *consumer.consume(500, timeout=0)):
            if message.error() is None:
                event_id = _decode(message.value() or b"").event_id
                if event_id in wanted:
                    seen.setdefault(event_id, now)
    consumer.close()


if __name__ == "__main__":
    main()
