"""Our own transport with nothing behind it: a Faust agent that counts what its drains hold."""

import asyncio
import os
from typing import Any

from schemas.settings import Settings
from streams.bench.rivals.request import Progress, read_request
from streams.transport.app import build_app
from streams.transport.driver import batch_topic


def main() -> None:
    """Count until all is read."""
    asyncio.run(_main())


async def _main() -> None:
    request = read_request()
    wanted = sum(request.ends) - sum(request.starts)
    progress, done = Progress(), asyncio.Event()
    app = build_app(Settings.from_environment(), group=request.group, owner=None)
    source = batch_topic(app, request.source)

    @app.agent(source, name="count")
    async def count(drains: Any) -> None:
        async for drain in drains.noack():
            progress.add(len(drain), sum(sum(map(len, run.values)) for run in drain))
            drain.acknowledge(app.consumer)
            if progress.rows >= wanted:
                done.set()

    await app.start()
    await done.wait()
    progress.write(request)
    os._exit(0)  # it was read, and leaving the group in order is not what is measured


if __name__ == "__main__":
    main()
