"""`latency`: how long an event takes to its prediction and to SQL, at steady rates, open loop.

The clock of an event starts when the schedule says it is sent, so a stall is seen by every event
that it delays, and ends when a ``read_committed`` consumer of another library holds its prediction.

A broker that has just started compiles its own code for a minute, on the cores that everything here
shares: transactions take twice as long and half a core is gone. So it is warmed up first.
"""

import bisect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from streams.bench import reading
from streams.bench.histogram import histogram, quantiles
from streams.bench.result import Goal, Result
from streams.bench.sampling import Sampler, Window
from streams.bench.stand import Stand
from streams.local.child import ChildProcess
from streams.replay import Encoder
from streams.store.client import connect

RATES = (200, 2_000, 10_000, 20_000)
"""Events per second."""
RIVAL_RATE = 2_000
SQL_POLL_S = 0.05
WARM_ROWS = 5_000
WARM_RATE = 2_000
WARM_S = 40.0
"""Of that rate for each delivery: without transactions the broker warms up only half."""
GOALS_MS = {
    ("at-least-once", 2_000): {"p50": 6.0},
    ("exactly-once", 200): {"p50": 15.0},
    ("exactly-once", 2_000): {"p50": 20.0, "p99": 60.0},
}
SQL_P95_MS_MAX = 500.0
Seconds = npt.NDArray[np.float64]


def run(
    stand: Stand,
    *,
    seconds: float,
    rates: Sequence[int] = RATES,
    deliveries: Sequence[str] = ("exactly-once", "at-least-once"),
    rivals: bool = True,
) -> Result:
    """Measure every rate with both workers running, and the rivals at `RIVAL_RATE`."""
    result = Result("latency", [])
    for delivery in deliveries:
        result.results += ours(stand, delivery, rates=rates, seconds=seconds)
    at = {(row["guarantee"], row["rate_per_s"]): row for row in result.results}
    for (delivery, rate), goals in GOALS_MS.items():
        if (row := at.get((delivery, rate))) is not None:
            result.goals += [
                Goal(f"{delivery}, {rate:,}/s: {q} <= {ms:g} ms", row["to_reader_ms"][q] <= ms)
                for q, ms in goals.items()
            ]
    if (row := at.get(("exactly-once", RIVAL_RATE))) is not None:
        late = row["to_sql_ms"]["p95"] - row["to_reader_ms"]["p50"]
        result.goals.append(
            Goal(f"in SQL p95 <= {SQL_P95_MS_MAX:g} ms after it", late <= SQL_P95_MS_MAX)
        )
    own = at.get(("at-least-once", RIVAL_RATE)) or at.get(("exactly-once", RIVAL_RATE))
    if rivals and own is not None:
        for who in ("confluent_loop", "stock_faust"):
            found = _rival(stand, who, seconds=seconds)
            result.results.append(found)
            result.ratios[who] = found["to_reader_ms"]["p50"] / own["to_reader_ms"]["p50"]
    return result


def ours(
    stand: Stand, delivery: str, *, rates: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
    """One row per rate, on a broker that has warmed up."""
    stand.preload(WARM_ROWS)
    found = []
    with stand.workers("score", "land", pipeline=stand.reference(delivery)) as children:
        stand.wait_running(children)
        _one(stand, rate=WARM_RATE, seconds=WARM_S)
        for rate in rates:
            before = stand.counters(children["score"])
            with Sampler(stand.pids(children)) as sampler:
                row = _one(stand, rate=rate, seconds=seconds)
            after = stand.counters(children["score"])
            count = max(1.0, after.get("transactions", 0.0) - before.get("transactions", 0.0))
            spent_s = after.get("transaction_s", 0.0) - before.get("transaction_s", 0.0)
            row["transactions_per_s"] = round(count / (sampler.times_s[-1] - sampler.times_s[0]), 1)
            row["transaction_ms"] = round(1000 * spent_s / count, 1)
            found.append(
                {"who": "tidemill", "guarantee": delivery} | row | _shares(sampler, row["rows"])
            )
    return found


def _shares(sampler: Sampler, rows: int) -> dict[str, Any]:
    """Cores over the whole of a run, and CPU per event; both with its few idle seconds."""
    over = Window(sampler.times_s[0], sampler.times_s[-1], rows)
    return {
        "cores": {name: round(sampler.cores(name, over), 3) for name in sampler.pids},
        "cpu_us_per_event": {name: round(sampler.cpu_us(name, over), 1) for name in sampler.pids},
        "resident_mib_max": {name: round(max(v)) for name, v in sampler.resident.items()},
        "cpu_slowdown": round(sampler.slowdown, 2),
    }


def _rival(stand: Stand, who: str, *, seconds: float) -> dict[str, Any]:
    """The same load on a program of its own topics; nothing lands."""
    source, sink = stand.topic("latency-events"), stand.topic("latency-answers")
    request = stand.request(
        source=source, sink=sink, starts=[0] * stand.partitions, rows_max=500, wait_ms=5
    )
    with stand.rival(who, request) as child:
        row = rival_row(
            stand, who, child, source=source, sink=sink, rate=RIVAL_RATE, seconds=seconds
        )
    return {"who": who, "guarantee": "at-least-once"} | row


def rival_row(
    stand: Stand,
    who: str,
    child: ChildProcess,
    *,
    source: str,
    sink: str,
    rate: int,
    seconds: float,
    tree: bool = False,
    warm_s: float = 2.0,
) -> dict[str, Any]:
    """Time another program that runs and answers events of ``source`` in ``sink``."""
    _one(stand, rate=rate, seconds=warm_s, source=source, answers=sink, tail_s=60)
    with Sampler(stand.pids({who: child}), trees=(who,) if tree else ()) as sampler:
        row = _one(stand, rate=rate, seconds=seconds, source=source, answers=sink)
    return row | _shares(sampler, row["rows"])


def _one(
    stand: Stand,
    *,
    rate: int,
    seconds: float,
    source: str = "",
    answers: str = "",
    tail_s: int = 20,
) -> dict[str, Any]:
    """One rate: quantiles and histograms to the reader and, for our own topics, to SQL."""
    prefix = f"l{rate}x{int(time.time())}x"
    request = _request(stand, rate=rate, rows=int(rate * seconds), prefix=prefix)
    request |= {"topic": source or request["topic"], "tail_s": tail_s}
    if answers:
        ends = reading.end_offsets(stand.settings, answers, stand.partitions)
        request |= {"answers": answers, "from": ends}
        answer = _probe(request, seconds)
        return _figures(rate, answer)
    with _Visible(stand) as visible:
        answer = _probe(request, seconds)
        rows, deadline = len(answer["ids"]), time.monotonic() + 30
        while stand.rows(prefix)[0] < rows:
            assert time.monotonic() < deadline, (stand.rows(prefix), rows)
            time.sleep(0.2)
        time.sleep(2 * SQL_POLL_S)
    assert stand.rows(prefix) == (rows, rows), (stand.rows(prefix), rows)
    places = stand.client.query(
        "SELECT event_id, topic_partition, topic_offset FROM scored "
        "WHERE startsWith(event_id, {p:String})",
        parameters={"p": prefix},
    ).result_rows
    place_of = {event_id: (partition, offset) for event_id, partition, offset in places}
    landed = np.array([visible.since_s(*place_of[i]) for i in answer["ids"]])
    to_sql = landed - np.array(answer["due_s"])
    return _figures(rate, answer) | {
        "to_sql_ms": quantiles(to_sql),
        "to_sql_histogram_ms": histogram(to_sql),
    }


def _figures(rate: int, answer: dict[str, Any]) -> dict[str, Any]:
    missing = answer["seen_s"].count(None)
    assert not missing, f"{missing} of {len(answer['ids'])} predictions were not read"
    due, seen = np.array(answer["due_s"]), np.array(answer["seen_s"])
    return {
        "rate_per_s": rate,
        "rows": len(answer["ids"]),
        "rows_per_s": round(len(due) / (seen.max() - due[0])),
        "to_reader_ms": quantiles(seen - due),
        "to_reader_histogram_ms": histogram(seen - due),
    }


def _probe(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Send and read in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "streams.bench.rivals.probe"],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        timeout=seconds + 60 + request["tail_s"],
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _request(stand: Stand, *, rate: int, rows: int, prefix: str) -> dict[str, Any]:
    """What the probe is told; the events lie in a file beside the logs."""
    topics = stand.pipeline.topics
    encoder = Encoder(stand.pipeline, stand.flights(rows, prefix=prefix))
    values = encoder.events(np.arange(rows))
    keys = [encoder.keys[i] for i in encoder.key_of_row]
    ids = encoder.table["event_id"].to_pylist()
    path = stand.settings.home / f"{prefix}.msgpack"
    path.write_bytes(msgspec.msgpack.encode(list(zip(ids, keys, values, strict=True))))
    return {
        "kafka": stand.settings.kafka,
        "topic": topics.events.name,
        "answers": topics.predictions.name,
        "from": reading.end_offsets(stand.settings, topics.predictions.name, stand.partitions),
        "events": str(path),
        "rate": rate,
    }


class _Visible:
    """Asks by SQL how far each partition has landed, again and again, and notes when it changed."""

    def __init__(self, stand: Stand) -> None:
        self._client = connect(stand.settings)
        self._seen: dict[int, tuple[list[int], list[float]]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        by_partition = "SELECT topic_partition, max(topic_offset) FROM scored GROUP BY 1"
        self._floors: dict[int, int] = dict(
            map(tuple, self._client.query(by_partition).result_rows)
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        floor = min(self._floors.values(), default=0)
        while not self._stop.wait(SQL_POLL_S):
            found = self._client.query(
                "SELECT topic_partition, max(topic_offset) FROM scored "
                "WHERE pipeline = 'flights' AND topic_offset > {floor:UInt64} GROUP BY 1",
                parameters={"floor": floor},
            ).result_rows
            now = time.time()
            for partition, offset in found:
                offsets, moments = self._seen.setdefault(partition, ([], []))
                if not offsets or offset > offsets[-1]:
                    offsets.append(offset)
                    moments.append(now)

    def since_s(self, partition: int, offset: int) -> float:
        """When an answer first held this place; at most one poll later than it was there."""
        offsets, moments = self._seen[partition]
        return moments[bisect.bisect_left(offsets, offset)]
