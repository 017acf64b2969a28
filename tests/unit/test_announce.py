"""Which announcement counts."""

import msgspec

from schemas.manifest import Announcement
from streams.announce import newest


def test_the_highest_epoch_of_the_pipeline_counts() -> None:
    """The topic may hold other pipelines, tombstones and what we cannot read."""

    def told(name: str, epoch: int) -> bytes:
        return msgspec.json.encode(
            Announcement(pipeline=name, version="v", digest="d", epoch=epoch, announced_at_ms=1)
        )

    assert newest([], "a") is None
    found = newest([told("a", 3), None, b"{", told("b", 9), told("a", 2)], "a")
    assert found is not None
    assert found.epoch == 3
