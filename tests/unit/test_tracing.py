"""Which batches are traced, and what a trace holds."""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from schemas.errors import SetupError
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.tracing import UNTRACED, Step, Tracer, open_tracer, transaction


def ticking() -> Iterator[int]:
    yield from range(1000)


def test_nothing_is_traced_unless_asked_for() -> None:
    """The default costs nothing and needs no package."""
    assert open_tracer(Settings(), Reporter(Path(), "w", "score")) is UNTRACED
    assert UNTRACED.begin(1, rows=5) is None
    with UNTRACED.step("decode"):
        pass


def test_the_ratio_is_that_of_the_batches() -> None:
    """A tenth of them, other ones with another seed, the same ones with the same."""
    done: list[Step] = []

    def sampled(seed: int) -> list[int]:
        tracer = Tracer(done.append, ratio=0.1, random=Random(seed))
        return [n for n in range(5000) if tracer.begin(n) is not None]

    assert 400 < len(sampled(1)) < 600
    assert sampled(1) == sampled(1) != sampled(2)


def test_steps_belong_to_the_batch_that_is_computed() -> None:
    """Also one that ends with an error; and what comes after it belongs to nothing."""
    done: list[Step] = []
    clock = ticking()
    tracer = Tracer(done.append, ratio=1.0, clock_ns=lambda: next(clock))
    batch = tracer.current = tracer.begin(-5, rows=3)
    assert batch is not None
    with tracer.step("decode"):
        pass
    with pytest.raises(ValueError, match="so"), tracer.step("score", model_version="v1"):
        raise ValueError("so")
    tracer.current = None
    with tracer.step("encode"):
        pass
    batch.steps.append(transaction(10, 20, 30))
    tracer.end(batch)
    assert done == [
        Step("batch", -5, 4, {"tidemill.rows": 3}, [
            Step("decode", 0, 1),
            Step("score", 2, 3, {"tidemill.model_version": "v1"}),
            Step("transaction", 10, 30, {}, [Step("produce", 10, 20), Step("commit", 20, 30)]),
        ])
    ]  # fmt: skip


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optional group is not installed: the worker says so at its start."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SetupError, match=r"Install the optional group tidemill\[traces\]"):
        open_tracer(Settings(traces_ratio=0.5), Reporter(Path(), "w", "score"))
