"""The model for those who write their own program: whole batches, or one row at a time."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.features import FeatureSpec
from schemas.predictions import Prediction
from streams.bench.rivals.request import Request

if TYPE_CHECKING:
    from torch import nn

    from schemas.manifest import Manifest

CHUNK_ROWS = 1024


def load(request: Request) -> "tuple[Manifest, nn.Module]":
    """The request's model, on one thread."""
    import torch  # reading alone needs none of these

    from models.registry import open_registry
    from schemas.settings import Settings

    torch.set_num_threads(1)
    registry = open_registry(Settings(home=Path(request.home)), request.registry)
    return registry.load(request.pipeline, request.version)


class BatchScorer:
    """Bytes of events to bytes of predictions, a batch at a time."""

    def __init__(self, request: Request) -> None:
        manifest, self._module = load(request)
        import torch

        from models.features import ColumnReader, Encoder
        from schemas.events import event_type
        from schemas.loading import load_pipeline

        self._inference_mode = torch.inference_mode
        pipeline = load_pipeline(request.pipeline)
        self._decode = msgspec.json.Decoder(event_type(pipeline)).decode
        self._columns = ColumnReader(pipeline.features)
        self._encode_features = Encoder(manifest.features)
        self._key = pipeline.key
        self._version = request.version
        self._trained_at_ms = manifest.trained_at_ms
        self._encode = msgspec.json.Encoder().encode

    def __call__(
        self, values: Sequence[bytes], places: Sequence[tuple[int, int]] | None = None
    ) -> list[bytes]:
        """One prediction per event, in their order; ``places`` are partitions and offsets."""
        now_ms = int(time.time() * 1000)
        events: list[Any] = [self._decode(value) for value in values]
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
                    source_offset=offset,
                    source_partition=partition,
                    model_version=self._version,
                    model_age_ms=age_ms,
                    predicted_at_ms=now_ms,
                )
            )
            for event, score, (partition, offset) in zip(
                events, scores, places or [(0, 0)] * len(events), strict=True
            )
        ]


class RowScorer:
    """One decoded JSON object to one prediction; the quickest way we know for a single row."""

    def __init__(self, request: Request) -> None:
        manifest, self._module = load(request)
        import torch

        self._inference_mode = torch.inference_mode
        self._features = _OneRow(manifest.features)
        self._version = request.version

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        """The prediction of one event."""
        with self._inference_mode():
            probability = float(self._module(*self._features(event))[0])
        return {
            "event_id": event["event_id"],
            "key": event["tail_number"],
            "score": round(probability, 6),
            "event_time_ms": event["event_time_ms"],
            "model_version": self._version,
        }


class _OneRow:
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
        numbers = [event.get(name, missing) for name, missing in self._numeric]
        words = [
            vocabulary.get(str(event.get(name, missing)), 0)
            for name, missing, vocabulary in self._category
        ]
        return self._tensor([numbers], dtype=self._float32), self._tensor(
            [words], dtype=self._int64
        )
