"""Snapshots of a ledger as files: named by the offsets they stand for and by what is in them.

A name is ``<sum of both offsets>-<sha256>``. The sum only grows, so a sweep that deletes smaller
sums never touches what a newer owner wrote, however late a stalled worker wakes up.
"""

import contextlib
import hashlib
import os
import re
from typing import Any

import fsspec

from schemas.errors import ChecksumMismatch

_NAME = re.compile(r"(\d{20})-([0-9a-f]{64})")


class SnapshotStore:
    """The snapshots of one partition pair in one folder: a path, or any address fsspec knows."""

    def __init__(self, folder: str) -> None:
        self._files: Any
        self._files, self._folder = fsspec.core.url_to_fs(folder)

    def write(self, content: bytes | memoryview, *, scored_offset: int, labels_offset: int) -> str:
        """Write ``content`` and return its name; on a local disk it is flushed to the disk.

        The name is to be committed only after this returned. Writing the same again is harmless.
        """
        digest = hashlib.sha256(content).hexdigest()
        name = f"{scored_offset + labels_offset:020}-{digest}"
        self._files.makedirs(self._folder, exist_ok=True)
        # A crash leaves a part under another name, never half a snapshot under this one.
        part = self._path(f"{name}.part-{os.getpid()}")
        with self._files.open(part, "wb") as file:
            file.write(content)
            file.flush()
            with contextlib.suppress(AttributeError, OSError):  # no local file: nothing to flush
                os.fsync(file.fileno())
        self._files.mv(part, self._path(name))
        return name

    def read(self, name: str) -> bytes:
        """The content of the snapshot ``name``.

        Raises:
            ChecksumMismatch: it is not what was written.
            FileNotFoundError: it is gone.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ChecksumMismatch(f"could not read snapshot {name!r}: that is no snapshot's name")
        content: bytes = self._files.cat_file(self._path(name))
        found = hashlib.sha256(content).hexdigest()
        if found != match[2]:
            raise ChecksumMismatch(
                f"could not read snapshot {name}: its bytes have sha256={found}. Restore the file."
            )
        return content

    def sweep(self, committed: str) -> int:
        """Delete snapshots with a smaller sum than ``committed``; returns how many.

        Only to be called after ``committed`` was committed.
        """
        limit = int(committed.split("-", 1)[0])
        deleted = 0
        for path in self._files.ls(self._folder, detail=False):
            match = _NAME.match(path.rsplit("/", 1)[-1])
            if match is not None and int(match[1]) < limit:
                with contextlib.suppress(FileNotFoundError):  # another worker sweeps as well
                    self._files.rm_file(path)
                    deleted += 1
        return deleted

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"
