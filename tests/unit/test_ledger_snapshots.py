"""Snapshots: read back whole or refused, and never deleted while anybody may need them."""

from pathlib import Path

import pytest

from schemas.errors import ChecksumMismatch
from streams.ledger.snapshots import SnapshotStore


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path / "new" / "folder"))
    name = store.write(b"state", scored_offset=3, labels_offset=4)
    assert name.startswith("00000000000000000007-")
    assert store.write(b"state", scored_offset=3, labels_offset=4) == name
    assert store.read(name) == b"state"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path))
    name = store.write(b"state", scored_offset=3, labels_offset=4)
    (tmp_path / name).write_bytes(b"stat")
    with pytest.raises(ChecksumMismatch, match="Restore the file"):
        store.read(name)
    with pytest.raises(ChecksumMismatch, match="no snapshot's name"):
        store.read("../secrets")
    with pytest.raises(FileNotFoundError):
        store.read("0" * 20 + "-" + "0" * 64)


def test_a_late_sweep_deletes_only_what_is_older(tmp_path: Path) -> None:
    """A stalled worker that wakes up must not take away the state of the one that followed it."""
    store = SnapshotStore(str(tmp_path))
    old, own, newer = (
        store.write(b"%d" % n, scored_offset=n, labels_offset=n) for n in (9, 10, 11)
    )
    (tmp_path / "other").write_bytes(b"")
    assert store.sweep(own) == 1
    assert {path.name for path in tmp_path.iterdir()} == {own, newer, "other"}
    assert not (tmp_path / old).exists()
