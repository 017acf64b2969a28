"""The learn worker, killed with SIGKILL: in the end it knows what one knows that never stopped."""

import asyncio
import signal

import pytest

from streams.transport.administration import create_topics
from tests.connected.learning import Feed, agrees, declare, settings_of, start

EXIT_S_MAX = 150.0


@pytest.mark.timeout(900)  # four imports of River, on a saturated machine
async def test_killed_at_any_point_it_ends_with_the_weights_of_an_uninterrupted_run(
    kafka, tmp_path, unique
):
    """
    Goal: every example is learned once; weights and observer are those of a fold over the log.

    Method: examples keep coming while one worker after the other dies: before its transaction
    ends, right after it, and while it recovers; `tests/chaos` has more points. Both shards are compared bit by
    bit with the same rows learned here, in one go, from what is in the topic.
    """
    settings = settings_of(kafka, tmp_path)
    file, pipeline = declare(tmp_path, unique("shop"))
    create_topics(settings, list(pipeline.topics.all()))
    feed = Feed(kafka, pipeline.topics.examples.name)
    feeding = asyncio.create_task(feed.run())
    log_file = tmp_path / "worker.log"
    with log_file.open("wb") as log:
        for point, number in (("offsets", 3), ("committed", 3), ("replay", 1)):
            worker = await start(file, settings, log, point=point, number=number)
            code = await asyncio.wait_for(worker.wait(), EXIT_S_MAX)
            assert code == -signal.SIGKILL, (point, log_file.read_text()[-4000:])
        feed.stop.set()
        await feeding
        worker = await start(file, settings, log)
        try:
            problem = await agrees(settings, pipeline, feed, worker=worker)
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
    assert not problem, (problem, log_file.read_text()[-4000:])
