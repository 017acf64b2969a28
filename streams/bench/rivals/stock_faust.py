"""The same in plain Faust, one event at a time.

It decodes JSON, makes the same features, asks the same torch module for one row, and yields one
JSON prediction to its sink topic. Without a sink it only counts.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import faust

from schemas.features import FeatureSpec
from streams.bench.rivals.request import Progress, Request, read_request


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
    import torch  # reading alone needs none of these

    from models.registry import open_registry
    from schemas.settings import Settings

    torch.set_num_threads(1)
    manifest, module = open_registry(Settings(home=Path(request.home)), request.registry).load(
        request.pipeline, request.version
    )
    features = OneRow(manifest.features)
    events = app.topic(
        request.source, value_serializer="json", key_type=bytes, key_serializer="raw"
    )
    predictions = app.topic(request.sink, value_serializer="json")

    @app.agent(events, sink=[predictions])
    async def score(stream: Any) -> Any:
        async for event in stream:
            with torch.inference_mode():
                probability = float(module(*features(event))[0])
            yield {
                "event_id": event["event_id"],
                "key": event["tail_number"],
                "score": round(probability, 6),
                "event_time_ms": event["event_time_ms"],
                "model_version": request.version,
            }


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


class OneRow:
    """The features of one decoded JSON object; the quickest way we know for a single row."""

    def __init__(self, spec: FeatureSpec) -> None:
        import torch

        self._tensor = torch.tensor
        self._float32, self._int64 = torch.float32, torch.int64
        self._numeric = [(f.name, f.missing) for f in spec.numeric]
        self._category = [
            (f.name, f.missing, {word: i for i, word in enumerate(words, 1)})
            for f, words in zip(spec.category, spec.vocabularies, strict=True)
        ]

    def __call__(self, event: dict[str, Any]) -> tuple[Any, Any]:
        """Input of one row: numbers and categories."""
        numbers = [event.get(name, missing) for name, missing in self._numeric]
        words = [
            vocabulary.get(str(event.get(name, missing)), 0)
            for name, missing, vocabulary in self._category
        ]
        return self._tensor([numbers], dtype=self._float32), self._tensor(
            [words], dtype=self._int64
        )


if __name__ == "__main__":
    faust.Worker(build(read_request()), loglevel="WARNING", quiet=True).execute_from_commandline()
