"""Plugs the batch consumer into a Faust app."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import faust
from faust.transport.drivers import aiokafka as driver

from streams.transport.consumer import Consumer, PartitionOwner
from streams.transport.fetch import FetchOptions
from streams.transport.records import Drain

NAME = "tidemill_batch_topics"


class BatchSchema(faust.Schema[Any, Any]):
    """Hands a drain through as the event's value: there is no per-record codec."""

    def compile(
        self,
        app: Any,
        *,
        on_key_decode_error: Any = None,
        on_value_decode_error: Any = None,
        default_propagate: bool = False,
    ) -> Callable[..., Awaitable[Any]]:
        """The function that turns a `DrainMessage` into a Faust event."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = default_propagate) -> Any:
            value = message.value
            assert isinstance(value, Drain), type(value)
            return create_event(None, value, None, message)

        return decode


def install(
    app: faust.App,
    *,
    options: FetchOptions | None = None,
    in_flight_rows_max: int = 98_304,
    owner: PartitionOwner | None = None,
) -> None:
    """Make ``app`` deliver drains on its batch topics. Call it before any topic is declared.

    With an ``owner``, Faust commits no offset of a batch topic: the owner does.
    """
    topics: dict[str, bool] = {}
    setattr(app, NAME, topics)

    class AppConsumer(Consumer):
        @property
        def owned_topics(self) -> frozenset[str]:  # type: ignore[override]
            return frozenset(topics) if owner is not None else frozenset()

    AppConsumer.options = options or FetchOptions()
    AppConsumer.in_flight_rows_max = in_flight_rows_max
    AppConsumer.batch_topics = topics
    AppConsumer.owner = owner

    class AppTransport(driver.Transport):
        Consumer = AppConsumer
        driver_version = f"{driver.Transport.driver_version}+tidemill"

    app.transport = AppTransport(app.conf.broker_consumer, app)


class Stage(Protocol):
    """What works on drains and commits on its own."""

    async def take(self, drain: Drain, consumer: Any) -> None:
        """Take one drain over; it is acknowledged when its effects are durable."""

    async def commit_forever(self) -> None:
        """Commit what was taken, until cancelled."""


def attach_stage(app: faust.App, name: str, topics: Sequence[str], stage: Stage) -> None:
    """Make ``app`` hand every drain of ``topics`` to ``stage``, in an agent called ``name``."""
    source = batch_topic(app, *topics)

    @app.agent(source, name=name)
    async def agent(drains: Any) -> None:
        async for drain in drains.noack():
            await stage.take(drain, app.consumer)

    @app.task  # type: ignore[untyped-decorator]  # Faust's
    async def commit() -> None:
        await stage.commit_forever()


def batch_topic(app: faust.App, *names: str, headers: bool = False) -> Any:
    """A topic whose agent receives `Drain` events; several names make one stream of them.

    Raises:
        RuntimeError: `install` was not called for this app.
    """
    topics: dict[str, bool] | None = getattr(app, NAME, None)
    if topics is None:
        raise RuntimeError("could not declare a batch topic: call install(app) first")
    topics.update(dict.fromkeys(names, headers))
    topic = app.topic(*names, schema=BatchSchema(), internal=False)
    # Faust drops app.topic(maxsize=). Rows in flight are the bound here, so the queue never fills:
    # a full queue makes Faust pause partitions one by one and forget to resume them fairly.
    topic.maxsize = 1_000_000
    return topic
