"""The rows of a retraining out of the store: which, how they are asked for, and the file of them.

The offsets of `<pipeline>.examples` are fixed first and are part of the query, so the same query
gives the same rows as long as they are kept, whatever lands meanwhile. A training that looks back
so many days gets those rows alone; to find them the store looks at the times of all.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.errors import SetupError
from schemas.features import split
from schemas.pipeline import Pipeline
from schemas.topics import DAY_MS
from schemas.training import RowsSource
from streams.store.client import Client, mapped_errors
from streams.store.views import NEWEST_STEP

LABELS_MIN = 1000
"""With fewer examples a pipeline that has a history trains from that."""

_RANGES = (
    "SELECT topic_partition, min(topic_offset), max(topic_offset), countIf(label IS NOT NULL) "
    "FROM examples WHERE pipeline = {pipeline:String} "
    "GROUP BY topic_partition ORDER BY topic_partition"
)


def offsets_of(client: Client, pipeline: Pipeline) -> tuple[dict[str, tuple[int, int]], int]:
    """First and last offset of every partition of the examples that landed, and their labels.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("count examples"):
        rows = client.query(_RANGES, parameters={"pipeline": pipeline.name}).result_rows
    return {str(row[0]): (int(row[1]), int(row[2])) for row in rows}, sum(row[3] for row in rows)


def selection(
    pipeline: Pipeline,
    offsets: Mapping[str, tuple[int, int]],
    *,
    as_of_ms: int | None,
    since_ms: int | None = None,
) -> str:
    """The query of a set: one row per event whose truth was known, with what held then.

    What was corrected at or after ``as_of_ms`` has the label from before. A truth that silence
    stands for is known when the horizon has passed. Events before ``since_ms`` are left out.
    """
    ranges = _within(offsets)
    known = (
        "" if as_of_ms is None else f" AND (label_time IS NULL OR {_ms('label_time')} < {as_of_ms})"
    )
    late = "" if as_of_ms is None else f"WHERE label_time_ms < {as_of_ms}\n"
    events = f"scored WHERE pipeline = '{pipeline.name}'"
    among = ""
    if since_ms is not None:
        events += f" AND event_time >= fromUnixTimestamp64Milli({since_ms})"
        among = (
            "        AND (source_partition, source_offset) IN "
            f"(SELECT source_partition, source_offset FROM {events})\n"
        )
    return (
        f"SELECT {_ms('p.event_time')} AS event_time_ms,\n"
        f"    ifNull({_ms('e.latest.2')}, event_time_ms + {pipeline.horizon_ms})"
        " AS label_time_ms,\n"
        "    e.latest.1 AS label, e.latest.3 AS revision, p.numeric AS numeric, "
        "p.category AS category\n"
        f"FROM (SELECT * FROM {events}) AS p\n"
        "INNER JOIN\n(\n"
        "    SELECT source_partition, source_offset,\n"
        f"        argMax((assumeNotNull(label), label_time, revision), {NEWEST_STEP}) AS latest\n"
        f"    FROM examples WHERE pipeline = '{pipeline.name}' AND label IS NOT NULL{known}\n"
        f"        AND ({ranges})\n{among}"
        "    GROUP BY source_partition, source_offset\n"
        ") AS e ON p.source_partition = e.source_partition AND p.source_offset = e.source_offset\n"
        f"{late}"
        "ORDER BY event_time_ms, p.source_partition, p.source_offset"
    )


def write_set(
    client: Client,
    pipeline: Pipeline,
    path: Path,
    *,
    as_of_ms: int | None,
    days: int | None = None,
) -> RowsSource:
    """Write the rows as an Arrow file, as they come; return where they came from.

    With ``days``, events of so many days before ``as_of_ms``, or, where that is None, before the
    latest time of a label.

    Raises:
        StoreUnavailable: the store does not answer.
        SetupError: there are no examples, or rows have other features than are declared now.
    """
    offsets, labels = offsets_of(client, pipeline)
    if not labels:
        raise SetupError(
            f"could not train {pipeline.name} from examples: none has a label yet. "
            "Wait for labels, or take --source history."
        )
    since_ms = None if days is None else _since(client, pipeline, offsets, as_of_ms, days)
    sql = selection(pipeline, offsets, as_of_ms=as_of_ms, since_ms=since_ms)
    schema = _schema(pipeline)
    revision_max = 0
    try:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in _batches(client, sql):
                if batch.num_rows:
                    revision_max = max(revision_max, int(np.max(batch["revision"].to_numpy())))
                    writer.write_batch(_named(pipeline, batch, schema))
    finally:  # allocators keep what a set of rows took until they are told that it is over
        pa.default_memory_pool().release_unused()
    return RowsSource(
        words=f"examples in the store, offsets of {len(offsets)} partitions",
        sql=sql,
        offsets=offsets,
        label_revision_max=revision_max,
    )


def _since(
    client: Client,
    pipeline: Pipeline,
    offsets: Mapping[str, tuple[int, int]],
    as_of_ms: int | None,
    days: int,
) -> int | None:
    """First moment of the last ``days``; None: silence alone has given labels, so read all."""
    if as_of_ms is None:
        query = (
            f"SELECT {_ms('max(label_time)')} FROM examples WHERE pipeline = '{pipeline.name}' "
            f"AND label IS NOT NULL AND ({_within(offsets)})"
        )
        with mapped_errors("look for the last label"):
            as_of_ms = client.query(query).result_rows[0][0]
    return None if as_of_ms is None else int(as_of_ms) - days * DAY_MS


def _within(offsets: Mapping[str, tuple[int, int]]) -> str:
    return " OR ".join(
        f"(topic_partition = {int(partition)} AND topic_offset BETWEEN {first} AND {last})"
        for partition, (first, last) in offsets.items()
    )


def _batches(client: Client, sql: str) -> Iterator[pa.RecordBatch]:
    with mapped_errors("read the examples"), client.query_arrow_stream(sql) as stream:
        for part in stream:
            yield from (part.to_batches() if isinstance(part, pa.Table) else (part,))


def _schema(pipeline: Pipeline) -> pa.Schema:
    numeric, category = split(pipeline.features)
    return pa.schema(
        [
            pa.field("event_time_ms", pa.int64()),
            pa.field("label_time_ms", pa.int64()),
            pa.field("label", pa.float64()),
            *(pa.field(f.name, pa.float32()) for f in numeric),
            *(pa.field(f.name, pa.utf8()) for f in category),
        ]
    )


def _named(pipeline: Pipeline, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Features as columns of their own instead of lists."""
    numeric, category = split(pipeline.features)
    columns = [batch["event_time_ms"], batch["label_time_ms"], batch["label"]]
    for name, features in (("numeric", numeric), ("category", category)):
        values, width = batch[name].flatten(), len(features)
        if len(values) != batch.num_rows * width:
            raise SetupError(
                f"could not train {pipeline.name}: rows in the store have another number of "
                f"{name} features than the {width} that are declared. Take --source history, or "
                "--days since the change."
            )
        columns += [
            values.take(pa.array(np.arange(place, len(values), width))) for place in range(width)
        ]
    return pa.record_batch(
        [column.cast(field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _ms(moment: str) -> str:
    return f"toUnixTimestamp64Milli({moment})"
