"""The learn worker under a seeded schedule: kills at named and random points, and a long sleep.

`pytest tests/chaos/test_learn_kills.py --rounds 50 --seed 7` repeats a longer schedule.
"""

import asyncio
import os
import random
import signal

import pytest

from streams.transport.administration import create_topics
from tests.connected.learning import POINTS, Feed, agrees, declare, settings_of
from tests.connected.nursery import Nursery

EXIT_S_MAX = 60.0
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
    async with Nursery("learn") as nursery:
        for index in range(rounds):
            # Before the first commit there is nothing to recover.
            point = dice.choice([*POINTS, "random", "random", "sleep"]) if index else "committed"
            schedule.append(point)
            number = 1 if point in {"replay", "snapshot", "offer"} else dice.randint(1, 6)
            worker = await nursery.learn(file, settings, point=point, number=number)
            if point in {"random", "sleep"}:
                await asyncio.sleep(dice.uniform(0.0, 8.0))
                assert worker.alive, (schedule, worker.log)
            if point == "sleep":
                os.kill(worker.pid, signal.SIGSTOP)
                twin = await nursery.learn(file, settings, point="committed", number=3, name="twin")
                await asyncio.sleep(SLEEP_S)
                os.kill(worker.pid, signal.SIGCONT)
                await twin.gone(limit_s=EXIT_S_MAX)
                assert not twin.ended_itself, (schedule, twin.log)
            if point in {"random", "sleep"} and worker.alive:
                os.kill(worker.pid, signal.SIGKILL)
            await worker.gone(limit_s=EXIT_S_MAX)
            # Only a sleeper may end by itself: it finds its place taken.
            assert point == "sleep" or not worker.ended_itself, (schedule, worker.log)
        feed.stop.set()
        await feeding
        worker = await nursery.learn(file, settings)
        problem = await agrees(settings, pipeline, feed, worker=worker)
        assert not problem, (problem, seed, schedule, worker.log)
    print(f"seed={seed} kills={len(schedule)} schedule={schedule} messages={feed.sent}")
