"""What is inserted into each table, and the check that the table will take it as meant.

``insert_arrow`` validates nothing: a missing column becomes its default, -1 in an unsigned column
becomes 4294967295, NULL in a column that has no NULL becomes its default. So the Arrow schema here
is compared with the table once, before the first insert.
"""

from typing import Final

import pyarrow as pa

from schemas.errors import SetupError
from schemas.evaluations import EVALUATIONS, SUM
from schemas.examples import EXAMPLES
from schemas.scored import SCORED
from streams.store.client import Client, mapped_errors


def _millisecond(name: str) -> pa.Field:
    return pa.field(name, pa.timestamp("ms", tz="UTC"), nullable=False)


def _text(name: str) -> pa.Field:
    return pa.field(name, pa.utf8(), nullable=False)


_LANDED_FROM = [
    _text("pipeline"),
    pa.field("topic_partition", pa.uint32(), nullable=False),
    pa.field("topic_offset", pa.uint64(), nullable=False),
]

OUTCOME = (
    "event_id", "kind", "label", "previous", "label_time", "revision", "delay_ms",
    "source_partition", "source_offset",
)  # fmt: skip
"""Columns of an example that are landed; the others are in ``scored`` already."""

TABLES: Final[dict[str, pa.Schema]] = {
    "scored": pa.schema([*_LANDED_FROM, *SCORED]),
    "labels": pa.schema(
        [
            *_LANDED_FROM,
            _text("event_id"),
            pa.field("value", pa.float64(), nullable=False),
            _millisecond("label_time"),
            pa.field("revision", pa.uint32(), nullable=False),
            _millisecond("produced_at"),
        ]
    ),
    "dead_letters": pa.schema(
        [
            *_LANDED_FROM,
            _text("reason"),
            _text("detail"),
            _text("source_topic"),
            pa.field("source_partition", pa.int32(), nullable=False),
            pa.field("source_offset", pa.int64(), nullable=False),
            pa.field("key", pa.binary()),
            pa.field("value", pa.binary()),
            _millisecond("produced_at"),
        ]
    ),
    "examples": pa.schema(
        [*_LANDED_FROM, *map(EXAMPLES.field, OUTCOME), _millisecond("produced_at")]
    ),
    "evaluations": pa.schema([*_LANDED_FROM, *EVALUATIONS]),
    "alarms": pa.schema(
        [
            *_LANDED_FROM,
            _text("alarm_id"),
            _text("detector"),
            _text("subject"),
            _text("model_version"),
            _millisecond("event_time"),
            pa.field("source_partition", pa.int32(), nullable=False),
            pa.field("source_offset", pa.int64(), nullable=False),
            pa.field("shard", pa.int32(), nullable=False),
            pa.field("statistic", pa.float64(), nullable=False),
            pa.field("threshold", pa.float64(), nullable=False),
            pa.field("before", pa.float64()),
            pa.field("after", pa.float64()),
            pa.field("rows_before", pa.int64(), nullable=False),
            pa.field("rows_after", pa.int64(), nullable=False),
            pa.field("false_alarm_every", pa.int64(), nullable=False),
            _millisecond("produced_at"),
        ]
    ),
}
"""Each insert carries exactly these columns. ``pipeline``, ``topic_partition`` and ``topic_offset``
name the Kafka record that a row was landed from."""

_TYPES = {
    pa.uint8(): ("UInt8",),
    pa.uint32(): ("UInt32",),
    pa.uint64(): ("UInt64",),
    pa.int32(): ("Int32",),
    pa.int64(): ("Int64",),
    pa.float32(): ("Float32",),
    pa.float64(): ("Float64",),
    pa.timestamp("ms", tz="UTC"): ("DateTime64(3, 'UTC')",),
    pa.utf8(): ("String", "LowCardinality(String)"),
    pa.binary(): ("String",),
    SUM: ("Decimal(38, 9)",),
    pa.list_(pa.float32()): ("Array(Float32)",),
    pa.list_(pa.uint16()): ("Array(UInt16)",),
    pa.list_(pa.int64()): ("Array(Int64)",),
    pa.list_(pa.utf8()): ("Array(String)", "Array(LowCardinality(String))"),
}


def check_table(client: Client, table: str) -> None:
    """Compare `TABLES` with the table: names, types, widths, signs, NULLs.

    Raises:
        SetupError: they differ; the message names every column that does.
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors(f"describe table {table}"):
        rows = client.query(
            "SELECT name, type, default_kind FROM system.columns "
            "WHERE database = currentDatabase() AND table = {table:String}",
            parameters={"table": table},
        ).result_rows
    problems = _differences(TABLES[table], {row[0]: (row[1], row[2]) for row in rows})
    if not rows:
        problems = ["it does not exist"]
    if problems:
        raise SetupError(
            f"could not use table {table}: {'; '.join(problems)}. "
            "Run the migrations, or undo the change that was made by hand."
        )


def _differences(schema: pa.Schema, columns: dict[str, tuple[str, str]]) -> list[str]:
    problems = []
    for field in schema:
        found, _default = columns.get(field.name, ("", ""))
        allowed = _TYPES[field.type]
        if field.nullable:
            allowed = tuple(f"Nullable({name})" for name in allowed)
        if not found:
            problems.append(f"column {field.name} is missing")
        elif found not in allowed:
            problems.append(f"column {field.name} is {found} and must be {' or '.join(allowed)}")
    for name, (_type, default) in columns.items():
        if name not in schema.names and not default:
            problems.append(f"column {name} is unknown and has no default")
    return problems
