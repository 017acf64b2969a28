"""The truth, sent later: one JSON object per label, keyed as the event it belongs to.

    {"event_id": "...", "value": 1, "label_time_ms": 1357041000000, "revision": 0}

A correction is the same label again with a higher revision.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from schemas.dead_letters import DeadLetter, Reason
from schemas.events import Source


class Label(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The truth about one event.

    Attributes:
        event_id: The event it belongs to.
        value: 1 or true for yes, 0 or false for no; where the target is a number, that number.
        label_time_ms: When the truth became known: Unix epoch, milliseconds, UTC.
        revision: 0 for the first word on this event; a correction has a higher one.
    """

    event_id: str
    value: float | bool
    label_time_ms: int
    revision: int = 0


NESTING_MAX = 100
"""How deep arrays and objects may lie in each other, the label counted. A limit of our own, because
the decoder's is what the stack has left, and scorer and lander must come to the same verdict."""

_decode = msgspec.json.Decoder(Label).decode
# A string that nobody closes goes to the end: giving it up and looking again behind each of its
# quotes would take a minute for 64 KiB of them. `*+` never goes back.
_brackets = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|([\[{])|([\]}])', re.DOTALL).finditer


def decode_label(
    value: bytes | None,
    *,
    now_ms: int,
    bytes_max: int = 65_536,
    ahead_ms_max: int = 86_400_000,
    kind: Literal["binary", "number"] = "binary",
) -> Label:
    """Decode one label of a target of this ``kind``.

    Raises:
        LabelRejected: with the reason that its dead letter carries.
    """
    if value is None:
        raise LabelRejected(Reason.NULL_VALUE, "the message has no value")
    if len(value) > bytes_max:
        raise LabelRejected(
            Reason.TOO_LARGE, f"value_bytes={len(value)} is over event_bytes_max={bytes_max}"
        )
    if _nesting(value) > NESTING_MAX:
        raise LabelRejected(Reason.SCHEMA, f"nested deeper than {NESTING_MAX}")
    try:
        label = _decode(value)
    except msgspec.ValidationError as cause:
        raise LabelRejected(Reason.SCHEMA, str(cause)) from cause
    except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
        raise LabelRejected(Reason.MALFORMED_JSON, str(cause)) from cause
    if kind == "number":
        if isinstance(label.value, bool) or not math.isfinite(label.value):
            raise LabelRejected(Reason.SCHEMA, f"value={label.value!r} is no finite number")
    elif label.value not in (0, 1):
        raise LabelRejected(Reason.SCHEMA, f"value={label.value!r} is neither 0 nor 1")
    if not 0 <= label.revision < 1 << 31:
        raise LabelRejected(Reason.SCHEMA, f"revision={label.revision} is not 0 to 2147483647")
    if not 0 <= label.label_time_ms <= now_ms + ahead_ms_max:
        raise LabelRejected(Reason.TIME, f"label_time_ms={label.label_time_ms} is out of range")
    return label


def _nesting(value: bytes) -> int:
    """How deep it is nested, or less than `NESTING_MAX` for what is obviously not."""
    if value.count(b"[") + value.count(b"{") <= NESTING_MAX:
        return 0
    depth = deepest = 0
    for token in _brackets(value):
        depth += (token[1] is not None) - (token[2] is not None)
        deepest = max(deepest, depth)
    return deepest


class LabelRejected(Exception):  # names the event: a label was rejected
    """A label that cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode_labels(
    source: Source,
    offsets: Sequence[int],
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    *,
    now_ms: Sequence[int],
    bytes_max: int = 65_536,
    kind: Literal["binary", "number"] = "binary",
) -> tuple[list[Label], list[int], list[DeadLetter]]:
    """Labels, their positions in the run, and the dead letters of the rest.

    ``now_ms`` is the broker's time stamp of each record, not this machine's clock: so everyone who
    reads a label, now or at a replay, comes to the same verdict.
    """
    labels: list[Label] = []
    positions: list[int] = []
    rejects: list[DeadLetter] = []
    for position, value in enumerate(values):
        try:
            labels.append(
                decode_label(value, now_ms=now_ms[position], bytes_max=bytes_max, kind=kind)
            )
            positions.append(position)
        except LabelRejected as reject:
            rejects.append(
                DeadLetter(
                    reason=reject.reason,
                    detail=reject.detail,
                    topic=source.topic,
                    partition=source.partition,
                    offset=offsets[position],
                    key=keys[position],
                    value=value,
                )
            )
    return labels, positions, rejects
