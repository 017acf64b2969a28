"""What a rival is told, and how it says what it did."""

import json
import os
import time
from pathlib import Path

import msgspec

VARIABLE = "BENCH_REQUEST"


class Request(msgspec.Struct, kw_only=True):
    """One piece of work.

    Attributes:
        kafka: Addresses of the broker.
        source: Topic of the events.
        starts: First offset of each partition.
        ends: Offset behind the last record of each partition; empty runs until it is stopped.
        sink: Topic of the answers; empty only reads.
        group: Consumer group; unique per run.
        registry: Where the model lies.
        home: Whose key signed it.
        pipeline: Whose model it is.
        version: Which one.
        transactional: Outputs and offsets in transactions instead of at least once.
        rows_max: Records in one batch.
        wait_ms: How long a client may gather before it answers.
        answer: File that takes what it did.
    """

    kafka: str
    source: str
    starts: list[int]
    ends: list[int] = []
    sink: str = ""
    group: str = ""
    registry: str = ""
    home: str = ""
    pipeline: str = ""
    version: str = ""
    transactional: bool = False
    rows_max: int = 10_000
    wait_ms: int = 100
    answer: str = ""


def environment(request: Request) -> dict[str, str]:
    """The variable that carries ``request``."""
    return {VARIABLE: msgspec.json.encode(request).decode()}


def read_request() -> Request:
    """The request of this process."""
    return msgspec.json.decode(os.environ[VARIABLE], type=Request)


class Progress:
    """Rows over time, noted once per batch: ``[unix seconds, rows so far, CPU seconds so far]``."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self._points: list[tuple[float, int, float]] = []

    def add(self, rows: int, size: int) -> None:
        """Count one batch, with the bytes of its values."""
        self.rows += rows
        self.bytes += size
        self._points.append((time.time(), self.rows, time.process_time()))

    def write(self, request: Request) -> None:
        """Leave what was done in the request's file."""
        found = {"rows": self.rows, "bytes": self.bytes, "points": self._points}
        Path(request.answer).write_text(json.dumps(found), encoding="utf-8")
