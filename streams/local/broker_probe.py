"""Asks a broker one question, so that readiness is an answer and not an open port.

A KRaft broker opens its port before the controller lets it serve. Only then does its own metadata
list it. The request is spelled out here because every client library retries, logs and takes a
second to import, where we ask twenty times a second.
"""

import socket
import struct

_METADATA_V4 = struct.pack(">hhih8si?", 3, 4, 1, 8, b"tidemill", 0, False)
"""API 3, version 4, correlation 1, client "tidemill", no topics, create none.

Version 4 is the newest that aiokafka and Kafka 4 share with a fixed layout. Source: the Metadata
section of the Kafka protocol guide.
"""

_ANSWER_BYTES_MAX = 1 << 20


def live_brokers(host: str, port: int, *, timeout_s: float = 2.0) -> int:
    """How many live brokers the one at ``host:port`` knows; 0 if it does not answer."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(_METADATA_V4)) + _METADATA_V4)
            (size,) = struct.unpack(">i", _read(connection, 4))
            if not 12 <= size <= _ANSWER_BYTES_MAX:
                return 0
            # correlation id, throttle time, then the array of brokers
            _, _, brokers = struct.unpack_from(">iii", _read(connection, size))
            return max(0, int(brokers))
    except (OSError, struct.error):
        return 0


def _read(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("the broker closed the connection")
        parts += part
    return bytes(parts)
