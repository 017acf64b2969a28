"""The learn worker under a seeded schedule: kills at named and random points, and a long sleep.

`pytest tests/chaos/test_learn_kills.py --rounds 50 --seed 7` repeats a longer schedule.
"""

import asyncio
import os
import random
import signal

import pytest

from streams.transport.administration import create_topics
from tests.connected.learning import POINTS, Feed, agrees, declare, settings_of, start

EXIT_S_MAX = 180.0
SLEEP_S = 5.0
"""Longer than the worker's session time-out of 3 s: the group gives its partitions away."""


@pytest.mark.slow
async def test_any_schedule_of_kills_ends_with_the_weights_of_an_uninterrupted_run(
    kafka, tmp_path, unique, rounds, seed
):
    """
    Goal: no schedule loses, doubles or reorders an example, and no zombie publishes.

    Method: each round kills one worker at a random point, or sends it to sleep while a second one
    takes over, and wakes it again. In the end both shards, weights and observer, are compared bit
    by bit with the same rows learned here in one go.
    """
    dice = random.Random(seed)
    settings = settings_of(kafka, tmp_path)
    file, pipeline = declare(tmp_path, unique("shop"))
    create_topics(settings, list(pipeline.topics.all()))
    feed = Feed(kafka, pipeline.topics.examples.name)
    feeding = asyncio.create_task(feed.run())
    schedule: list[str] = []
    log_file = tmp_path / "worker.log"
    with log_file.open("wb") as log:
        for index in range(rounds):
            # Before the first commit there is nothing to recover.
            point = dice.choice([*POINTS, "random", "sleep"]) if index else "committed"
            schedule.append(point)
            number = 1 if point == "replay" else dice.randint(1, 6)
            worker = await start(file, settings, log, point=point, number=number)
            if point in {"random", "sleep"}:
                await asyncio.sleep(dice.uniform(2.0, 9.0))
                assert worker.returncode is None, (schedule, log_file.read_text()[-4000:])
            if point == "sleep":
                os.kill(worker.pid, signal.SIGSTOP)
                other = await start(file, settings, log, point="committed", number=3, name="twin")
                await asyncio.sleep(SLEEP_S)
                os.kill(worker.pid, signal.SIGCONT)
                await asyncio.wait_for(other.wait(), EXIT_S_MAX)
                assert other.returncode == -signal.SIGKILL, schedule
            if point in {"random", "sleep"} and worker.returncode is None:
                worker.kill()
            await asyncio.wait_for(worker.wait(), EXIT_S_MAX)
        feed.stop.set()
        await feeding
        worker = await start(file, settings, log)
        try:
            problem = await agrees(settings, pipeline, feed, worker=worker)
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
    print(f"seed={seed} schedule={schedule} messages={feed.sent}")
    assert not problem, (problem, seed, schedule, log_file.read_text()[-4000:])
