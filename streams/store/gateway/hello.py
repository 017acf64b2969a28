"""The first question of clickhouse-go, which Grafana's plug-in is built on.

It asks with ``client_protocol_version`` and reads the answer as a block of that version: with block
information in front and a flag behind every type. The engine here makes blocks of version 0 only.
So this one answer is made by hand, and says that the server's version is 0: from then on the client
reads blocks of version 0.
"""

import re
import struct
from typing import Final

SERVER_NAME: Final = "tidemill"

_HELLO: Final = re.compile(
    rb"\s*SELECT\s+displayName\(\),\s*version\(\),\s*revision\(\),\s*timezone\(\)\s*;?\s*\Z",
    re.IGNORECASE,
)
_HELLO_BYTES_MAX: Final = 200

# Versions of the protocol since which a block has these (ClickHouse, ProtocolDefines.h).
_BLOCK_INFORMATION: Final = 51903
_SERIALIZATION_FLAG: Final = 54454


def is_hello(sql: bytes) -> bool:
    """Whether ``sql`` is the question, and nothing else."""
    return len(sql) <= _HELLO_BYTES_MAX and _HELLO.match(sql) is not None


def hello(protocol: int, *, name: str, version: str, timezone: str) -> bytes:
    """The answer as one Native block of version ``protocol``; it names 0 as ours."""
    block = bytearray()
    if protocol >= _BLOCK_INFORMATION:
        # Field 1: no overflow rows; field 2: bucket -1, which is none; 0: no more fields.
        block += b"\x01\x00\x02" + struct.pack("<i", -1) + b"\x00"
    block += b"\x04\x01"  # columns, rows
    columns = (
        ("displayName()", "String", _text(name)),
        ("version()", "String", _text(version)),
        ("revision()", "UInt32", struct.pack("<I", 0)),
        ("timezone()", "String", _text(timezone)),
    )
    for title, kind, value in columns:
        block += _text(title) + _text(kind)
        if protocol >= _SERIALIZATION_FLAG:
            block += b"\x00"  # the plain serialization
        block += value
    return bytes(block)


def _text(value: str) -> bytes:
    """A string behind its length, which is below 128 here."""
    content = value.encode()[:127]
    return bytes([len(content)]) + content
