"""`path`: the whole way from the events topic to ClickHouse, and what it costs per event."""

from collections.abc import Mapping

from streams.bench import reading
from streams.bench.result import Goal, Result
from streams.bench.sampling import (
    Race,
    Sampler,
    Window,
    machine_cores_busy_elsewhere,
    thread_cpu_s,
    window,
)
from streams.bench.stand import Stand

CPU_US_MAX = 12.0
"""Goal: CPU per event over score, land, broker and store."""


def overlap(scored: Window, landed: Window) -> Window:
    """The broker's window: from the first scored row to the last landed one, both halves counted.

    It serves both workers; a row is half done when it is scored and done when it has landed.
    """
    return Window(
        min(scored.start_s, landed.start_s),
        max(scored.stop_s, landed.stop_s),
        (scored.rows + landed.rows) // 2,
    )


def run(stand: Stand, *, rows: int, env: Mapping[str, str] | None = None) -> Result:
    """Score and land preloaded events with both workers running."""
    earlier = stand.landed()
    events = stand.pipeline.topics.events.name
    starts = reading.end_offsets(stand.settings, events, stand.partitions)
    prefix = stand.preload(rows)
    ends = reading.end_offsets(stand.settings, events, stand.partitions)
    elsewhere = machine_cores_busy_elsewhere([*stand.stack.pids.values()])
    java = stand.stack.pids["kafka"]
    java_before = thread_cpu_s(java)
    with stand.workers("score", "land", env=env) as children:
        with Sampler(stand.pids(children)) as sampler:
            stand.until(lambda: stand.landed() >= earlier + rows, children, what="all landed")
        counters = {role: stand.counters(child) for role, child in children.items()}
    predicted = counters["score"].get("predictions", 0)
    assert predicted > rows / 2, f"another worker took part: predictions={predicted} of {rows}"
    java_used = thread_cpu_s(java) - java_before
    assert stand.rows(prefix) == (rows, rows), (stand.rows(prefix), rows)
    scored = window(stand.stamps("predicted_at", prefix))
    landed = window(stand.stamps("landed_at", prefix))
    both = overlap(scored, landed)
    windows = {"score": scored, "land": landed, "broker": both, "store": landed}
    cpu = {name: round(sampler.cpu_us(name, over), 2) for name, over in windows.items()}
    total = round(sum(cpu.values()), 2)
    score, land = counters["score"], counters["land"]
    row = {
        "who": "tidemill",
        "guarantee": "exactly-once",
        "rows": rows,
        "rows_per_s": round(landed.rows_per_s),
        "score_rows_per_s": round(scored.rows_per_s),
        "cpu_us_per_event": total,
        "cpu_us_per_event_of": cpu,
        "cores": {name: round(sampler.cores(name, over), 2) for name, over in windows.items()},
        "rows_per_transaction": round(
            score.get("predictions", 0) / max(1.0, score.get("transactions", 1))
        ),
        "rows_per_insert": round(land.get("rows_scored", 0) / max(1.0, land.get("inserts", 1))),
        "resident_mib_max": {name: round(max(found)) for name, found in sampler.resident.items()},
        "broker_thread_cpu_us_per_event": {
            name: round(seconds / rows * 1e6, 2) for name, seconds in java_used.most_common(8)
        },
        "cpu_slowdown": round(sampler.slowdown, 2),
        "cores_busy_elsewhere": round(elsewhere, 2),
    }
    if env:
        row["settings"] = dict(env)
    loop = _loop(stand, starts, ends)
    result = Result("path", [row, loop.row("confluent_loop", guarantee="exactly-once")])
    result.ratios = {
        "confluent_loop": landed.rows_per_s / loop.over.rows_per_s,
        "confluent_loop_cpu": (loop.cpu_us + loop.broker_cpu_us) / total,
    }
    result.goals = [
        Goal(f"at most {CPU_US_MAX:g} us CPU per event, all processes", total <= CPU_US_MAX)
    ]
    return result


def _loop(stand: Stand, starts: list[int], ends: list[int]) -> Race:
    """The hand-written loop on the same events; it scores them and lands nothing."""
    request = stand.request(
        source=stand.pipeline.topics.events.name,
        starts=starts,
        ends=ends,
        sink=stand.topic("path-loop"),
        transactional=True,
        rows_max=16_384,
    )
    race = stand.race("confluent_loop", request)
    written = reading.records(
        stand.settings,
        request.sink,
        [0] * stand.partitions,
        reading.end_offsets(stand.settings, request.sink, stand.partitions),
    )
    count = sum(1 for _ in written)
    assert count == race.rows, (count, race.rows)
    return race
