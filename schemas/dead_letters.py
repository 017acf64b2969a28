"""A record that could not be used, kept whole: its bytes as the value, the reason as headers."""

import enum
from collections.abc import Sequence

import msgspec


class Reason(enum.StrEnum):
    """Why a record was rejected. New reasons may be added; these keep their meaning."""

    NULL_VALUE = "null-value"
    """The message has no value (a tombstone): there is nothing to score."""
    TOO_LARGE = "too-large"
    """The value is larger than ``event_bytes_max``."""
    MALFORMED_JSON = "malformed-json"
    """The value is not valid JSON in UTF-8 (NaN and Infinity are not JSON)."""
    SCHEMA = "schema"
    """A field is missing or has the wrong type."""
    NOT_FINITE = "not-finite"
    """A number does not fit a float32."""
    TIME = "time"
    """The event's time is before 1970 or too far ahead of the clock."""
    MODEL = "model"
    """The model raised an error on this record alone."""


class DeadLetter(msgspec.Struct, frozen=True):
    """One rejected record.

    Attributes:
        reason: Why.
        detail: The error in words, at most 500 characters.
        topic: Where it was read.
        partition: Where it was read.
        offset: Where it was read. Topic, partition and offset identify the record for ever.
        key: The Kafka key as it was.
        value: The Kafka value as it was, every byte.
    """

    reason: Reason
    detail: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None

    def headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers that go with the value."""
        return [
            ("reason", self.reason.encode()),
            ("detail", self.detail[:500].encode("utf-8", "replace")),
            ("topic", self.topic.encode()),
            ("partition", str(self.partition).encode()),
            ("offset", str(self.offset).encode()),
            ("null", b"1" if self.value is None else b"0"),
        ]


def read_dead_letter(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> DeadLetter:
    """The dead letter that a message of a dead-letter topic carries.

    A foreign message without our headers is still read: its reason is ``schema``, and numbers that
    are none, or do not fit the table, are -1.
    """
    fields = dict(headers)

    def text(name: str) -> str:
        return (fields.get(name) or b"").decode("utf-8", "replace")  # Kafka allows a null header

    def number(name: str, below: int) -> int:
        digits = fields.get(name) or b""
        found = int(digits) if digits.isdigit() and len(digits) < 20 else -1
        return found if found < below else -1

    try:
        reason = Reason(text("reason"))
    except ValueError:
        reason = Reason.SCHEMA
    return DeadLetter(
        reason=reason,
        detail=text("detail"),
        topic=text("topic"),
        partition=number("partition", 1 << 31),
        offset=number("offset", 1 << 63),
        key=key,
        value=None if fields.get("null") == b"1" else value,
    )
