"""One control action, as ``tidemill.audit`` and the table ``audit`` keep it.

Each entry holds the SHA-256 of the one before, so nobody can change, drop or insert one without
changing every later one; and a signature, so nobody without a trusted key can add one.
"""

import hashlib
from typing import Any

import msgspec

from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE

AUDIT_SIGNATURE = "signature"
"""The Kafka header with the signature of an entry."""
FIRST = "0" * 64
"""What the first entry holds in the place of a digest."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what.

    Attributes:
        number: 0, 1, 2 ... without a gap.
        previous: SHA-256 of the entry before, 64 hexadecimal digits.
        at_ms: When, by the clock of the machine that did it.
        who: ``user@machine`` that ran the process, and behind a slash its Kafka user, if any.
        action: What was done: ``promote``, ``erase`` ...
        subject: To what: the name of a pipeline, a key, a topic.
        before: What held until then; None: nothing, or nothing to tell.
        after: What holds since then.
        reason: Why, for a person.
    """

    number: int
    previous: str
    at_ms: int
    who: str
    action: str
    subject: str
    before: Any = None
    after: Any = None
    reason: str = ""


_encode = msgspec.json.Encoder(order="sorted").encode


def encode_entry(entry: AuditEntry) -> bytes:
    """Canonical JSON: the same entry always gives the same bytes."""
    return _encode(entry)


def decode_entry(content: bytes) -> AuditEntry:
    """Decode an entry.

    Raises:
        SchemaError: the bytes are none, or not the canonical ones.
    """
    try:
        entry = msgspec.json.decode(content, type=AuditEntry)
    except UNDECODABLE as cause:
        raise SchemaError(f"could not decode an audit entry: {cause}") from cause
    if encode_entry(entry) != content:
        raise SchemaError("could not use an audit entry: its bytes are not canonical")
    return entry


def entry_digest(content: bytes) -> str:
    """SHA-256 of an entry's canonical bytes, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
