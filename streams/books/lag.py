"""How far behind each step of a pipeline is: the records that its group has still before it."""

import asyncio
from typing import Any, Self

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.errors import KafkaUnavailable
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from schemas.topics import Topic
from streams.books.balance import join_group, learn_group
from streams.books.committed import CommittedReader
from streams.books.reconcile import land_group, score_group


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of one topic, as one group is on it.

    Attributes:
        topic: The topic.
        partition: Its partition.
        committed: The next offset the group will read; None if it never committed.
        end: The next offset that will be written.
        lag: Records in between. A marker of a transaction, which nobody commits, is not counted.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int


def steps(pipeline: Pipeline) -> dict[str, tuple[str, tuple[Topic, ...]]]:
    """Group and topics of each step, in the order in which data passes them."""
    topics, name = pipeline.topics, pipeline.name
    return {
        "score": (score_group(name), (topics.events, topics.labels)),
        "join": (join_group(name), (topics.scored, topics.labels)),
        "learn": (learn_group(name), (topics.examples,)),
        "land": (land_group(name), topics.landed),
    }


class LagReader:
    """Two connections that are kept, so that asking again costs a few requests.

    Use it as an asynchronous context manager.

    Raises:
        KafkaUnavailable: no broker answered within ``deadline_s``.
    """

    def __init__(self, settings: Settings, *, deadline_s: float = 5.0) -> None:
        """Name the cluster; nothing is connected yet."""
        self._settings = settings
        self._deadline_s = deadline_s
        self._reader = CommittedReader(settings, deadline_s=deadline_s)
        self._admin: Any = None

    async def __aenter__(self) -> Self:
        await self._reader.__aenter__()
        self._admin = AIOKafkaAdminClient(
            **self._settings.kafka_client_options(),
            request_timeout_ms=int(self._deadline_s * 1000),
        )
        try:
            await asyncio.wait_for(self._admin.start(), self._deadline_s)
        except (KafkaError, TimeoutError) as cause:
            await self.__aexit__()
            raise KafkaUnavailable(
                f"could not reach Kafka: {cause!r}; kafka={self._settings.kafka}"
            ) from cause
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._admin.close()
        await self._reader.__aexit__(*reason)

    async def read(self, pipeline: Pipeline) -> dict[str, list[Behind]]:
        """Where each step is on each partition of its topics.

        Committed offsets are read before the ends: a lag may be too large by what came meanwhile,
        and is never too small.

        Raises:
            KafkaUnavailable: no broker answered in time.
            PreflightError: a topic does not exist.
        """
        all_steps = steps(pipeline)
        names = sorted({topic.name for _group, topics in all_steps.values() for topic in topics})
        plain = {pipeline.topics.events.name, pipeline.topics.labels.name}
        try:
            async with asyncio.timeout(self._deadline_s):
                done = {
                    role: await self._admin.list_consumer_group_offsets(group)
                    for role, (group, _topics) in all_steps.items()
                }
                spans = await self._reader.spans_of(names)
        except (KafkaError, TimeoutError) as cause:
            raise KafkaUnavailable(
                f"could not read how far {pipeline.name} is: {cause!r}; "
                f"kafka={self._settings.kafka}"
            ) from cause
        found: dict[str, list[Behind]] = {}
        for role, (_group, topics) in all_steps.items():
            offsets = {
                (tp.topic, tp.partition): entry.offset
                for tp, entry in done[role].items()
                if entry.offset >= 0
            }
            found[role] = [
                Behind(
                    topic=topic.name,
                    partition=p,
                    committed=offsets.get((topic.name, p)),
                    end=span.end,
                    lag=max(
                        0,
                        span.end
                        - (topic.name not in plain)
                        - offsets.get((topic.name, p), span.first),
                    ),
                )
                for topic in topics
                for p, span in spans[topic.name].items()
            ]
        return found
