"""A stage with state under a seeded schedule: kills at named and random points, and a long sleep.

`pytest tests/chaos/test_join_kills.py --rounds 50 --seed 7` repeats a longer schedule.
"""

import asyncio
import os
import random
import signal

import pytest

from schemas.settings import Settings
from tests.connected.chaining import POINTS
from tests.connected.copying import make_topics, read_all
from tests.connected.test_join_turns import PARTITIONS, check, feed, start

EXIT_S_MAX = 120.0
SLEEP_S = 5.0
"""Longer than the worker's session time-out of 3 s: the group gives its partitions away."""


@pytest.mark.slow
async def test_any_schedule_of_kills_leaves_state_and_journal_in_step(
    kafka, tmp_path, unique, rounds, seed
):
    """
    Goal: no schedule loses, doubles or reorders a row in the state or in its journal.

    Method: each round kills one worker at a random point, or sends it to sleep while a second one
    takes over. The chain in each visible message must follow from the visible rows before it.
    """
    dice = random.Random(seed)
    topics, target = [unique("left"), unique("right")], unique("journal")
    make_topics(Settings(kafka=kafka, home=tmp_path), *topics, target, partitions=PARTITIONS)
    options = {
        "kafka": kafka, "folder": str(tmp_path), "group": unique("chain"), "topics": topics,
        "target": target,
    }  # fmt: skip
    stop = asyncio.Event()
    feeding = asyncio.create_task(feed(kafka, topics, stop))
    schedule: list[str] = []
    with (tmp_path / "worker.log").open("wb") as log:
        for index in range(rounds):
            # Before the first commit there is nothing to replay.
            point = dice.choice([*POINTS, "random", "sleep"]) if index else "committed"
            schedule.append(point)
            number = 1 if point == "replay" else dice.randint(1, 9)
            worker = await start(options | {"point": point, "number": number}, log)
            if point in {"random", "sleep"}:
                await asyncio.sleep(dice.uniform(2.0, 9.0))
                assert worker.returncode is None, (schedule, (tmp_path / "worker.log").read_text())
            if point == "sleep":
                os.kill(worker.pid, signal.SIGSTOP)
                twin = options | {"name": "twin", "point": "committed", "number": 5}
                other = await start(twin, log)
                await asyncio.sleep(SLEEP_S)
                os.kill(worker.pid, signal.SIGCONT)
                await asyncio.wait_for(other.wait(), EXIT_S_MAX)
                assert other.returncode == -signal.SIGKILL, schedule
            if point in {"random", "sleep"} and worker.returncode is None:
                worker.kill()
            await asyncio.wait_for(worker.wait(), EXIT_S_MAX)
        stop.set()
        count = await feeding
        worker = await start(options | {"point": "", "number": 0}, log)
        problem = "nothing read"
        for _ in range(60):
            problem = check(await read_all(kafka, target, partitions=PARTITIONS), count)
            if not problem:
                break
            await asyncio.sleep(1.0)
        worker.kill()
        await worker.wait()
    print(f"seed={seed} schedule={schedule} rows={2 * count}")
    assert not problem, (problem, seed, schedule, (tmp_path / "worker.log").read_text()[-4000:])
