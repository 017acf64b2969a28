"""Alerts and silences as rows of the store: what a runner that starts again knows, and people ask.

Only ever inserted: the newest row of an alert (by `sequence`) and of a silence (by `at`) holds.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import pyarrow as pa

from schemas.errors import PermanentError
from streams.alerts.core import AlertState, Key, Silence
from streams.store.client import Client, insert_rows, mapped_errors

_MOMENT = pa.timestamp("ms", tz="UTC")

ALERTS: Final = pa.schema(
    [
        pa.field("pipeline", pa.utf8(), nullable=False),
        pa.field("rule", pa.utf8(), nullable=False),
        pa.field("sequence", pa.uint64(), nullable=False),
        pa.field("at", _MOMENT, nullable=False),
        pa.field("state", pa.utf8(), nullable=False),
        pa.field("severity", pa.utf8(), nullable=False),
        pa.field("since", _MOMENT, nullable=False),
        pa.field("started", _MOMENT, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("bound", pa.utf8(), nullable=False),
        pa.field("detail", pa.utf8(), nullable=False),
        pa.field("summary", pa.utf8(), nullable=False),
        pa.field("notices", pa.uint32(), nullable=False),
        pa.field("record", pa.utf8(), nullable=False),
    ]
)
"""``record`` is the whole `AlertState` as JSON; the other columns are for people."""

SILENCES: Final = pa.schema(
    [
        pa.field("id", pa.utf8(), nullable=False),
        pa.field("at", _MOMENT, nullable=False),
        pa.field("pipeline", pa.utf8(), nullable=False),
        pa.field("rule", pa.utf8(), nullable=False),
        pa.field("until", _MOMENT, nullable=False),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("author", pa.utf8(), nullable=False),
    ]
)

SILENCES_NOW: Final = """\
SELECT id, toUnixTimestamp64Milli(at), pipeline, rule, toUnixTimestamp64Milli(until), reason, author
FROM (SELECT * FROM silences ORDER BY at DESC LIMIT 1 BY id)
WHERE until > fromUnixTimestamp64Milli({now:Int64}) ORDER BY until LIMIT 1000"""


def insert_states(client: Client, states: Sequence[AlertState], *, now_ms: int) -> None:
    """Keep ``states``; the same again changes nothing.

    Raises:
        StoreUnavailable: not known whether they are kept.
    """
    rows = [
        {
            "pipeline": one.pipeline,
            "rule": one.rule,
            "sequence": one.sequence,
            "at": now_ms,
            "state": one.state,
            "severity": one.severity,
            "since": one.since_ms,
            "started": one.started_ms,
            "value": one.value,
            "bound": one.bound,
            "detail": one.detail,
            "summary": one.summary,
            "notices": one.notices,
            "record": msgspec.json.encode(one).decode(),
        }
        for one in states
    ]
    digest = hashlib.sha256(b"".join(map(msgspec.json.encode, states))).hexdigest()
    insert_rows(client, "alerts", pa.Table.from_pylist(rows, schema=ALERTS), token=digest)


def read_states(client: Client, pipelines: Sequence[str]) -> dict[Key, AlertState]:
    """The newest state of every alert of ``pipelines``. What cannot be read is left out.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("read alerts"):
        rows = client.query(
            "SELECT record FROM alerts WHERE pipeline IN {pipelines:Array(String)} "
            "ORDER BY sequence DESC LIMIT 1 BY pipeline, rule",
            parameters={"pipelines": list(pipelines)},
        ).result_rows
    found = {}
    for (record,) in rows:
        try:
            state = msgspec.json.decode(record, type=AlertState)
        except msgspec.MsgspecError:
            continue
        found[state.key] = state
    return found


def merged(kept: dict[Key, AlertState], own: dict[Key, AlertState]) -> dict[Key, AlertState]:
    """What was kept, with what was seen while it could not be read.

    An alert that is known from both goes on as it was seen; its counters go on from what was kept.
    """
    found = dict(kept)
    for key, seen in own.items():
        before = kept.get(key)
        if before is None:
            found[key] = seen
            continue
        found[key] = msgspec.structs.replace(
            seen,
            notices=before.notices + seen.notices,
            delivered=before.delivered
            | {name: before.notices + number for name, number in seen.delivered.items()},
            sequence=before.sequence + seen.sequence + 1,
        )
    return found


def insert_silence(client: Client, silence: Silence) -> None:
    """Keep ``silence``; one with the same id takes its place.

    Raises:
        StoreUnavailable: not known whether it is kept.
    """
    row = {
        "id": silence.id,
        "at": silence.at_ms,
        "pipeline": silence.pipeline,
        "rule": silence.rule,
        "until": silence.until_ms,
        "reason": silence.reason,
        "author": silence.author,
    }
    token = f"{silence.id}|{silence.at_ms}"
    insert_rows(client, "silences", pa.Table.from_pylist([row], schema=SILENCES), token=token)


def read_silences(client: Client, *, now_ms: int) -> list[Silence]:
    """Those that have not ended, the next to end first.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("read silences"):
        rows = client.query(SILENCES_NOW, parameters={"now": now_ms}).result_rows
    return [
        Silence(
            id=id_, at_ms=at, pipeline=pipeline, rule=rule, until_ms=until, reason=reason,
            author=author,
        )
        for id_, at, pipeline, rule, until, reason, author in rows
    ]  # fmt: skip


def ended(silences: Iterable[Silence], id_: str, *, now_ms: int) -> Silence:
    """The silence ``id_``, ending now.

    Raises:
        PermanentError: there is none that has not ended.
    """
    for one in silences:
        if one.id == id_:
            return msgspec.structs.replace(one, at_ms=now_ms, until_ms=now_ms)
    raise PermanentError(
        f"could not end silence {id_}: there is none, or it has ended. `tidemill alerts list` "
        "names those that hold."
    )
