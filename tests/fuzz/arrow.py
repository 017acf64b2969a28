"""Arrow messages: what was read can be read to the last value, or was refused.

Arrow checks the frame of a message and not what is in it: an offset of a string that points behind
its buffer is found by whoever reads that string, with a signal that ends the process.
"""

from decimal import Decimal

import pyarrow as pa

from models.increments import Increments
from schemas.arrow import write_batch
from schemas.errors import SchemaError
from schemas.evaluations import EVALUATIONS, read_evaluations
from schemas.examples import EXAMPLES
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.scored import read_scored
from streams.workers.learn import ExampleReader
from tests.fuzz.target import Target
from tests.unit.ledger_rows import scored

_PIPELINE = Pipeline(
    name="s", key="k", features=[numeric("a"), numeric("b"), category("c")], target=label("y")
)


def examples(rows: int) -> bytes:
    """A message of examples with every kind of column filled."""
    return write_batch(
        pa.RecordBatch.from_pylist(
            [{field.name: _value(field, i) for field in EXAMPLES} for i in range(rows)],
            schema=EXAMPLES,
        )
    )


def evaluations() -> bytes:
    row = {field.name: _value(field, 1) for field in EVALUATIONS}
    return write_batch(pa.RecordBatch.from_pylist([row, row], schema=EVALUATIONS))


def _value(field: pa.Field, number: int) -> object:
    kind = field.type
    if pa.types.is_list(kind):
        text = pa.types.is_string(kind.value_type)
        return ["x"] if text else [1, 2] if pa.types.is_integer(kind.value_type) else [1.0, 2.0]
    if pa.types.is_decimal(kind):
        return Decimal(number)
    if pa.types.is_string(kind):
        return "final" if field.name == "kind" else f"{field.name}{number}"
    return 1.0 if pa.types.is_floating(kind) else True if pa.types.is_boolean(kind) else number


def _readable(batch: pa.RecordBatch) -> bool:
    """Whether every value can be read; times as numbers, for Python's end with the year 9999."""
    for column in batch.columns:
        plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        assert len(plain.to_pylist()) == batch.num_rows
    return True


def check_scored(content: bytes) -> None:
    try:
        batch = read_scored(content)
    except SchemaError:
        return
    assert _readable(batch)


def check_examples(content: bytes) -> None:
    """As the learner takes it."""
    observed = ExampleReader(_PIPELINE)
    try:
        batch = observed.read(content)
    except SchemaError:
        return
    assert _readable(batch)
    assert len(observed.weights) == batch.num_rows
    if batch.num_rows:
        Increments.over(batch, window_ms=60_000)


def check_evaluations(content: bytes) -> None:
    try:
        batch = read_evaluations(content)
    except SchemaError:
        return
    assert _readable(batch)


SCORED_ROWS = Target(
    "scored", [write_batch(scored([("e1", 5), ("e22", 7), ("", 9)])), write_batch(scored([]))],
    check_scored, bytes_max=8192,
)  # fmt: skip
EXAMPLE_ROWS = Target("examples", [examples(3), examples(0)], check_examples, bytes_max=8192)
EVALUATION_ROWS = Target("evaluations", [evaluations()], check_evaluations, bytes_max=16_384)
