"""`memory`: resident memory of every process over minutes of replay, and its slope."""

import asyncio
import threading
import time

import numpy as np

from streams.bench.result import Result
from streams.bench.sampling import Sampler
from streams.bench.stand import Stand
from streams.replay import Pace, Replay

RATE = 4_000
"""Events per second: steady work that leaves the machine air to breathe."""
SETTLE_SHARE = 0.3
"""The start is left out of the slope: pools and caches fill."""


def run(stand: Stand, *, minutes: float) -> Result:
    """Replay at a steady rate for ``minutes``; the slope is per hour."""
    rows = int(RATE * minutes * 60)
    prefix = f"m{int(time.time())}x"
    replay = Replay(
        stand.pipeline,
        stand.settings,
        stand.flights(rows, prefix=prefix),
        Pace(events_per_second=RATE),
    )
    earlier = stand.landed()
    with stand.workers("score", "land") as children:
        stand.wait_running(children)
        with Sampler(stand.pids(children), interval_s=1.0) as sampler:
            feed = threading.Thread(target=_run, args=(replay,), daemon=True)
            feed.start()
            feed.join()
            stand.until(lambda: stand.landed() >= earlier + rows, children, what="all landed")
    assert stand.rows(prefix) == (rows, rows), (stand.rows(prefix), rows)
    result = Result("memory", [])
    skip = int(len(sampler.times_s) * SETTLE_SHARE)
    hours = np.array(sampler.times_s[skip:]) / 3600
    hours -= hours[0]
    for name, found in sampler.resident.items():
        kept = np.array(found[skip : skip + len(hours)])
        slope = float(np.polyfit(hours[: len(kept)], kept, 1)[0])
        result.results.append(
            {
                "who": name,
                "rows": rows,
                "minutes": round(minutes, 1),
                "resident_mib_first": round(kept[0]),
                "resident_mib_last": round(kept[-1]),
                "resident_mib_max": round(float(kept.max())),
                "slope_mib_per_h": round(slope, 1),
            }
        )
    return result


def _run(replay: Replay) -> None:
    asyncio.run(replay.run())
