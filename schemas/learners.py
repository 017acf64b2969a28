"""What a learner says about itself: snapshots on the compacted topic ``<pipeline>.learners``.

A snapshot is several records of one transaction, the same that commits the offsets of the examples
it has learned: first the pieces of its parts, keyed ``<shard>/<part>/<index>``, then the signed
header, keyed ``<shard>``. Compaction keeps the newest of each key. A reader keeps the newest piece
of each key and takes a header whose pieces have the digests that it names.

Between two whole snapshots there are smaller ones for those who serve: ``<shard>/offer/<index>``
and the header ``offer:<shard>``. Epochs count both.
"""

import hashlib

import msgspec

from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE

PIECE_BYTES_MAX = 4 << 20
"""Bytes of one record, half of what the topic allows."""
SNAPSHOT_BYTES_MAX = 128 << 20
"""Bytes of all pieces of one snapshot. A learner that grows beyond it must be declared smaller."""


class LearnerHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of, and what belongs to it.

    Attributes:
        pipeline: The pipeline.
        shard: Partition of the examples topic; 0 for a single learner.
        epoch: Grows with every snapshot of the shard; a lower one is never taken again.
        position: Offset in the examples topic up to which everything is learned.
        fingerprint: The declaration and the library; see `models.online.fingerprint`.
        rows_learned: Examples that it has learned in all.
        taken_at_ms: When, by the worker's clock.
        parts: For each part its pieces' SHA-256, in order. A part is compressed as a whole (zstd).
    """

    pipeline: str
    shard: int
    epoch: int
    position: int
    fingerprint: str
    rows_learned: int
    taken_at_ms: int
    parts: dict[str, list[str]]


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(LearnerHeader).decode


def encode_header(header: LearnerHeader) -> bytes:
    """The bytes to sign."""
    return _encode(header)


def decode_header(content: bytes) -> LearnerHeader:
    """The header that `encode_header` wrote.

    Raises:
        SchemaError: it did not.
    """
    try:
        return _decode(content)
    except UNDECODABLE as cause:
        raise SchemaError(f"could not read the header of a learner: {cause}") from cause


def pieces(part: bytes) -> list[bytes]:
    """``part`` cut so that each piece fits a record."""
    return [part[i : i + PIECE_BYTES_MAX] for i in range(0, len(part), PIECE_BYTES_MAX)] or [b""]


def sha256(content: bytes) -> str:
    """Its SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
