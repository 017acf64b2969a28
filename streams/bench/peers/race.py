"""`peers`: Tidemill and other stream processors on the same broker, events, model and machine.

Everyone reads the same JSON, asks the same torch module and writes one JSON prediction per event.
Tidemill also writes the scored row with its features. Each runs alone, one process (PyFlink: one
Java and one Python process), and gets as many rows at once as it can take. Counts are checked after
each run: those that promise exactly once have to be exact, the others complete.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import SetupError
from streams.bench import latency, reading
from streams.bench.peers.environments import Environment, Peer, environment_of
from streams.bench.result import Goal, Result
from streams.bench.rivals.request import Request, environment
from streams.bench.sampling import Sampler, Window
from streams.bench.score import ours
from streams.bench.stand import Stand
from streams.local.child import ChildProcess

RATE_PER_S = 2_000
"""At which the time to the answer is measured."""
POLL_S = 0.1
LAST_S_MAX = 30.0
EDGE = 0.1
"""Share of the answers left out at each end: start-up, and the last batches."""


def run(stand: Stand, *, peers: Sequence[Peer], rows: int, seconds: float, folder: Path) -> Result:
    """Throughput of everyone in each guarantee, then the time to the answer at `RATE_PER_S`."""
    places = {peer.name: environment_of(peer, folder) for peer in peers}
    result = Result("peers", [])
    for delivery in ("at-least-once", "exactly-once"):
        before = stand.committed("score")
        prefix = stand.preload(rows)
        own, _ = ours(stand, delivery, rows=rows, prefix=prefix, committed=before + rows)
        result.results.append(own)
    source = stand.topic("peer-events")
    stand.copy_events(source, rows=rows)
    for peer in peers:
        for exactly in (False, True) if peer.rows_exactly_once else (False,):
            row = _throughput(
                stand, peer, places[peer.name], source=source, rows=rows, exactly=exactly
            )
            result.results.append(row)
            own = result.results[exactly]
            name = f"{peer.name}_exactly_once" if exactly else peer.name
            result.ratios[name] = own["rows_per_s"] / row["rows_per_s"]
            result.ratios[f"{name}_cpu"] = row["cpu_us_per_event"] / own["cpu_us_per_event"]
    result.goals = [Goal(f"ahead of {name}", ratio > 1.0) for name, ratio in result.ratios.items()]
    _at_a_rate(stand, peers, places, seconds=seconds, result=result)
    return result


def _at_a_rate(
    stand: Stand,
    peers: Sequence[Peer],
    places: dict[str, Environment],
    *,
    seconds: float,
    result: Result,
) -> None:
    """Nothing lands meanwhile: the others have no lander. The broker has been busy for minutes."""
    topics = stand.pipeline.topics
    with stand.workers("score", pipeline=stand.reference("at-least-once")) as children:
        stand.wait_running(children)
        row = latency.rival_row(
            stand,
            "score",
            children["score"],
            source=topics.events.name,
            sink=topics.predictions.name,
            rate=RATE_PER_S,
            seconds=seconds,
            warm_s=latency.WARM_S,
        )
    own = {"who": "tidemill", "guarantee": "at-least-once", **row}
    result.results.append(own)
    cores = own["cores"]["score"]
    for peer in peers:
        if peer.rows_at_once:
            row = _latency(stand, peer, places[peer.name], seconds=seconds)
            result.results.append(row)
            ratio = row["to_reader_ms"]["p50"] / own["to_reader_ms"]["p50"]
            result.ratios[f"{peer.name}_p50"] = ratio
            result.ratios[f"{peer.name}_cores"] = row["cores"][peer.name] / cores


@contextmanager
def _running(
    stand: Stand, peer: Peer, place: Environment, request: Request
) -> Iterator[ChildProcess]:
    child = ChildProcess(
        [str(place.python), "-P", "-m", f"streams.bench.peers.{peer.module}"],
        log=stand.settings.home / "logs" / f"{peer.name}-{request.group}.log",
        env={
            **os.environ,
            **stand.settings.environment(),
            **environment(request),
            **place.variables,
        },
    )
    try:
        yield child
    finally:
        child.stop(grace_s=5)


def _throughput(
    stand: Stand, peer: Peer, place: Environment, *, source: str, rows: int, exactly: bool
) -> dict[str, Any]:
    """One peer over the whole topic; the rate by the growth of what it wrote."""
    sink = stand.topic(f"{peer.name}-answers")
    request = stand.request(
        source=source,
        sink=sink,
        starts=[0] * stand.partitions,
        transactional=exactly,
        rows_max=peer.rows_exactly_once if exactly else peer.rows,
    )
    seen: list[tuple[float, int]] = []

    def done() -> bool:
        ends = reading.end_offsets(stand.settings, sink, stand.partitions)
        seen.append((time.time(), sum(ends)))
        return seen[-1][1] >= rows

    with (
        _running(stand, peer, place, request) as child,
        Sampler(
            stand.pids({peer.name: child}), trees=(peer.name,) if peer.processes else ()
        ) as sampler,
    ):
        stand.until(done, {peer.name: child}, what=f"{peer.name} has scored all", poll_s=POLL_S)
        _check(stand, peer, sink, rows=rows, exactly=exactly)
    over = _middle(seen, rows)
    return {
        "who": peer.name,
        "guarantee": "exactly-once" if exactly else peer.guarantee,
        "rows": rows,
        "rows_per_s": round(over.rows_per_s),
        "cpu_us_per_event": round(sampler.cpu_us(peer.name, over), 2),
        "broker_cpu_us_per_event": round(sampler.cpu_us("broker", over), 2),
        "resident_mib_max": round(max(sampler.resident[peer.name])),
        "cpu_slowdown": round(sampler.slowdown, 2),
    }


def _check(stand: Stand, peer: Peer, sink: str, *, rows: int, exactly: bool) -> None:
    """Every event has its answer, exactly one where that is promised.

    Ends of partitions count the marks of transactions, too: so the last rows may still be coming.
    """
    deadline = time.monotonic() + LAST_S_MAX
    while True:
        count, distinct, _, _ = reading.predictions(
            stand.settings, sink, [0] * stand.partitions, prefix="", stamped=False
        )
        if distinct == rows or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    assert distinct == rows, (peer.name, count, distinct, rows)
    assert count == rows or not exactly, (peer.name, count, rows)


def _middle(seen: Sequence[tuple[float, int]], rows: int) -> Window:
    """From the last look before the first tenth to the first look behind the last but one."""
    inner = [(t, n) for t, n in seen if EDGE * rows <= n <= (1 - EDGE) * rows]
    if len(inner) >= 2:
        (start_s, n0), (stop_s, n1) = inner[0], inner[-1]
    else:  # its batches are larger than that: all between its first and its last answer
        (start_s, n0) = next((t, n) for t, n in seen if n > 0)
        (stop_s, n1) = seen[-1]
    if n1 <= n0:
        raise SetupError("could not measure a rate: all answers came at once; give more --rows.")
    return Window(start_s, stop_s, n1 - n0)


def _latency(stand: Stand, peer: Peer, place: Environment, *, seconds: float) -> dict[str, Any]:
    source, sink = stand.topic("peer-live-events"), stand.topic("peer-live-answers")
    request = stand.request(
        source=source,
        sink=sink,
        starts=[0] * stand.partitions,
        rows_max=peer.rows_at_once,
        wait_ms=5,
    )
    with _running(stand, peer, place, request) as child:
        row = latency.rival_row(
            stand,
            peer.name,
            child,
            source=source,
            sink=sink,
            rate=RATE_PER_S,
            seconds=seconds,
            tree=peer.processes,
        )
    return {"who": peer.name, "guarantee": peer.guarantee, **row}
