"""`swap`: three scorers under load change their model again and again; what it costs, and whether
anything is lost, doubled or mixed.

Each swap announces a version that the workers do not have in memory: they load it, warm it and
switch. Everything is read off the scored rows afterwards: which version answered which offset, when
the broker had the event, and when it was answered. Both times are of one machine's clock.
"""

import asyncio
import contextlib
import threading
import time

import msgspec
import numpy as np
import pyarrow as pa

from models.registry import open_registry
from schemas.scored import read_scored
from streams.bench.result import Goal, Result
from streams.bench.sampling import Sampler
from streams.bench.stand import PIPELINE, Stand
from streams.books.committed import CommittedReader
from streams.control.announce import announce
from streams.replay import Pace, Replay

WORKERS = 3
RATE = 500
"""Events per second: work for three processes on two cores that leaves air to load a model."""
VERSIONS = 5
"""More than stay in memory, so that each swap loads."""
REST_S = 2.0
"""Between two swaps: one second that counts as the swap's, and one to compare it with."""
AFTER_S = 5.0


def run(stand: Stand, *, swaps: int) -> Result:
    """Announce ``swaps`` versions, one every `REST_S` seconds."""
    versions = _copies(stand)
    rows = int(RATE * (swaps * (REST_S + 1.0) + AFTER_S))
    replay = Replay(
        stand.pipeline,
        stand.settings,
        stand.flights(rows, prefix=f"s{int(time.time())}x"),
        Pace(events_per_second=RATE),
    )
    announced: list[tuple[int, str]] = []
    with contextlib.ExitStack() as stack:
        children = {
            f"score-{i}": stack.enter_context(stand.workers("score"))["score"]
            for i in range(WORKERS)
        }
        stand.wait_running(children)
        with Sampler(stand.pids(children), interval_s=1.0) as sampler:
            feed = threading.Thread(target=lambda: asyncio.run(replay.run()), daemon=True)
            feed.start()
            time.sleep(AFTER_S)
            for number in range(swaps):
                version, digest = versions[number % VERSIONS]
                now_ms = time.time_ns() // 1_000_000
                announced.append((now_ms, version))
                announce(
                    stand.settings, pipeline=PIPELINE, version=version, digest=digest, now_ms=now_ms
                )
                time.sleep(max(0.0, REST_S - (time.time() - now_ms / 1000)))
            feed.join()
            stand.until(lambda: stand.committed("score") >= rows, children, what="all scored")
    found = asyncio.run(_scored(stand))
    result = Result("swap", [_figures(found, announced, sent=rows) | _memory(sampler)])
    _add_goals(result)
    return result


def _copies(stand: Stand) -> list[tuple[str, str]]:
    """The stand's model under several names."""
    registry = open_registry(stand.settings)
    manifest, module = registry.load(PIPELINE, stand.version)
    return [
        registry.publish(msgspec.structs.replace(manifest, seed=1000 + i), module.state_dict())
        for i in range(VERSIONS)
    ]


async def _scored(stand: Stand) -> pa.Table:
    """Place, version and times of every scored row, in the order of the events of a partition."""
    names = ["source_partition", "source_offset", "model_version", "produced_at", "predicted_at"]
    batches = []
    topic = stand.pipeline.topics.scored.name
    async with CommittedReader(stand.settings) as reader:
        async for _partition, records in reader.read(topic, await reader.decided_spans(topic)):
            batches += [read_scored(record.value).select(names) for record in records]
    table = pa.Table.from_batches(batches)
    return table.sort_by([("source_partition", "ascending"), ("source_offset", "ascending")])


def _figures(
    found: pa.Table, announced: list[tuple[int, str]], *, sent: int
) -> dict[str, float | int]:
    partition = found["source_partition"].to_numpy()
    place = partition.astype(np.int64) << 40 | found["source_offset"].to_numpy()
    distinct = len(np.unique(place))
    answered_ms = found["predicted_at"].cast(pa.int64()).to_numpy()
    waited_ms = answered_ms - found["produced_at"].cast(pa.int64()).to_numpy()
    versions = np.array(found["model_version"].to_pylist())
    to_all_ms = []
    in_swap = np.zeros(len(place), np.bool_)
    for at_ms, version in announced:
        firsts = [
            answered_ms[(partition == p) & (versions == version) & (answered_ms >= at_ms)]
            for p in np.unique(partition)
        ]
        to_all_ms.append(max(float(first.min()) - at_ms for first in firsts if len(first)))
        in_swap |= (answered_ms >= at_ms) & (answered_ms < at_ms + 1000)
    within = (answered_ms >= announced[0][0]) & (
        answered_ms < announced[-1][0] + int(REST_S * 1000)
    )
    switched = (versions[1:] != versions[:-1]) & (partition[1:] == partition[:-1])
    same_batch = (answered_ms[1:] == answered_ms[:-1]) & (partition[1:] == partition[:-1])
    calm, busy = waited_ms[within & ~in_swap], waited_ms[in_swap]
    return {
        "swaps": len(announced),
        "workers": WORKERS,
        "events": sent,
        "announce_to_all_p50_s": round(float(np.quantile(to_all_ms, 0.5)) / 1000, 3),
        "announce_to_all_p95_s": round(float(np.quantile(to_all_ms, 0.95)) / 1000, 3),
        "p99_ms": round(float(np.quantile(calm, 0.99)), 1),
        "swap_p99_ms": round(float(np.quantile(busy, 0.99)), 1),
        "added_p99_ms": round(float(np.quantile(busy, 0.99) - np.quantile(calm, 0.99)), 1),
        "lost": sent - distinct,
        "doubled": len(place) - distinct,
        "mixed": int((switched & same_batch).sum()),
    }


def _memory(sampler: Sampler) -> dict[str, float]:
    """Resident memory of the scorers together, after the first fifth and at the end."""
    series = [found for name, found in sampler.resident.items() if name.startswith("score")]
    length = min(map(len, series))
    total = np.sum([found[:length] for found in series], axis=0)
    first = total[length // 5 : length // 5 + 3].mean()
    return {
        "resident_mib_first": round(float(first)),
        "resident_mib_last": round(float(total[-3:].mean())),
    }


def _add_goals(result: Result) -> None:
    found = result.results[0]
    grown = found["resident_mib_last"] - found["resident_mib_first"]
    result.goals += [
        Goal("announce to all workers, p95 <= 5 s", found["announce_to_all_p95_s"] <= 5.0),
        Goal("added to p99 in the second of a swap <= 50 ms", found["added_p99_ms"] <= 50.0),
        Goal(
            "nothing lost, doubled or mixed",
            found["lost"] == found["doubled"] == found["mixed"] == 0,
        ),
        Goal("memory flat (+5 %)", grown <= 0.05 * found["resident_mib_first"]),
    ]
