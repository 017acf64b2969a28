"""Quix Streams: one row at a time, or, with ``rows_max`` above 1, batches through a sink.

Its dataframe has no operation on many rows at once. So who wants a model to see batches writes a
``BatchingSink``, which gets what came between two commits.
"""

from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from streams.bench.rivals.request import Request, read_request
from streams.bench.rivals.scorer import BatchScorer, RowScorer


class ScoringSink(BatchingSink):
    """Scores what a commit interval brought, and sends it before the offsets are committed."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        from confluent_kafka import Producer

        self._score = BatchScorer(request)
        self._sink = request.sink
        self._rows_max = request.rows_max
        self._producer = Producer(
            {
                "bootstrap.servers": request.kafka,
                "linger.ms": 5,
                "batch.size": 512 << 10,
                "enable.idempotence": True,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def write(self, batch: SinkBatch) -> None:
        """Called once per partition and commit."""
        for chunk in batch.iter_chunks(n=self._rows_max):
            items = list(chunk)
            answers = self._score(
                [item.value for item in items], [(batch.partition, i.offset) for i in items]
            )
            for item, answer in zip(items, answers, strict=True):
                self._producer.produce(self._sink, answer, key=item.key, partition=batch.partition)
            self._producer.poll(0)
        self._producer.flush(60)


def main() -> None:
    """Work until stopped."""
    request = read_request()
    rows = request.rows_max == 1
    app = Application(
        broker_address=request.kafka,
        consumer_group=request.group,
        auto_offset_reset="earliest",
        loglevel="WARNING",
        auto_create_topics=False,
        use_changelog_topics=False,
        commit_interval=5.0 if rows else 0.5,
        processing_guarantee="exactly-once" if request.transactional else "at-least-once",
        consumer_extra_config={"fetch.queue.backoff.ms": 5, "fetch.wait.max.ms": request.wait_ms},
        producer_extra_config={"linger.ms": 1 if request.wait_ms < 50 else 5},
    )
    source = app.topic(
        request.source,
        key_deserializer="bytes",
        value_deserializer="json" if rows else "bytes",
    )
    frame = app.dataframe(source)
    if rows:
        score = RowScorer(request)
        frame = frame.apply(score)
        frame.to_topic(app.topic(request.sink, key_serializer="bytes", value_serializer="json"))
    else:
        frame.sink(ScoringSink(request))
    app.run()


if __name__ == "__main__":
    main()
