"""Pathway: a table of raw events, scored by a function that gets many rows at once."""

import pathway as pw

from streams.bench.rivals.request import read_request
from streams.bench.rivals.scorer import BatchScorer


def main() -> None:
    """Work until stopped."""
    request = read_request()
    scorer = BatchScorer(request)

    @pw.udf(deterministic=True, max_batch_size=request.rows_max)
    def score(values: list[bytes]) -> list[bytes]:
        return scorer(values)

    settings = {
        "bootstrap.servers": request.kafka,
        "group.id": request.group,
        "session.timeout.ms": "6000",
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": "5",
        "fetch.wait.max.ms": str(request.wait_ms),
    }
    events = pw.io.kafka.read(
        settings,
        topic=request.source,
        format="raw",
        autocommit_duration_ms=max(5, request.wait_ms),
    )
    answers = events.select(answer=score(events.data))
    pw.io.kafka.write(
        answers,
        {"bootstrap.servers": request.kafka, "linger.ms": "1" if request.wait_ms < 50 else "5"},
        topic_name=request.sink,
        format="raw",
        value=answers.answer,
    )
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
