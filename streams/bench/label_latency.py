"""`labels`: from a label that is sent to the first prediction of a learner that has learned it.

Events come at a steady rate, open loop, and each gets its label a moment later. The clock of a
label starts when the schedule says it is sent. It ends when a ``read_committed`` consumer of
another library holds a prediction of the same shard whose ``learner_position`` lies behind the
label's example. Before that, predictions without labels are put into the ledgers and the learners'
memories: a state that is empty is quicker to save than one that has run for a day.
"""

import bisect
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import TopicPartition

from schemas.examples import read_examples
from schemas.labels import Label
from streams.bench import reading
from streams.bench.histogram import histogram, quantiles
from streams.bench.result import Goal, Result
from streams.bench.sampling import Sampler, Window
from streams.bench.stand import Stand
from streams.replay import Encoder
from streams.workers.learn import TEACHING

RATES = (500, 2_000)
"""Events per second, and labels as many."""
OPEN_ROWS = 200_000
DELAY_S = 2.0
"""From an event to its label."""
TAIL_S = 6.0
"""How long events go on after the last label: what it taught must have a prediction to show in."""
VISIBLE_P95_MS_MAX = 2_000.0
GOAL_RATE = 2_000
WARM_ROWS = 2_000
WORKERS = ("score", "join", "learn", "land")

Seconds = npt.NDArray[np.float64]


def run(
    stand: Stand, *, seconds: float, rates: Sequence[int] = RATES, open_rows: int = OPEN_ROWS
) -> Result:
    """Measure each rate with all workers running."""
    result = Result("labels", [])
    with stand.workers(*WORKERS) as children:
        stand.wait_running(children)
        _probe(stand, _records(stand, rate=WARM_ROWS, seconds=3.0)[1])
        waiting = _fill(stand, children, open_rows)
        for rate in rates:
            before = {role: stand.counters(children[role]) for role in ("join", "learn", "score")}
            with Sampler(stand.pids(children)) as sampler:
                row = _one(stand, rate=rate, seconds=seconds)
            over = Window(sampler.times_s[0], sampler.times_s[-1], row["labels"])
            row |= {
                "predictions_waiting": waiting,
                "per_s": _rates(stand, children, before, over),
                "cores": {name: round(sampler.cores(name, over), 3) for name in sampler.pids},
                "resident_mib_max": {n: round(max(v)) for n, v in sampler.resident.items()},
                "cpu_slowdown": round(sampler.slowdown, 2),
            }
            result.results.append(row)
            met = row["to_prediction_ms"]["p95"] <= VISIBLE_P95_MS_MAX
            goal = f"{rate:,}/s: label to prediction p95 <= {VISIBLE_P95_MS_MAX:,.0f} ms"
            result.goals.append(Goal(goal, met))
    return result


def _fill(stand: Stand, children: Any, rows: int) -> int:
    """Let so many predictions wait for labels that do not come."""
    if not rows:
        return 0
    _due, records = _records(stand, rate=1_000_000, seconds=rows / 1_000_000)
    topic, learned = stand.pipeline.topics.examples.name, "tidemill.flights.learn"
    events = [(key, value, -1) for _due, which, key, value in records if which == 0]
    stand.produce(stand.pipeline.topics.events.name, events)

    def drained() -> bool:
        ends = reading.end_offsets(stand.settings, topic, stand.partitions)
        known = stand.counters(children["join"]).get("examples", 0)
        done = reading.committed_total(
            stand.settings, group=learned, topic=topic, partitions=stand.partitions
        )
        return known >= rows and done >= sum(ends) - 2 * stand.partitions

    stand.until(drained, children, what="all examples learned", poll_s=1.0)
    return rows


def _records(
    stand: Stand, *, rate: int, seconds: float
) -> tuple[dict[str, float], list[tuple[float, int, bytes, bytes]]]:
    """When each label is due, and all records in the order in which they are."""
    labelled = int(rate * seconds)
    rows = labelled + int(rate * (DELAY_S + TAIL_S)) if rate < 1_000_000 else labelled
    start_s = time.time() + 4.0
    due_s = start_s + np.arange(rows) / rate
    table = stand.flights(rows, prefix=f"v{rate}x{time.time_ns() // 1_000_000}x")
    at = table.column_names.index("event_time_ms")
    times = pa.array((due_s * 1000).astype(np.int64)).cast(table.schema.field(at).type)
    encoder = Encoder(stand.pipeline, table.set_column(at, "event_time_ms", times))
    keys = [encoder.keys[i] for i in encoder.key_of_row]
    ids = table["event_id"].to_pylist()
    events = encoder.events(np.arange(rows))
    encode = msgspec.json.Encoder().encode
    truth = np.random.default_rng(rows).random(labelled) < 0.25
    known_s = due_s[:labelled] + DELAY_S
    labels = [
        encode(Label(event_id=ids[i], value=int(truth[i]), label_time_ms=int(known_s[i] * 1000)))
        for i in range(labelled)
    ]
    records = [(float(due_s[i]), 0, keys[i], events[i]) for i in range(rows)]
    records += [(float(known_s[i]), 1, keys[i], labels[i]) for i in range(labelled)]
    records.sort(key=lambda record: record[0])
    return dict(zip(ids, known_s.tolist(), strict=False)), records


def _one(stand: Stand, *, rate: int, seconds: float) -> dict[str, Any]:
    topic = stand.pipeline.topics.examples.name
    since = reading.end_offsets(stand.settings, topic, stand.partitions)
    due, records = _records(stand, rate=rate, seconds=seconds)
    steps = _probe(stand, records)
    places = _examples(stand, topic, since, set(due))
    assert places.keys() == due.keys(), (len(places), len(due))
    sent = np.array([due[i] for i in places])
    joined = np.array([places[i][2] for i in places])
    seen = _seen([place[:2] for place in places.values()], steps)
    missing = int(np.isinf(seen).sum())
    assert not missing, f"{missing} of {len(due)} labels did not show within {TAIL_S} s"
    return {
        "who": "tidemill",
        "rate_per_s": rate,
        "labels": len(due),
        "to_example_ms": quantiles(joined - sent),
        "to_prediction_ms": quantiles(seen - sent),
        "to_prediction_histogram_ms": histogram(seen - sent),
    }


def _examples(
    stand: Stand, topic: str, since: list[int], wanted: set[str]
) -> dict[str, tuple[int, int, float]]:
    """Of each labelled event its first example that teaches: partition, offset, Unix seconds."""
    found: dict[str, tuple[int, int, float]] = {}
    reader = reading.consumer(stand.settings)
    reader.assign([TopicPartition(topic, p, offset) for p, offset in enumerate(since)])
    deadline = time.monotonic() + 60
    while len(found) < len(wanted) and time.monotonic() < deadline:
        for message in reader.consume(500, timeout=1.0):
            assert message.error() is None, message.error()
            examples = read_examples(message.value() or b"")
            place = (message.partition() or 0, message.offset() or 0, message.timestamp()[1] / 1000)
            kinds = examples["kind"].to_pylist()
            for event_id, kind in zip(examples["event_id"].to_pylist(), kinds, strict=True):
                if kind in TEACHING and event_id in wanted:
                    found.setdefault(event_id, place)
    reader.close()
    return found


def _seen(places: Sequence[tuple[int, int]], steps: Sequence[tuple[float, int, int]]) -> Seconds:
    """When a prediction first came from a learner behind each place; infinite: none did."""
    moments: dict[int, list[float]] = {}
    positions: dict[int, list[int]] = {}
    for moment, partition, position in steps:
        moments.setdefault(partition, []).append(moment)
        positions.setdefault(partition, []).append(position)
    found = []
    for partition, offset in places:
        index = bisect.bisect_right(positions.get(partition, []), offset)
        known = moments.get(partition, [])
        found.append(known[index] if index < len(known) else float("inf"))
    return np.array(found)


def _probe(
    stand: Stand, records: list[tuple[float, int, bytes, bytes]]
) -> list[tuple[float, int, int]]:
    """Send and read in a process of its own."""
    topics = stand.pipeline.topics
    path = stand.settings.home / "labels.msgpack"
    path.write_bytes(msgspec.msgpack.encode(records))
    request = {
        "kafka": stand.settings.kafka,
        "topics": [topics.events.name, topics.labels.name],
        "answers": topics.predictions.name,
        "from": reading.end_offsets(stand.settings, topics.predictions.name, stand.partitions),
        "records": str(path),
        "tail_s": 2.0,
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "streams.bench.label_probe"],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        timeout=records[-1][0] - time.time() + 60,
        check=True,
    )
    found: list[tuple[float, int, int]] = [tuple(s) for s in json.loads(done.stdout)["steps"]]
    return found


def _rates(
    stand: Stand, children: Any, before: dict[str, dict[str, float]], over: Window
) -> dict[str, float]:
    """What the workers did per second, by their own account."""
    found = {}
    for role, names in {
        "join": ("transactions",),
        "learn": ("transactions", "records", "offers", "snapshots", "snapshot_s", "offer_s"),
        "score": ("learner_swaps",),
    }.items():
        after = stand.counters(children[role])
        for name in names:
            moved = after.get(name, 0.0) - before[role].get(name, 0.0)
            found[f"{role}_{name}"] = round(moved / (over.stop_s - over.start_s), 3)
    return found
