"""Something changed: one JSON object per alarm on ``<pipeline>.alarms``, with the evidence.

{"alarm_id": "error-rate|served|0|10153", "detector": "error-rate", "subject": "served",
"event_time_ms": 1357041000000, "before": 0.013, "after": 0.081, ...}
"""

import msgspec

from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE

DETECTORS = ("error-rate", "adwin-loss", "adwin-value", "population-stability")
"""``error-rate``: wrong answers became more frequent. ``adwin-loss``: the mean loss of the served
score moved. ``adwin-value``: the mean of a feature moved. ``population-stability``: the
distribution of a feature is another than that of its reference."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One detection. The same journal always gives the same alarms.

    Attributes:
        alarm_id: Detector, subject, and the source position of the example that raised it: unique
            in the pipeline, and the same after a replay.
        detector: One of `DETECTORS`.
        subject: The score or the feature that was watched.
        model_version: The deep model of that example.
        event_time_ms: Event time of that example: Unix epoch, milliseconds, UTC.
        source_partition: Of its event.
        source_offset: Of its event.
        shard: The partition of the examples topic whose detector it was.
        statistic: What was compared, in the detector's own unit.
        threshold: What it reached or passed.
        before: Mean of the subject (error rate, loss, value) before the change, or NaN as null.
        after: Mean since the change, likewise.
        rows_before: How many examples ``before`` comes from.
        rows_after: How many ``after`` comes from: about how long the detection took.
        false_alarm_every: The budget that set the threshold: this shard's detectors together raise
            at most one false alarm in this many examples, on average.
    """

    alarm_id: str
    detector: str
    subject: str
    model_version: str
    event_time_ms: int
    source_partition: int
    source_offset: int
    shard: int
    statistic: float
    threshold: float
    before: float | None
    after: float | None
    rows_before: int
    rows_after: int
    false_alarm_every: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Alarm).decode


def encode_alarm(alarm: Alarm) -> bytes:
    """One message value."""
    return _encode(alarm)


def decode_alarm(message: bytes) -> Alarm:
    """Decode one message value.

    Raises:
        SchemaError: it is no alarm.
    """
    try:
        return _decode(message)
    except UNDECODABLE as cause:
        raise SchemaError(
            f"could not read alarm: {cause}; message_bytes={len(message)}, head={message[:64]!r}"
        ) from cause
