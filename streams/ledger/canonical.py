"""Columns as bytes that depend on their values alone, not on how Arrow happens to hold them."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def canonical_parts(array: pa.Array) -> list[bytes]:
    """The array as a fixed number of byte strings for its type.

    Each part of two arrays, joined, is the part of the joined arrays. So whoever digests a column
    piece by piece, part by part, need not care where the pieces end.
    """
    parts: list[bytes] = []
    if array.null_count:
        parts.append(np.asarray(array.is_valid()).tobytes())
        array = pc.fill_null(array, _zero(array.type))
    else:
        parts.append(b"\x01" * len(array))
    kind = array.type
    if pa.types.is_list(kind):
        lengths = pc.list_value_length(array)
        return [*parts, _numbers(lengths), *canonical_parts(array.flatten())]
    if pa.types.is_string(kind):
        offsets = np.zeros(1, np.int32)
        if len(array):  # the buffer may be longer, and not by whole numbers
            offsets = np.frombuffer(
                array.buffers()[1], np.int32, count=len(array) + 1, offset=4 * array.offset
            )
        held = array.buffers()[2]
        text = b"" if held is None else memoryview(held)[int(offsets[0]) : int(offsets[-1])]
        return [*parts, np.diff(offsets).tobytes(), bytes(text)]
    return [*parts, _numbers(array)]


def batch_parts(batch: pa.RecordBatch) -> Iterable[bytes]:
    """`canonical_parts` of every column."""
    for column in batch.columns:
        yield from canonical_parts(column)


def _numbers(array: pa.Array) -> bytes:
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes()


def _zero(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_timestamp(kind):
        return pa.scalar(0, pa.int64()).cast(kind)
    return pa.scalar("" if pa.types.is_string(kind) else 0, kind)
