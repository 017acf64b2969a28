"""`rescore`: predictions of one stream, answered by three versions in turn, made again bit for bit.

The three versions say different things, so that a row which names the wrong one is found out.
"""

import asyncio
import threading
import time

import msgspec
import psutil

from models.registry import open_registry
from streams.bench.result import Goal, Result
from streams.bench.stand import PIPELINE, Stand
from streams.control.announce import announce
from streams.decisions.rescoring import Rescoring
from streams.replay import Pace, Replay

VERSIONS = 3
RATE_PER_S = 5_000
BIAS = 0.05
"""Log-odds between one version and the next."""


def run(stand: Stand, *, rows: int) -> Result:
    """Score ``rows`` events, announce the next version after each third, and compare."""
    versions = _versions(stand)
    _announce(stand, versions[0])
    table = stand.flights(rows, prefix=f"r{int(time.time())}x")
    pace = Pace(events_per_second=min(RATE_PER_S, rows / VERSIONS))
    replay = Replay(stand.pipeline, stand.settings, table, pace)
    with stand.workers("score") as children:
        stand.wait_running(children)
        feed = threading.Thread(target=lambda: asyncio.run(replay.run()), daemon=True)
        feed.start()
        for number, version in enumerate(versions[1:], start=1):
            due = number * rows // VERSIONS
            stand.until(
                lambda due=due: stand.committed("score") >= due,  # type: ignore[misc]
                children,
                what=f"{due} scored",
            )
            _announce(stand, version)
        feed.join()
        stand.until(lambda: stand.committed("score") >= rows, children, what="all scored")
    before, started = _resident_mib(), time.monotonic()
    found = asyncio.run(Rescoring(stand.pipeline, stand.settings).run(first=0, last=None))
    seconds = time.monotonic() - started
    result = Result(
        "rescore",
        [
            {
                "rows": found.rows,
                "equal": found.equal,
                "not_published": found.not_published,
                "difference_max": found.difference_max,
                "versions": len(found.versions),
                "switches": found.switches,
                "seconds": round(seconds, 1),
                "rows_per_s": round(found.rows / seconds),
                "grown_mib": round(_resident_mib() - before),
            }
        ],
    )
    result.goals = [
        Goal(f"all {rows:,} equal bit for bit", found.exact and found.rows == rows),
        Goal("across two swaps", len(found.versions) == VERSIONS),
    ]
    return result


def _versions(stand: Stand) -> list[tuple[str, str]]:
    """The stand's model, and copies that are more sure of a yes."""
    registry = open_registry(stand.settings)
    manifest, module = registry.load(PIPELINE, stand.version)
    found = []
    for number in range(VERSIONS):
        state = {name: value.clone() for name, value in module.state_dict().items()}
        last = max(name for name in state if name.endswith("bias"))
        state[last] += number * BIAS
        manifest = msgspec.structs.replace(manifest, seed=2000 + number)
        found.append(registry.publish(manifest, state))
    return found


def _announce(stand: Stand, named: tuple[str, str]) -> None:
    version, digest = named
    now_ms = time.time_ns() // 1_000_000
    announce(stand.settings, pipeline=PIPELINE, version=version, digest=digest, now_ms=now_ms)


def _resident_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)
