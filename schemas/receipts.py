"""What was erased of a person, as that person gets it: signed, so that it can be held against
us.
"""

import msgspec

from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE


class TopicErasure(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of a topic that held records of the key.

    Attributes:
        topic: Its name.
        partition: Its number.
        records: How many records were about the key; one may be about others, too.
        newest_offset: The newest of them.
        deleted: Whether everything up to it was deleted at once, everybody's.
        gone_by_ms: When the broker has deleted it at the latest, by the retention of the topic; -1:
            never, for it keeps its records for good.
        held_back: Why it was not deleted at once, though that was asked for.
    """

    topic: str
    partition: int
    records: int
    newest_offset: int
    deleted: bool
    gone_by_ms: int
    held_back: str = ""


class TableErasure(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the store.

    Attributes:
        table: Its name.
        rows: How many rows were deleted.
        left: How many the same question found afterwards.
    """

    table: str
    rows: int
    left: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased.

    Attributes:
        pipeline: Whose data.
        key: The person's key. This is the only place that keeps it: give the receipt away, or keep
            it as the law says.
        at_ms: When.
        by: Who did it: user, machine, Kafka user.
        salt: Random, so that the digest in the audit log says nothing about the key.
        topics: What topics held.
        tables: What tables held.
        not_erased: What is left, in words.
    """

    pipeline: str
    key: str
    at_ms: int
    by: str
    salt: str
    topics: list[TopicErasure]
    tables: list[TableErasure]
    not_erased: list[str]


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt as it lies in a file.

    Attributes:
        receipt: What was erased.
        digest: SHA-256 of its canonical JSON, as the audit log has it.
        signature: Envelope of `models.signing` over the digest, hexadecimal.
    """

    receipt: Receipt
    digest: str
    signature: str


_encode = msgspec.json.Encoder(order="sorted").encode


def encode_receipt(receipt: Receipt) -> bytes:
    """Canonical JSON: the same receipt always gives the same bytes."""
    return _encode(receipt)


def decode_signed_receipt(content: bytes) -> SignedReceipt:
    """Decode a file with a receipt.

    Raises:
        SchemaError: it is none.
    """
    try:
        return msgspec.json.decode(content, type=SignedReceipt)
    except UNDECODABLE as cause:
        raise SchemaError(f"could not read a receipt: {cause}") from cause
