"""What producers send: one flat JSON object per event, typed by the pipeline's declaration.

    {"event_id": "...", "event_time_ms": 1357034400000, "tail_number": "N14228", "carrier": "UA",
    ...}

Unknown fields are ignored, so producers may send more than the model needs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from schemas.dead_letters import DeadLetter, Reason
from schemas.errors import PermanentError
from schemas.features import FLOAT32_OVERFLOW, Category, Numeric
from schemas.pipeline import Pipeline

Event = Any
"""A `msgspec.Struct` made by `event_type`: its fields are known at run time only."""


class Source(NamedTuple):
    """Where a run of records was read, so that a reject can name its origin."""

    topic: str
    partition: int


@dataclass(slots=True)
class Decoded:
    """What became of a run of records, in their order.

    Attributes:
        events: The usable ones.
        positions: The index in the run of each usable one; None when all were usable.
        rejects: The others, as dead letters.
    """

    events: list[Event]
    positions: list[int] | None = None
    rejects: list[DeadLetter] = field(default_factory=list)

    def pick(self, values: Sequence[Any]) -> Sequence[Any]:
        """The elements of ``values`` (one per record of the run) that belong to ``events``."""
        return values if self.positions is None else [values[i] for i in self.positions]


def event_type(pipeline: Pipeline) -> type[msgspec.Struct]:
    """The struct that one event of ``pipeline`` decodes into.

    Fields: ``event_id``, ``event_time_ms``, the key, then the features in declared order. A feature
    with ``missing`` may be absent or null; every other field must be there.
    """
    required: list[tuple[str, Any]] = [("event_id", str), ("event_time_ms", int)]
    optional: list[tuple[str, Any, Any]] = []
    names = {feature.name for feature in pipeline.features}
    if pipeline.key not in names:
        required.append((pipeline.key, str))
    for feature in pipeline.features:
        kind: Any = float if isinstance(feature, Numeric) else str
        if feature.missing is None:
            required.append((feature.name, kind))
        else:
            optional.append((feature.name, kind | None, feature.missing))
    return msgspec.defstruct(
        f"{pipeline.name}_event", [*required, *optional], kw_only=True, gc=False
    )


class EventDecoder:
    """Turns runs of JSON bytes into events and dead letters; no record is ever lost or raised."""

    def __init__(
        self, pipeline: Pipeline, *, bytes_max: int = 65_536, time_ahead_ms_max: int = 86_400_000
    ) -> None:
        self.type = event_type(pipeline)
        self._decode = msgspec.json.Decoder(self.type).decode
        self._bytes_max = bytes_max
        self._time_ahead_ms_max = time_ahead_ms_max
        self._numbers = [f.name for f in pipeline.features if isinstance(f, Numeric)]
        self._fill = [
            (f.name, f.missing)
            for f in pipeline.features
            if isinstance(f, Numeric | Category) and f.missing is not None
        ]

    def decode(
        self,
        source: Source,
        offsets: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        *,
        now_ms: int,
    ) -> Decoded:
        """Decode a run; a run without a bad record takes the short way."""
        decode = self._decode
        try:
            events: list[Event] = [decode(v) for v in values]  # type: ignore[arg-type]  # None raises
            if max(map(len, values), default=0) > self._bytes_max:  # type: ignore[arg-type]
                raise PermanentError("a record is too large")
            times = [event.event_time_ms for event in events]
            if times and (min(times) < 0 or max(times) > now_ms + self._time_ahead_ms_max):
                raise PermanentError("a record is outside of the time range")
        except (
            msgspec.MsgspecError,
            UnicodeDecodeError,
            TypeError,
            RecursionError,
            PermanentError,
        ):
            return self.decode_one_by_one(source, offsets, keys, values, now_ms=now_ms)
        # One scan of all bytes is three times cheaper than looking at the optional fields of each
        # event; a "null" inside a string only costs the look.
        if self._fill and b"null" in b"".join(values):  # type: ignore[arg-type]  # as above
            self._replace_nulls(events)
        return Decoded(events)

    def decode_one_by_one(
        self,
        source: Source,
        offsets: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        *,
        now_ms: int,
    ) -> Decoded:
        """Decode a run that holds bad records: each of those becomes a dead letter.

        Also finds numbers that do not fit a float32, which `decode` leaves to the feature code.
        """
        result = Decoded([], positions=[])
        assert result.positions is not None
        for position, value in enumerate(values):
            try:
                event = self._one(value, now_ms=now_ms)
            except _Rejected as reject:
                result.rejects.append(
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
            else:
                result.events.append(event)
                result.positions.append(position)
        self._replace_nulls(result.events)
        return result

    def _one(self, value: bytes | None, *, now_ms: int) -> Event:
        if value is None:
            raise _Rejected(Reason.NULL_VALUE, "the message has no value")
        if len(value) > self._bytes_max:
            raise _Rejected(
                Reason.TOO_LARGE,
                f"value_bytes={len(value)} is over event_bytes_max={self._bytes_max}",
            )
        try:
            event: Event = self._decode(value)
        except msgspec.ValidationError as cause:
            beyond = str(cause).startswith("Number out of range")  # 1e400: not even a float64
            raise _Rejected(Reason.NOT_FINITE if beyond else Reason.SCHEMA, str(cause)) from cause
        except RecursionError as cause:
            raise _Rejected(Reason.SCHEMA, "arrays or objects are nested too deeply") from cause
        except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
            raise _Rejected(Reason.MALFORMED_JSON, str(cause)) from cause
        time_ms = event.event_time_ms
        if not 0 <= time_ms <= now_ms + self._time_ahead_ms_max:
            raise _Rejected(
                Reason.TIME, f"event_time_ms={time_ms} is not between 0 and now={now_ms} plus a day"
            )
        for name in self._numbers:
            number = getattr(event, name)
            if number is not None and not abs(number) < FLOAT32_OVERFLOW:
                raise _Rejected(Reason.NOT_FINITE, f"{name}={number!r} does not fit a float32")
        return event

    def _replace_nulls(self, events: Iterable[Event]) -> None:
        for name, missing in self._fill:
            for event in events:
                if getattr(event, name) is None:
                    setattr(event, name, missing)


class _Rejected(Exception):  # a control path of this file, not an error of the tree
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
