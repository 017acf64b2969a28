"""Events and labels of a program as the bytes to send, judged as the workers will judge them."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from schemas.dead_letters import DeadLetter, Reason
from schemas.errors import RecordsRejected

if TYPE_CHECKING:
    from schemas.pipeline import Pipeline
    from schemas.settings import Settings

SHOWN_MAX = 5
"""Wrong records that a message names; the others are counted."""

_FIXES = {
    Reason.SCHEMA: "Give the field with this type, or declare missing= for it.",
    Reason.NOT_FINITE: "Send a finite number below 3.4e38, or declare missing= and send null.",
    Reason.TOO_LARGE: "Send fewer bytes, or raise TIDEMILL_EVENT_BYTES_MAX for every worker.",
    Reason.TIME: "Times are Unix epoch in milliseconds: int(moment.timestamp() * 1000).",
}


class Outgoing(NamedTuple):
    """One record to send."""

    key: bytes
    value: bytes


def checked_events(
    pipeline: "Pipeline", events: Iterable[Mapping[str, Any]], settings: "Settings"
) -> list[Outgoing]:
    """The events as records.

    Raises:
        RecordsRejected: a worker would make a dead letter of one of them.
    """
    from schemas.events import EventDecoder, Source

    given = list(events)
    decoder = EventDecoder(
        pipeline,
        bytes_max=settings.event_bytes_max,
        time_ahead_ms_max=settings.event_time_ahead_ms_max,
    )
    values, problems = _encoded(given)
    decoded = decoder.decode_one_by_one(
        Source(pipeline.topics.events.name, 0),
        range(len(given)),
        [None] * len(given),
        values,
        now_ms=int(time.time() * 1000),
    )
    return _outgoing(
        "events",
        given,
        key=pipeline.key,
        values=values,
        problems=problems,
        rejects=decoded.rejects,
    )


def checked_labels(
    pipeline: "Pipeline", labels: Iterable[Mapping[str, Any]], settings: "Settings"
) -> list[Outgoing]:
    """The labels as records; each also holds the key of the event it belongs to.

    Raises:
        RecordsRejected: a worker would make a dead letter of one of them.
    """
    from schemas.events import Source
    from schemas.labels import decode_labels

    now_ms = int(time.time() * 1000)
    given = [{"label_time_ms": now_ms, **label} for label in labels]
    values, problems = _encoded(given)
    _labels, _positions, rejects = decode_labels(
        Source(pipeline.topics.labels.name, 0),
        range(len(given)),
        [None] * len(given),
        values,
        now_ms=[now_ms] * len(given),
        bytes_max=settings.event_bytes_max,
        kind=pipeline.target.kind,
    )
    return _outgoing(
        "labels", given, key=pipeline.key, values=values, problems=problems, rejects=rejects
    )


def _encoded(records: list[Any]) -> tuple[list[bytes], dict[int, str]]:
    """JSON of each; an empty object and a problem for what has none."""
    encode = msgspec.json.Encoder(enc_hook=_plain).encode
    values, problems = [], {}
    for position, record in enumerate(records):
        try:
            values.append(encode(record))
        except (TypeError, ValueError, OverflowError, RecursionError) as cause:
            values.append(b"{}")
            problems[position] = f"it is not JSON: {cause}. Give text, numbers, true or false."
    return values, problems


def _plain(value: Any) -> Any:
    """NumPy's numbers, which rows of data frames hold, as Python's."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if item is None or getattr(value, "size", 1) != 1:
        raise TypeError(f"{type(value).__name__} is no JSON")
    return item()


def _outgoing(
    what: str,
    given: list[Any],
    *,
    key: str,
    values: list[bytes],
    problems: dict[int, str],
    rejects: list[DeadLetter],
) -> list[Outgoing]:
    for reject in rejects:
        told = f"{reject.reason.value}: {reject.detail}. {_FIXES.get(reject.reason, '')}".strip()
        problems.setdefault(reject.offset, told)
    for position, record in enumerate(given):
        if not isinstance(record, Mapping):
            problems[position] = f"{type(record).__name__} is no mapping. Give a dict."
        elif not isinstance(record.get(key), str) or not record[key]:
            problems.setdefault(
                position, f"it has no {key}, the key of its topic. Give it as text."
            )
    if problems:
        raise RecordsRejected(_told(what, given, problems), problems=dict(sorted(problems.items())))
    return [Outgoing(record[key].encode(), v) for record, v in zip(given, values, strict=True)]


def _told(what: str, given: list[Any], problems: Mapping[int, str]) -> str:
    def lines() -> Iterator[str]:
        for position, problem in sorted(problems.items()):
            record = given[position]
            name = record.get("event_id") if isinstance(record, Mapping) else None
            yield f"{what}[{position}] event_id={name!r}: {problem}"

    more = len(problems) - SHOWN_MAX
    return "\n".join(
        (
            (
                f"could not send {what}: {len(problems)} of {len(given)} would become dead "
                "letters; none was sent"
            ),
            *itertools.islice(lines(), SHOWN_MAX),
            *([f"and {more} more"] if more > 0 else []),
        )
    )
