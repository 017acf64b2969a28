"""What people and their programs are told: one JSON object per notice.

The value of a record on ``tidemill.alerts``, and the body that a webhook gets:

{"id": "flights/lag/1795336315214/3", "status": "firing", "pipeline": "flights", "rule": "lag",
"severity": "warning", "value": 182044.0, "bound": "above 100000", ...}
"""

from typing import Literal

import msgspec

from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was told. A notice may arrive twice: ``id`` is then the same.

    Attributes:
        id: Unique for every notice.
        status: ``firing``: it began, or lasts. ``resolved``: it is over. ``test``: somebody tries
            the channel.
        pipeline: Whose; ``_stack`` for what is of none.
        rule: Which rule.
        severity: ``warning`` or ``critical``.
        value: The number when it was told; null if there was none.
        bound: The condition, in words.
        started_at_ms: Since when the condition held: Unix epoch, milliseconds, UTC.
        told_at_ms: When this was told.
        number: Counts the notices of this alert; a resolved one is counted as well.
        summary: What it means.
        detail: Evidence.
        look: The command that shows more.
        runbook: Where it is written what to do.
    """

    id: str
    status: Literal["firing", "resolved", "test"]
    pipeline: str
    rule: str
    severity: Literal["warning", "critical"]
    value: float | None
    bound: str
    started_at_ms: int
    told_at_ms: int
    number: int
    summary: str
    detail: str
    look: str
    runbook: str

    @property
    def key(self) -> bytes:
        """The Kafka key."""
        return f"{self.pipeline}/{self.rule}".encode()

    @property
    def headline(self) -> str:
        """One line for people."""
        value = "" if self.value is None else f" ({self.value:.6g}, {self.bound})"
        return f"[{self.status}] {self.pipeline}: {self.rule}{value}"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Notice).decode


def encode_notice(notice: Notice) -> bytes:
    """One message value, or the body of a webhook."""
    return _encode(notice)


def decode_notice(message: bytes) -> Notice:
    """Decode one message value.

    Raises:
        SchemaError: it is no notice.
    """
    try:
        return _decode(message)
    except UNDECODABLE as cause:
        raise SchemaError(
            f"could not read notice: {cause}; message_bytes={len(message)}, head={message[:64]!r}"
        ) from cause
