"""`stages`: CPU-us per event of each stage of the scorer, in one thread and without servers.

The best of several repeats by the CPU clock of the thread, so a busy machine shows in it far less
than in rates. The weights are untrained: they cost the same.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP

from models.dense import EMBEDDING_MLP, build
from models.engine import Engine, Loaded
from models.features import ColumnReader, Encoder, from_table, learn_spec
from schemas.events import EventDecoder, Source
from schemas.loading import load_pipeline
from schemas.predictions import encode_predictions
from schemas.settings import Settings
from streams.bench.result import Result
from streams.replay import Encoder as Replayed
from streams.replay import history_slice
from streams.telemetry import Reporter
from streams.transport.commit import BATCH_BYTES_MAX, Outgoing, fill
from streams.transport.records import Run
from streams.workers.score import Scorer

ROWS = (1, 4, 32, 256, 8192)
"""Events of one drain, spread over `PARTITIONS` where there are as many."""
PARTITIONS = 4
REPEATS = 15
CPU_S = 0.02
"""Of one repeat; short calls are repeated until they have taken so long."""


def run(folder: Path) -> Result:
    """Time each stage alone, and a whole drain from bytes to messages, for each size."""
    torch.set_num_threads(1)
    bench = _Stages(folder)
    result = Result("stages", [])
    for rows in ROWS:
        found = {name: best_us(call) / rows for name, call in bench.calls(rows).items()}
        row = {"who": f"{rows} events", "rows": rows}
        row |= {f"{name}_us": round(us, 3) for name, us in found.items()}
        result.results.append(row)
    return result


def best_us(call: Callable[[], object]) -> float:
    """CPU-us of one call at its best."""
    call()
    started = time.thread_time()
    call()
    count = max(1, round(CPU_S / max(1e-6, time.thread_time() - started)))
    found = []
    for _ in range(REPEATS):
        started = time.thread_time()
        for _ in range(count):
            call()
        found.append((time.thread_time() - started) / count)
    return min(found) * 1e6


class _Stages:
    """One pipeline's stages, each on the output of the one before."""

    def __init__(self, folder: Path) -> None:
        self._pipeline = pipeline = load_pipeline("flights")
        table = history_slice(pipeline, events=max(ROWS), skip=0, start_ms=None)
        replayed = Replayed(pipeline, table)
        self._values = replayed.events(np.arange(table.num_rows))
        self._keys = [replayed.keys[i] for i in replayed.key_of_row]
        spec = learn_spec(pipeline.features, [from_table(pipeline.features, table)])
        sizes = [len(words) for words in spec.vocabularies]
        module = build(
            EMBEDDING_MLP, {"num_numeric": len(spec.numeric), "vocabulary_sizes": sizes}
        ).eval()
        self._loaded = Loaded(
            version="0" * 12, epoch=1, trained_at_ms=0, module=module, encode=Encoder(spec)
        )
        settings = Settings(home=folder)
        reporter = Reporter(folder, "stages", "score")
        self._scorer = Scorer(pipeline, Engine(self._loaded), settings, reporter)
        self._decoder = EventDecoder(pipeline)
        self._columns = ColumnReader(pipeline.features)

    def calls(self, rows: int) -> dict[str, Callable[[], object]]:
        """What is timed, by name."""
        values, keys = self._values[:rows], self._keys[:rows]
        offsets, now_ms = range(rows), int(time.time() * 1000)
        raw = _fetched(values, keys)
        source = Source(self._pipeline.topics.events.name, 0)
        decoded = self._decoder.decode(source, offsets, keys, values, now_ms=now_ms).events
        columns = self._columns(decoded)
        batch = self._loaded.encode(columns)
        answered = [
            (event.event_id, event.tail_number, 0.123456, event.event_time_ms, offset)
            for event, offset in zip(decoded, offsets, strict=True)
        ]
        constant: dict[str, Any] = {
            "source_partition": 0,
            "model_version": "0" * 12,
            "model_age_ms": 1,
        }
        predictions = encode_predictions(iter(answered), **constant, predicted_at_ms=now_ms)
        part = Outgoing("out", 0, predictions, keys)
        runs = self._runs(values, keys)
        items = self._scorer.compute(runs)
        return {
            "fetch": lambda: _read(raw),
            "decode": lambda: self._decoder.decode(source, offsets, keys, values, now_ms=now_ms),
            "features": lambda: self._loaded.encode(self._columns(decoded)),
            "inference": lambda: self._loaded.score_input(batch),
            "encode": lambda: encode_predictions(
                iter(answered), **constant, predicted_at_ms=now_ms
            ),
            "messages": lambda: self._scorer.finish(items),
            "produce": lambda: _fill(part, now_ms),
            "drain_to_messages": lambda: self._scorer.finish(self._scorer.compute(runs)),
        }

    def _runs(self, values: Sequence[bytes], keys: Sequence[bytes]) -> list[Run]:
        parts = min(PARTITIONS, len(values))
        found = []
        for p in range(parts):
            mine: list[bytes | None] = list(values[p::parts])
            own: list[bytes | None] = list(keys[p::parts])
            tp = TP(self._pipeline.topics.events.name, p)
            found.append(Run(tp, own, mine, [0] * len(mine), range(len(mine)), len(mine)))
        return found


def _fetched(values: Sequence[bytes], keys: Sequence[bytes]) -> bytes:
    """The events as the broker hands them out: one zstd batch."""
    batch = BatchBuilder(1 << 30, 4)
    for key, value in zip(keys, values, strict=True):
        batch.append(timestamp=1, key=key, value=value)
    return bytes(batch._build())


def _read(raw: bytes) -> list[Any]:
    """As `streams.transport.take.take_run` reads it."""
    records = MemoryRecords(raw)
    found: list[Any] = []
    while records.has_next():
        batch = records.next_batch()
        batch.validate_crc()
        found += [(r.offset, r.key, r.value, r.timestamp) for r in batch]
    return found


def _fill(part: Outgoing, timestamp_ms: int) -> None:
    position = 0
    while position < len(part.values):
        batch = BatchBuilder(BATCH_BYTES_MAX, 0, is_transactional=1)
        position = fill(batch, part, position, timestamp_ms)
        batch._build()
