"""The learn worker, killed with SIGKILL: in the end it knows what one knows that never stopped."""

import asyncio

import pytest

from streams.transport.administration import create_topics
from tests.connected.learning import Feed, agrees, declare, settings_of
from tests.connected.nursery import Nursery

EXIT_S_MAX = 60.0


@pytest.mark.timeout(400)
async def test_killed_at_any_point_it_ends_with_the_weights_of_an_uninterrupted_run(
    kafka, tmp_path, unique
):
    """
    Goal: every example is learned once; weights and observer are those of a fold over the log.

    Method: examples keep coming while one worker after the other dies: before its transaction
    ends, as it offers what it learned, and while it recovers; `tests/chaos` has more points. Both
    shards are compared bit by bit with the same rows learned here, in one go, from the topic.
    """
    settings = settings_of(kafka, tmp_path)
    file, pipeline = declare(tmp_path, unique("shop"))
    create_topics(settings, list(pipeline.topics.all()))
    feed = Feed(kafka, pipeline.topics.examples.name)
    feeding = asyncio.create_task(feed.run())
    async with Nursery("learn") as nursery:
        for point, number in (("offsets", 3), ("offer", 1), ("replay", 1)):
            worker = await nursery.learn(file, settings, point=point, number=number)
            await worker.gone(limit_s=EXIT_S_MAX)
            assert not worker.ended_itself, (point, worker.log)
        feed.stop.set()
        await feeding
        worker = await nursery.learn(file, settings)
        problem = await agrees(settings, pipeline, feed, worker=worker)
        assert not problem, (problem, worker.log)
