"""A ledger as bytes and back, and the digest by which two ledgers are equal.

The bytes are three Arrow streams, one after the other: open rows with the rest of the state in the
schema's metadata, ids of closed rows, waiting labels. They depend on how the rows are cut into
segments; the digest does not.
"""

import hashlib
from dataclasses import asdict

import msgspec
import numpy as np
import pyarrow as pa

from schemas.arrow import columns_with_nulls
from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE
from streams.ledger.canonical import canonical_parts
from streams.ledger.core import Ledger
from streams.ledger.rows import HELD, STATES, Segment, id_bytes
from streams.ledger.rules import Balance, Rules
from streams.ledger.waiting import Waiting

_STATE = [
    pa.field("entered_ms", pa.int64(), nullable=False),
    pa.field("state", pa.uint8(), nullable=False),
    pa.field("truth", pa.float64(), nullable=False),
    pa.field("truth_revision", pa.int64(), nullable=False),
]
OPEN = pa.schema([*HELD, *_STATE])
CLOSED = pa.schema([HELD.field("event_id"), _STATE[0]])
WAITING = pa.schema(
    [
        pa.field("event_id", pa.utf8(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("label_time_ms", pa.int64(), nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("entered_ms", pa.int64(), nullable=False),
    ]
)
_KEY = b"tidemill.ledger"


class _Rest(msgspec.Struct, kw_only=True):
    """What is not a column."""

    version: int
    rules: Rules
    clock_ms: int
    predicted_ms: int
    first: int
    closed: int
    due: int
    end: int
    balance: Balance


def dump(ledger: Ledger) -> memoryview:
    """The whole state; as it was encoded, because copying it takes as long again."""
    rest = msgspec.json.encode(_rest(ledger))
    sink = pa.BufferOutputStream()
    for schema, batches in (
        (OPEN.with_metadata({_KEY: rest}), _open(ledger)),
        (CLOSED, _closed(ledger)),
        (WAITING, [_waiting(ledger)]),
    ):
        with pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return memoryview(sink.getvalue())


def load(content: bytes | memoryview) -> Ledger:
    """The ledger that `dump` wrote; holds on to ``content``.

    Raises:
        SchemaError: the bytes are something else.
    """
    try:
        source = pa.BufferReader(content)
        tables = []
        for wanted in (OPEN, CLOSED, WAITING):
            with pa.ipc.open_stream(source) as reader:
                if not reader.schema.equals(wanted):
                    raise SchemaError(f"columns={reader.schema.names}")
                metadata = reader.schema.metadata or {}
                tables.append((metadata, [_whole(batch) for batch in reader]))
        rest = msgspec.json.decode(tables[0][0][_KEY], type=_Rest)
        if rest.version != 1:
            raise SchemaError(f"version={rest.version}")
        opened, closed, waiting = (batches for _metadata, batches in tables)
        _check(rest, opened, closed)
        return _made(rest, opened, closed, waiting)
    except (pa.ArrowException, OSError, KeyError, ValueError, *UNDECODABLE, SchemaError) as cause:
        raise SchemaError(f"could not read a ledger: {cause!r}; bytes={len(content)}") from cause


def _whole(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch``, every value of which can be read."""
    if not batch.num_rows:
        return pa.RecordBatch.from_pylist([], schema=batch.schema)
    batch.validate(full=True)
    if missing := columns_with_nulls(batch):
        raise SchemaError(f"nulls in {missing}")
    return batch


def _check(rest: _Rest, opened: list[pa.RecordBatch], closed: list[pa.RecordBatch]) -> None:
    """Refuse a state whose numbers and rows contradict each other."""
    rows_closed = sum(batch.num_rows for batch in closed)
    rows_open = sum(batch.num_rows for batch in opened)
    states = max((int(b["state"].to_numpy().max(initial=0)) for b in opened), default=0)
    if (
        rest.first < 0
        or rest.closed - rest.first != rows_closed
        or rest.end - rest.closed != rows_open
        or not rest.first <= rest.due <= rest.end
        or states >= len(STATES)
    ):
        raise SchemaError(
            f"first={rest.first} closed={rest.closed} due={rest.due} end={rest.end} do not fit "
            f"rows_closed={rows_closed} rows_open={rows_open} state_max={states}"
        )


def digest(ledger: Ledger) -> str:
    """Equal for two ledgers exactly when their states are; the rules are not part of it."""
    found = hashlib.sha256()
    rest = asdict(ledger.balance) | {
        name: getattr(ledger.rows, name) for name in ("first", "closed", "due", "end")
    }
    clocks = {"clock_ms": ledger.clock_ms, "predicted_ms": ledger.predicted_ms}
    found.update(msgspec.json.encode(rest | clocks))
    for batches in (_open(ledger), _closed(ledger), [_waiting(ledger)]):
        parts: dict[tuple[str, int], hashlib._Hash] = {}
        for batch in batches:
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                for number, content in enumerate(canonical_parts(column)):
                    parts.setdefault((name, number), hashlib.sha256()).update(content)
        for key in sorted(parts):
            found.update(repr(key).encode() + parts[key].digest())
    return found.hexdigest()


def _rest(ledger: Ledger) -> _Rest:
    rows = ledger.rows
    return _Rest(
        version=1,
        rules=ledger.rules,
        clock_ms=ledger.clock_ms,
        predicted_ms=ledger.predicted_ms,
        first=rows.first,
        closed=rows.closed,
        due=rows.due,
        end=rows.end,
        balance=ledger.balance,
    )


def _open(ledger: Ledger) -> list[pa.RecordBatch]:
    rows = ledger.rows
    found = []
    for segment, part in rows.parts(rows.closed, rows.end):
        assert segment.rows is not None
        held = segment.rows.slice(part.start, part.stop - part.start)
        state = (segment.entered_ms, segment.state, segment.label, segment.revision)
        columns = [*held.columns, *(pa.array(column[part]) for column in state)]
        found.append(pa.RecordBatch.from_arrays(columns, schema=OPEN))
    return found


def _closed(ledger: Ledger) -> list[pa.RecordBatch]:
    rows = ledger.rows
    return [
        pa.RecordBatch.from_arrays(
            [segment.ids[part], pa.array(segment.entered_ms[part])], schema=CLOSED
        )
        for segment, part in rows.parts(rows.first, rows.closed)
    ]


def _waiting(ledger: Ledger) -> pa.RecordBatch:
    waiting = list(ledger.waiting)
    columns = [
        pa.array([getattr(one, field.name) for one in waiting], field.type) for field in WAITING
    ]
    return pa.RecordBatch.from_arrays(columns, schema=WAITING)


def _made(
    rest: _Rest,
    opened: list[pa.RecordBatch],
    closed: list[pa.RecordBatch],
    waiting: list[pa.RecordBatch],
) -> Ledger:
    ledger = Ledger(rest.rules)
    ledger.clock_ms, ledger.balance = rest.clock_ms, rest.balance
    ledger.predicted_ms = rest.predicted_ms
    rows = ledger.rows
    rows.first, rows.closed, rows.due, rows.end = rest.first, rest.closed, rest.due, rest.end
    rows.segments = _segments(rest.first, closed, opened)
    for segment in rows.segments:
        numbers = np.arange(segment.first, segment.end)
        ledger.index(segment.ids, numbers)
        if segment.rows is None:
            ledger.closed_bytes += int(id_bytes(segment.ids).sum())
        else:
            ledger.open_bytes += int(segment.num_bytes.sum())
            ledger.open_states += np.bincount(segment.state, minlength=len(STATES))
    for batch in waiting:
        for row in batch.to_pylist():
            ledger.waiting.add(Waiting(**row))
    return ledger


def _segments(
    first: int, closed: list[pa.RecordBatch], opened: list[pa.RecordBatch]
) -> list[Segment]:
    found: list[Segment] = []
    for batch in closed:
        empty = pa.RecordBatch.from_pylist([], schema=HELD)
        segment = Segment.of(first, empty, batch["entered_ms"].to_numpy())
        segment.rows, segment.ids = None, batch["event_id"]
        found.append(segment)
        first = segment.end
    for batch in opened:
        segment = Segment.of(first, batch.select(HELD.names), batch["entered_ms"].to_numpy())
        # Copied, because Arrow's memory must not change.
        segment.state = batch["state"].to_numpy().copy()
        segment.label = batch["truth"].to_numpy().copy()
        segment.revision = batch["truth_revision"].to_numpy().copy()
        found.append(segment)
        first = segment.end
    return found
