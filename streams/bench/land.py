"""`land`: rows per second of the lander against a bare loop of ``insert_arrow``, same gateway."""

import time

import numpy as np
import pyarrow as pa

from schemas.scored import read_scored
from streams.bench import reading
from streams.bench.result import Goal, Result
from streams.bench.sampling import Sampler, window
from streams.bench.stand import PIPELINE, Stand
from streams.store.tables import TABLES

RATIO_MIN = 0.7
ROWS_PER_S_MIN = 200_000
BARE_TABLE = "bench_bare"


def run(stand: Stand, *, rows: int) -> Result:
    """Land a backlog of scored rows, then insert the very same rows in a loop."""
    scored = stand.pipeline.topics.scored.name
    since = reading.end_offsets(stand.settings, scored, stand.partitions)
    before = stand.committed("score")
    prefix = stand.preload(rows)
    with stand.workers("score") as children:
        stand.until(lambda: stand.committed("score") >= before + rows, children, what="all scored")
    earlier = stand.landed()
    with stand.workers("land") as children:
        with Sampler(stand.pids(children)) as sampler:
            stand.until(lambda: stand.landed() >= earlier + rows, children, what="all landed")
        counters = stand.counters(children["land"])
    assert stand.rows(prefix) == (rows, rows), (stand.rows(prefix), rows)
    landed = stand.landed() - earlier
    stamps = stand.stamps("landed_at", prefix)
    over = window(stamps)
    batch_rows = max(1, round(landed / len(stamps)))
    bare = _bare(stand, since, batch_rows=batch_rows)
    result = Result("land", [])
    result.results = [
        {
            "who": "tidemill",
            "rows": rows,
            "rows_per_s": round(over.rows_per_s),
            "rows_per_insert": batch_rows,
            "insert_ms": round(
                1000 * counters.get("insert_s", 0.0) / max(1.0, counters.get("inserts", 1.0)), 1
            ),
            "cpu_us_per_event": round(sampler.cpu_us("land", over), 2),
            "store_cpu_us_per_event": round(sampler.cpu_us("store", over), 2),
            "broker_cpu_us_per_event": round(sampler.cpu_us("broker", over), 2),
            "resident_mib_max": round(max(sampler.resident["land"])),
        },
        {
            "who": "insert_arrow_loop",
            "rows": rows,
            "rows_per_s": round(bare["rows_per_s"]),
            "rows_per_insert": batch_rows,
            "insert_ms": round(bare["insert_ms"], 1),
            "cpu_us_per_event": round(bare["cpu_us"], 2),
        },
    ]
    ratio = over.rows_per_s / bare["rows_per_s"]
    result.ratios = {"insert_arrow_loop": ratio}
    result.goals = [
        Goal(
            f"at least {RATIO_MIN:g} of a bare insert_arrow loop, or {ROWS_PER_S_MIN:,} rows/s",
            ratio >= RATIO_MIN or over.rows_per_s >= ROWS_PER_S_MIN,
        )
    ]
    return result


def _bare(stand: Stand, since: list[int], *, batch_rows: int) -> dict[str, float]:
    """Insert the rows of the scored topic, one block after the other, and count them."""
    table = _rows(stand, since)
    stand.client.command(f"DROP TABLE IF EXISTS {BARE_TABLE}")
    stand.client.command(f"CREATE TABLE {BARE_TABLE} AS scored")
    blocks = [
        table.slice(start, batch_rows).combine_chunks()
        for start in range(0, table.num_rows, batch_rows)
    ]
    started, used = time.perf_counter(), time.process_time()
    for block in blocks:
        stand.client.insert_arrow(BARE_TABLE, block)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    found = stand.client.query(f"SELECT count() FROM {BARE_TABLE}").result_rows[0][0]
    assert int(found) == table.num_rows, (found, table.num_rows)
    stand.client.command(f"DROP TABLE {BARE_TABLE}")
    return {
        "rows_per_s": table.num_rows / seconds,
        "insert_ms": 1000 * seconds / len(blocks),
        "cpu_us": used / table.num_rows * 1e6,
    }


def _rows(stand: Stand, since: list[int]) -> pa.Table:
    """What the lander inserts, built from the same messages."""
    scored = stand.pipeline.topics.scored.name
    ends = reading.end_offsets(stand.settings, scored, stand.partitions)
    schema, tables = TABLES["scored"], []
    for position, (_key, value, partition) in enumerate(
        reading.records(stand.settings, scored, since, ends)
    ):
        batch = read_scored(value)
        rows = batch.num_rows
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns["pipeline"] = pa.repeat(PIPELINE, rows)
        columns["topic_partition"] = pa.array(np.full(rows, partition, np.uint32))
        columns["topic_offset"] = pa.array(np.full(rows, position, np.uint64))
        tables.append(pa.Table.from_arrays([columns[f.name] for f in schema], schema=schema))
    return pa.concat_tables(tables)
