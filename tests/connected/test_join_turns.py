"""A stage with state, killed with SIGKILL at every named point: the journal and the state agree."""

import asyncio
import json
import os
import signal
import sys

from schemas.settings import Settings
from tests.connected.chaining import POINTS, link
from tests.connected.copying import make_topics, produce, read_all

PARTITIONS = 2


def start(options: dict, log):
    return asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.connected.chaining",
        json.dumps(options),
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


async def feed(kafka: str, topics: list[str], stop: asyncio.Event) -> int:
    """Values 0, 1, 2 ... on both topics until told to stop; how many on each."""
    count = 0
    while not stop.is_set():
        values = [b"%d" % i for i in range(count, count + 6)]
        for topic in topics:
            await produce(kafka, topic, values, partitions=PARTITIONS)
        count += len(values)
        await asyncio.sleep(0.1)
    return count


def check(journal: dict, count: int) -> str:
    """Every row once and in order per topic; each chain follows from the rows before it."""
    for partition, messages in journal.items():
        chain, seen = "", ([], [])
        for message in map(json.loads, messages):
            for topic, value in message["rows"]:
                chain = link(chain, topic, value)
                seen[topic].append(int(value))
            if chain != message["chain"]:
                return f"partition {partition}: a state that does not follow from the journal"
        expected = list(range(partition, count, PARTITIONS))
        if seen != (expected, expected):
            return f"partition {partition}: rows {tuple(map(len, seen))}, sent {len(expected)}"
    return ""


async def test_killed_at_every_point_the_state_follows_from_the_journal(kafka, tmp_path, unique):
    """
    Goal: the state after recovery is the one whose messages are visible, whatever died when.

    Method: a hash chain over two topics. How they were interleaved is free, but must stay what the
    visible messages say; a row lost, doubled or replayed in another order breaks the chain.
    """
    topics, target = [unique("left"), unique("right")], unique("journal")
    make_topics(Settings(kafka=kafka, home=tmp_path), *topics, target, partitions=PARTITIONS)
    options = {
        "kafka": kafka, "folder": str(tmp_path), "group": unique("chain"), "topics": topics,
        "target": target, "number": 3,
    }  # fmt: skip
    stop = asyncio.Event()
    feeding = asyncio.create_task(feed(kafka, topics, stop))
    with (tmp_path / "worker.log").open("wb") as log:
        for point in POINTS:
            number = 1 if point == "replay" else 3
            worker = await start(options | {"point": point, "number": number}, log)
            code = await asyncio.wait_for(worker.wait(), 90)
            assert code == -signal.SIGKILL, (point, (tmp_path / "worker.log").read_text())
        stop.set()
        count = await feeding
        worker = await start(options | {"point": "", "number": 0}, log)
        try:
            problem = "nothing read"
            for _ in range(60):
                problem = check(await read_all(kafka, target, partitions=PARTITIONS), count)
                if not problem or worker.returncode is not None:
                    break
                await asyncio.sleep(1.0)
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
    assert not problem, (problem, (tmp_path / "worker.log").read_text()[-4000:])
