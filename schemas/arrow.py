"""One record batch as one message, and pyarrow kept quick to start."""

import pyarrow as pa

from schemas.errors import SchemaError
from schemas.imports import without


def write_batch(batch: pa.RecordBatch) -> bytes:
    """One Arrow stream with one record batch.

    The schema, encoded once, the batch, and the end of a stream: byte for byte what a stream writer
    gives, which takes 30 to 100 us to make, most of what a message of few rows costs.
    """
    return b"".join((_head(batch.schema), batch.serialize(), _END))


_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


_HEADS_MAX = 64
_heads: list[tuple[pa.Schema, bytes]] = []


def _head(schema: pa.Schema) -> bytes:
    """The encoded schema. Comparing two takes 0.1 us, encoding one 15 and hashing one 70."""
    for known, head in _heads:
        if known.equals(schema, check_metadata=True):
            return head
    encoded: bytes = schema.serialize().to_pybytes()
    if len(_heads) < _HEADS_MAX:
        _heads.append((schema, encoded))
    return encoded


def write_batches(batch: pa.RecordBatch, *, bytes_max: int) -> list[bytes]:
    """The batch as Arrow streams of at most ``bytes_max``; halved until each fits.

    A single row that is larger stays a message of its own.
    """
    message = write_batch(batch)
    if len(message) <= bytes_max or batch.num_rows <= 1:
        return [message]
    middle = batch.num_rows // 2
    return [
        *write_batches(batch.slice(0, middle), bytes_max=bytes_max),
        *write_batches(batch.slice(middle), bytes_max=bytes_max),
    ]


def read_batch(message: bytes, *schemas: pa.Schema, what: str) -> pa.RecordBatch:
    """The record batch of one message, whose schema is exactly one of ``schemas``.

    Raises:
        SchemaError: not an Arrow stream of one whole batch with such a schema. ``what`` names the
            rows.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(message)) as reader:
            schema = reader.schema
            fits = any(schema.equals(wanted) for wanted in schemas)
            # Not even looked at if not: arrays of what others call a type can end the process.
            batches = list(reader) if fits else []
        # Arrow itself looks at the frame only: an offset that points behind its buffer would end
        # the process of whoever reads that text. 0.02 us a row.
        for batch in batches:
            batch.validate(full=True)
        # Of a column without rows nothing is validated, and its offsets may point anywhere.
        batches = [batch if batch.num_rows else _empty(schema) for batch in batches]
        names = schema.names
        if not fits and names == schemas[0].names:
            names = [f"{field.name} {field.type}" for field in schema]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as cause:
        raise SchemaError(
            f"could not read {what}: {cause}; message_bytes={len(message)}"
        ) from cause
    if len(batches) != 1:
        found = f"batches={len(batches)}, " if fits else ""
        raise SchemaError(
            f"could not read {what}: {found}columns={names}; "
            f"expected one batch with {schemas[0].names}"
        )
    missing = columns_with_nulls(batches[0])
    if missing:
        raise SchemaError(f"could not read {what}: nulls in columns={missing}")
    return batches[0]


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)


def columns_with_nulls(batch: pa.RecordBatch) -> list[str]:
    """Names of the columns that have nulls though their schema allows none."""
    return [
        field.name
        for field, column in zip(batch.schema, batch.columns, strict=True)
        if not field.nullable and column.null_count
    ]


def spare_pandas() -> None:
    """Make pyarrow's first array without importing pandas.

    pyarrow 26 imports pandas, where it is installed, at the first `pa.array` of a process: two
    seconds of CPU and 60 MB for nothing, in the middle of the first batch. It asks once; later
    calls that do need pandas, such as `pa.Table.from_pandas` in a user's history, ask again.
    """
    with without("pandas"):
        pa.array([0])
