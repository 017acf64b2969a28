"""`tidemill doctor` on the servers: whether they answer, and hold what the pipelines need."""

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from streams.cli.checks import Check, tried
from streams.cli.console import without_password

if TYPE_CHECKING:
    from schemas.settings import Settings
    from streams.local.home import Stack

DEADLINE_S = 10.0
CLOCKS_APART_MS_MAX = 5_000
"""More, and ages, delays and the windows of quality in SQL are off."""


def check_servers(settings: "Settings", stack: "Stack | None") -> Iterator[Check]:
    """One check for each server, topic and model that is known."""
    from streams.store.client import connect

    if stack is None and not settings.kafka and not settings.clickhouse:
        yield Check(
            name="servers", ok=True, found=f"nothing runs on {settings.home}: try `tidemill demo`"
        )
        return

    def version() -> str:
        client = connect(settings, database="default")
        try:
            return f"{without_password(settings.clickhouse)}, version {client.server_version}"
        finally:
            client.close()

    restart = "Look at the end of its log in TIDEMILL_HOME/logs; start `tidemill up` again."
    if settings.clickhouse:
        store = tried("clickhouse", version, "" if stack is None else restart)
        yield store
        if store.ok:
            yield tried("clocks", lambda: _clocks(settings), "Let NTP keep both clocks.")
    if settings.kafka:
        kafka = tried("kafka", lambda: _kafka(settings), "" if stack is None else restart)
        yield kafka
        for reference in stack.pipelines if kafka.ok and stack is not None else ():
            yield tried("topics", lambda r=reference: _topics(settings, r))  # type: ignore[misc]
            yield tried(  # a lambda's default has no place for its type
                "model",
                lambda r=reference: _model(settings, r),  # type: ignore[misc]
                f"Run `tidemill train {reference} --promote`.",
            )


def _clocks(settings: "Settings") -> str:
    """How far the store's clock is from ours.

    Raises:
        SetupError: more than `CLOCKS_APART_MS_MAX`.
    """
    from schemas.errors import SetupError
    from streams.store.client import connect

    client = connect(settings, database="default")
    try:
        began_ms = time.time() * 1000
        answer = client.query("SELECT toUnixTimestamp64Milli(now64(3))").result_rows[0][0]
        middle_ms = (began_ms + time.time() * 1000) / 2
    finally:
        client.close()
    apart_ms = int(answer) - middle_ms
    if abs(apart_ms) > CLOCKS_APART_MS_MAX:
        raise SetupError(f"the store's clock is {apart_ms / 1000:+.1f} s from this machine's")
    return f"the store's is {apart_ms:+.0f} ms from this machine's"


def _kafka(settings: "Settings") -> str:
    from streams.books.committed import CommittedReader

    async def reach() -> None:
        async with CommittedReader(settings, deadline_s=DEADLINE_S):
            return

    asyncio.run(reach())
    return settings.kafka


def _topics(settings: "Settings", reference: str) -> str:
    from schemas.errors import PreflightError
    from schemas.loading import load_pipeline
    from streams.books.committed import CommittedReader

    pipeline = load_pipeline(reference)

    async def count() -> None:
        async with CommittedReader(settings, deadline_s=DEADLINE_S) as reader:
            for topic in pipeline.topics.all():
                found = len(await reader.spans(topic.name))
                if found != topic.partitions:
                    raise PreflightError(
                        f"topic {topic.name} has {found} partitions; {pipeline.source} declares "
                        f"{topic.partitions}. Declare {found}."
                    )

    asyncio.run(count())
    return f"{len(pipeline.topics.all())} of {pipeline.name}, {pipeline.partitions} partitions each"


def _model(settings: "Settings", reference: str) -> str:
    from models.registry import open_registry
    from schemas.errors import ModelError
    from schemas.loading import load_pipeline
    from streams.control.announce import champion

    name = load_pipeline(reference).name
    announced = asyncio.run(champion(settings, name))
    if announced is None:
        raise ModelError(f"no version of {name} has been announced")
    manifest = open_registry(settings).manifest(name, announced.version, digest=announced.digest)
    quality = manifest.metrics.get("model")
    judged = f", AUC {quality.auc:.4f} on {quality.rows} later events" if quality else ""
    return f"{name} is answered by {announced.version}, epoch {announced.epoch}{judged}"
