"""A connection that the broker has closed is an error of the connection, on uvloop, too.

asyncio ignores what is written to a closed connection, or raises `OSError`; uvloop raises
`RuntimeError`. aiokafka 0.14 expects only the first two. The third ends its fetching, or its place
in the group, for good: the worker says that it runs, sends its heartbeats and gets no record more.

Remove this file when aiokafka expects it, too (upstream issue 1038).
"""

import functools
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


def install() -> None:
    """Make aiokafka's connections in this process take uvloop's error as the end of a connection.

    Doing it again changes nothing.
    """
    for name in ("send", "_send_sasl_token"):
        plain = getattr(AIOKafkaConnection, name)
        if not hasattr(plain, "__wrapped__"):
            setattr(AIOKafkaConnection, name, _closing(plain))


def _closing(send: Any) -> Any:
    @functools.wraps(send)
    def sends(connection: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return send(connection, *arguments, **options)
        except RuntimeError as error:
            place = f"{connection.host}:{connection.port}"
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {place} broken: {error}") from error

    return sends
