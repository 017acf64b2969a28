"""The same in plain Faust, one event at a time.

It decodes JSON, makes the same features, asks the same torch module for one row, and yields one
JSON prediction to its sink topic. Without a sink it only counts.
"""

import os
import tempfile
from typing import Any

import faust

from streams.bench.rivals.request import Progress, Request, read_request
from streams.bench.rivals.scorer import RowScorer


def build(request: Request) -> faust.App:
    """A stock app that scores the request's source into its sink."""
    app = faust.App(
        request.group,
        broker=f"kafka://{request.kafka}",
        store="memory://",
        datadir=tempfile.mkdtemp(prefix="stock-faust-"),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        autodiscover=False,
        consumer_auto_offset_reset="earliest",
    )
    if request.sink:
        _score(app, request)
    else:
        _count(app, request)
    return app


def _score(app: faust.App, request: Request) -> None:
    scorer = RowScorer(request)
    events = app.topic(
        request.source, value_serializer="json", key_type=bytes, key_serializer="raw"
    )
    predictions = app.topic(request.sink, value_serializer="json")

    @app.agent(events, sink=[predictions])
    async def score(stream: Any) -> Any:
        async for event in stream:
            yield scorer(event)


def _count(app: faust.App, request: Request) -> None:
    events = app.topic(
        request.source,
        key_type=bytes,
        key_serializer="raw",
        value_type=bytes,
        value_serializer="raw",
    )
    wanted, every = sum(request.ends) - sum(request.starts), 500
    progress = Progress()

    @app.agent(events)
    async def count(stream: Any) -> None:
        rows = size = seen = 0
        async for value in stream:
            rows, size, seen = rows + 1, size + len(value), seen + 1
            if rows == every or seen == wanted:
                progress.add(rows, size)
                rows = size = 0
            if seen == wanted:
                progress.write(request)
                os._exit(0)


if __name__ == "__main__":
    faust.Worker(build(read_request()), loglevel="WARNING", quiet=True).execute_from_commandline()
