"""Deletes a key's rows from the tables, writes down where they were, and counts what is left."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from schemas.errors import SetupError
from schemas.receipts import TableErasure
from streams.store.client import Client, insert_rows, mapped_errors

IDS_MAX = 200_000
"""Events of one key that are erased at once. More is no person."""
CHUNK = 5_000
"""Ids in one question."""

_T = TypeVar("_T")

ERASED = pa.schema(
    [
        pa.field("pipeline", pa.utf8(), nullable=False),
        pa.field("table_name", pa.utf8(), nullable=False),
        pa.field("topic", pa.utf8(), nullable=False),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        pa.field("receipt", pa.utf8(), nullable=False),
        pa.field("erased_at", pa.timestamp("ms", tz="UTC"), nullable=False),
    ]
)
"""The table ``erased``: one row per row that was deleted, by the record it came from."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rows of one table that are about the key.

    Attributes:
        table: Its name.
        place: Topic, partition and offset of the record a row counts for, as SQL, in the way of
            `streams.books.reconcile.StoreRows`.
        condition: Which rows, as SQL with parameters.
        parameters: Theirs, one mapping for each question.
    """

    table: str
    place: tuple[str, str, str]
    condition: str
    parameters: Sequence[Mapping[str, object]]


def known_event_ids(client: Client, pipeline: str, key: str) -> set[str]:
    """Ids of the key's events that the store has.

    Raises:
        SetupError: they are more than `IDS_MAX`.
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("find the events of a key"):
        rows = client.query(
            "SELECT DISTINCT event_id FROM scored WHERE pipeline = {pipeline:String} "
            f"AND key = {{key:String}} LIMIT {IDS_MAX + 1}",
            parameters={"pipeline": pipeline, "key": key},
        ).result_rows
    check_count(len(rows))
    return {str(row[0]) for row in rows}


def check_count(events: int) -> None:
    """Return if so many events can be one person's.

    Raises:
        SetupError: they cannot.
    """
    if events > IDS_MAX:
        raise SetupError(
            f"could not erase a key: it has more than {IDS_MAX} events, so it is hardly one "
            "person's. Delete by SQL what should go, and keep the statements."
        )


def wanted_rows(
    pipeline: str,
    key: str,
    event_ids: Iterable[str],
    *,
    topics: Mapping[str, str],
    label_places: Iterable[tuple[int, int]],
    letters: Iterable[tuple[str, int, int]],
) -> list[Wanted]:
    """What is to be deleted where. ``topics``: names of ``events``, ``labels``, ``examples``."""
    base = {"pipeline": pipeline, "key": key}
    ids = _chunks(sorted(event_ids))
    by_id = [base | {"ids": some} for some in ids]
    places = [base | {"places": some} for some in _chunks(sorted(label_places))]
    sources = [base | {"sources": some} for some in _chunks(sorted(letters))]
    events, labels, examples = (f"'{topics[n]}'" for n in ("events", "labels", "examples"))
    id_condition = "event_id IN {ids:Array(String)}"
    return [
        Wanted(
            "scored", (events, "source_partition", "source_offset"), "key = {key:String}", [base]
        ),
        Wanted("labels", (labels, "topic_partition", "topic_offset"), id_condition, by_id),
        Wanted(
            "labels",
            (labels, "topic_partition", "topic_offset"),
            "(toInt32(topic_partition), toInt64(topic_offset)) IN "
            "{places:Array(Tuple(Int32, Int64))}",
            places,
        ),
        Wanted("examples", (examples, "topic_partition", "topic_offset"), id_condition, by_id),
        Wanted(
            "dead_letters",
            ("source_topic", "source_partition", "source_offset"),
            "key = {key:String}",
            [base],
        ),
        Wanted(
            "dead_letters",
            ("source_topic", "source_partition", "source_offset"),
            "(toString(source_topic), source_partition, source_offset) IN "
            "{sources:Array(Tuple(String, Int32, Int64))}",
            sources,
        ),
    ]


def erase_rows(
    client: Client, wanted: Sequence[Wanted], *, receipt: str, at_ms: int, cluster: str = ""
) -> list[TableErasure]:
    """Delete the rows and count again. Returns when every part of every table is rewritten.

    What is deleted was first written to ``erased``; breaking off and doing it again is safe.
    ClickHouse keeps the old parts, which nobody can query, for eight minutes.

    Raises:
        StoreUnavailable: not known what was deleted; do it again.
    """
    found: dict[str, int] = {}
    for one in wanted:
        for parameters in one.parameters:
            rows = _places(client, one, parameters)
            found[one.table] = found.get(one.table, 0) + len(rows)
            if rows:
                _note(client, one.table, rows, parameters, receipt=receipt, at_ms=at_ms)
                _delete(client, one, parameters, cluster=cluster)
    left = {
        table: sum(
            len(_places(client, one, parameters))
            for one in wanted
            if one.table == table
            for parameters in one.parameters
        )
        for table in found
    }
    return [TableErasure(table=t, rows=n, left=left[t]) for t, n in found.items()]


def _places(
    client: Client, wanted: Wanted, parameters: Mapping[str, object]
) -> list[tuple[str, int, int]]:
    topic, partition, offset = wanted.place
    with mapped_errors(f"find the rows of a key in {wanted.table}"):
        rows = client.query(
            f"SELECT toString({topic}), toInt32({partition}), toInt64({offset}) "
            f"FROM `{wanted.table}` WHERE pipeline = {{pipeline:String}} AND {wanted.condition}",
            parameters=dict(parameters),
        ).result_rows
    return [(str(t), int(p), int(o)) for t, p, o in rows]


def _note(
    client: Client,
    table: str,
    rows: list[tuple[str, int, int]],
    parameters: Mapping[str, object],
    *,
    receipt: str,
    at_ms: int,
) -> None:
    columns = [
        {
            "pipeline": parameters["pipeline"],
            "table_name": table,
            "topic": topic,
            "source_partition": partition,
            "source_offset": offset,
            "receipt": receipt,
            "erased_at": at_ms,
        }
        for topic, partition, offset in sorted(rows)
    ]
    # The same rows have the same token: a second attempt does not count them twice.
    digest = hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()
    written = pa.Table.from_pylist(columns, schema=ERASED)
    insert_rows(client, "erased", written, token=f"erased|{table}|{digest}")


def _delete(
    client: Client, wanted: Wanted, parameters: Mapping[str, object], *, cluster: str
) -> None:
    on_cluster = f"ON CLUSTER `{cluster}`" if cluster else ""
    with mapped_errors(f"delete the rows of a key from {wanted.table}"):
        client.command(
            f"ALTER TABLE `{wanted.table}` {on_cluster} DELETE "
            f"WHERE pipeline = {{pipeline:String}} AND {wanted.condition}",
            parameters=dict(parameters),
            settings={"mutations_sync": 2},
        )


def _chunks(items: list[_T]) -> list[list[_T]]:
    return [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
