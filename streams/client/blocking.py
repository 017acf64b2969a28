"""`Client`: the same without ``await``, also where a loop runs already, as in notebooks."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from streams.client.asking import ROWS_MAX, SECONDS_MAX
from streams.client.asynchronous import PREDICTIONS_MAX, AsyncClient
from streams.client.following import BUFFER_ROWS_MAX, Follower, Start

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.pipeline import Pipeline
    from schemas.predictions import Prediction
    from schemas.settings import Settings
    from streams.client.sending import Position

T = TypeVar("T")


class Client:
    """Sends events and labels of one pipeline, follows its predictions, asks the store.

    Every method is that of `AsyncClient` with the same promises, run on a thread of its own. Ctrl-C
    ends a call. Threads may share a client; their sends wait for each other.

    Args:
        pipeline: The declaration: a ready one by name (``flights``), a ``.py`` file, or the
            object. None: only `query` works.
        settings: Where the servers are. None: ``TIDEMILL_*``, and what they leave out from the
            ``tidemill up`` that runs on the home.
        deadline_s: For each chunk of 8,192 records until all replicas have acknowledged it.

    Raises:
        PipelineError: the declaration cannot be loaded.
        SettingsError: a variable has a value that cannot be used.
    """

    def __init__(
        self,
        pipeline: "Pipeline | str | None" = None,
        *,
        settings: "Settings | None" = None,
        deadline_s: float = 30.0,
    ) -> None:
        self._inner = AsyncClient(pipeline, settings=settings, deadline_s=deadline_s)
        self._thread = _LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._thread.result(self._inner.close())
        self._thread.stop()

    def send_events(self, events: Iterable[Mapping[str, Any]]) -> "list[Position]":
        """See `AsyncClient.send_events`."""
        return self._thread.result(self._inner.send_events(events))

    def send_labels(self, labels: Iterable[Mapping[str, Any]]) -> "list[Position]":
        """See `AsyncClient.send_labels`."""
        return self._thread.result(self._inner.send_labels(labels))

    def follow(
        self,
        *,
        start: Start = "latest",
        idle_s_max: float | None = None,
        buffer_rows_max: int = BUFFER_ROWS_MAX,
    ) -> "BlockingFollower":
        """See `AsyncClient.follow`; use ``with``."""
        follower = self._inner.follow(
            start=start, idle_s_max=idle_s_max, buffer_rows_max=buffer_rows_max
        )
        return BlockingFollower(self._thread, follower)

    def predictions(
        self, *, start: Start = "earliest", rows_max: int = PREDICTIONS_MAX
    ) -> "pa.Table":
        """See `AsyncClient.predictions`."""
        return self._thread.result(self._inner.predictions(start=start, rows_max=rows_max))

    def query(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        rows_max: int = ROWS_MAX,
        seconds_max: int = SECONDS_MAX,
    ) -> "pa.Table":
        """See `AsyncClient.query`."""
        return self._thread.result(
            self._inner.query(sql, parameters, rows_max=rows_max, seconds_max=seconds_max)
        )


class BlockingFollower:
    """`Follower` without ``await``.

    with client.follow(start="latest", idle_s_max=5) as follower:
        for prediction in follower:
            ...
    """

    def __init__(self, thread: "_LoopThread", follower: Follower) -> None:
        self._thread = thread
        self._follower = follower

    @property
    def offsets(self) -> dict[int, int]:
        """See `Follower.offsets`."""
        return self._follower.offsets

    def __enter__(self) -> Self:
        self._thread.result(self._follower.__aenter__())
        return self

    def __exit__(self, *reason: object) -> None:
        self._thread.result(self._follower.close())

    def __iter__(self) -> Iterator["Prediction"]:
        """One prediction after the other."""
        while self._follower.buffered or self._thread.result(_goes_on(self._follower)):
            yield self._follower.take()

    def run(self) -> "list[Prediction]":
        """See `Follower.run`; empty where that one raises `StopAsyncIteration`."""
        if self._follower.buffered or self._thread.result(_goes_on(self._follower)):
            return self._thread.result(self._follower.run())
        return []


async def _goes_on(follower: Follower) -> bool:
    """Whether there is more; `StopAsyncIteration` cannot cross a future."""
    try:
        await follower.fill()
    except StopAsyncIteration:
        return False
    return True


class _LoopThread:
    """An event loop on a thread, started when it is first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="tidemill-client", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: what was asked for must not go on unseen
            future.cancel()
            raise

    def stop(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
