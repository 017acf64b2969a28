"""A query with a bar while it runs, and with Ctrl-C that ends it in the store as well."""

import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.store.client import Client

QUIET_S = 0.7
"""A query that is answered within this time shows no bar."""
STEP_S = 0.25

_FAR = (
    "SELECT read_rows, total_rows_approx, elapsed, memory_usage FROM system.processes "
    "WHERE query_id = {id:String}"
)


def ask(
    client: "Client", query: str, *, parameters: dict[str, str], settings: dict[str, str]
) -> Any:
    """The answer of ``client.query``; on a terminal with a bar on stderr while it is waited for.

    Raises:
        KeyboardInterrupt: after the query was ended in the store.
    """
    if not sys.stderr.isatty():
        return client.query(query, parameters=parameters or None, settings=settings)
    query_id = settings.get("query_id", str(uuid.uuid4()))
    chosen: dict[str, Any] = {**settings, "query_id": query_id}
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.query, query, parameters=parameters or None, settings=chosen)
        try:
            if not _done(answer, QUIET_S):
                with _bar() as show:
                    while not _done(answer, STEP_S):
                        with suppress(Exception):  # a bar that fails must not fail the query
                            show(client.query(_FAR, parameters={"id": query_id}).first_row)
        except KeyboardInterrupt:
            with suppress(Exception):
                client.command(
                    "KILL QUERY WHERE query_id = {id:String} ASYNC", parameters={"id": query_id}
                )
            raise
        return answer.result()


def _done(answer: "Future[Any]", wait_s: float) -> bool:
    done = threading.Event()
    answer.add_done_callback(lambda _: done.set())
    return done.wait(wait_s)


@contextmanager
def _bar() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("running, Ctrl-C ends it", total=None)
        began_s = time.monotonic()

        def show(row: tuple[int, int, float, int] | None) -> None:
            if row:
                read, total, _elapsed, memory = row
                speed = read / max(time.monotonic() - began_s, 1e-3)
                told = f"{read:,} rows read, {speed:,.0f}/s, {memory >> 20:,} MiB"
                progress.update(task, description=told, completed=read, total=total or None)

        yield show
