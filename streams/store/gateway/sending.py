"""How rows reach the engine: as a file that exists in memory only.

chDB also has an insert by pieces (`send_insert`). It is not used: it answers that all is well when
the rows could not be stored, because the disk is full, a constraint is violated or a view of the
table fails (26.9; see ENGINE.md). A statement that names a file tells. The price: while an insert
runs, its rows are in memory twice.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streams.store.gateway.errors import from_engine
from streams.store.gateway.rows import Counts
from streams.store.gateway.statement import Insert

Content = tuple[bytes | memoryview, ...]


def send_rows(
    connection: Any, insert: Insert, content: Content, *, settings: dict[str, str], mark: str = ""
) -> Counts:
    """Insert ``content``; all of it or, while it is one block, nothing.

    ``settings`` hold for this one time; the statement begins with ``mark``.

    Raises:
        EngineError: not all of it was inserted.
    """
    try:
        with _file(content) as path:
            result = connection.query(mark + insert.from_file(path, settings))
    except Exception as cause:
        raise from_engine(cause) from cause
    written = int(result.rows_written())
    return Counts(
        read_rows=written,
        read_bytes=int(result.bytes_written()),
        result_rows=written,
        written_rows=written,
        written_bytes=int(result.bytes_written()),
    )


@contextmanager
def _file(content: Content) -> Iterator[str]:
    """The path of a file with ``content``; where the system has no files in memory, on the disk."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.writelines(content)
            file.flush()
            yield file.name
        return
    with os.fdopen(os.memfd_create("rows"), "wb") as file:
        file.writelines(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
