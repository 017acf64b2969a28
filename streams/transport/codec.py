"""The two requests that every turn makes, and their answers, packed and unpacked in one go each.

aiokafka walks a schema, field by field, with a generator for each level: a tenth of what a turn
with few events costs. Same bytes and same values here, for the versions that a broker since Kafka
2.3 agrees on; others keep aiokafka's own way. `tests/unit/test_codec.py` compares the two.

Layouts: https://kafka.apache.org/protocol#The_Messages_Fetch (version 11) and ``..._Produce`` (7).
"""

from collections.abc import Callable
from io import BytesIO
from struct import Struct
from typing import Any, NamedTuple

from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7

_SHORT = Struct(">h")
_INT = Struct(">i")
_HEADER = Struct(">hhih")
"""Key of the request, its version, correlation, bytes of the client's name."""
_FETCH = Struct(">iiiibiii")
"""Replica, wait, bytes at least and at most, isolation, session and its epoch, topics."""
_FETCH_PARTITION = Struct(">iiqqi")
"""Partition, epoch of the leader, offset, start of the log, bytes at most."""
_FETCHED = Struct(">ihii")
"""Throttle time, error, session, topics."""
_FETCHED_PARTITION = Struct(">ihqqqi")
"""Partition, error, high watermark, last stable offset, start of the log, aborted transactions."""
_ABORTED = Struct(">qq")
"""Producer, first offset."""
_REPLICA_AND_SIZE = Struct(">ii")
_ACKS = Struct(">hii")
"""Required acknowledgements, time-out, topics."""
_PARTITION_AND_SIZE = Struct(">ii")
_PRODUCED_PARTITION = Struct(">ihqqq")
"""Partition, error, offset, time stamp, start of the log."""


class _Header(NamedTuple):
    content: bytes

    def encode(self) -> bytes:
        return self.content


class _ResponseHeader(NamedTuple):
    correlation_id: int


def install() -> None:
    """Make aiokafka's connections in this process use what is here. Doing it again is the same."""
    for request in (FetchRequest_v11, ProduceRequest_v7):
        request.build_request_header = request_header
        request.parse_response_header = response_header
    FetchRequest_v11.encode = encode_fetch
    ProduceRequest_v7.encode = encode_produce
    FetchResponse_v11.decode = classmethod(decode_fetch)
    ProduceResponse_v7.decode = classmethod(decode_produce)


def request_header(request: Any, correlation_id: int, client_id: str) -> _Header:
    """What precedes a request."""
    name = client_id.encode()
    start = _HEADER.pack(request.API_KEY, request.API_VERSION, correlation_id, len(name))
    return _Header(start + name)


def response_header(_request: Any, data: BytesIO) -> _ResponseHeader:
    """What precedes an answer."""
    return _ResponseHeader(*_INT.unpack(data.read(4)))


def encode_fetch(request: Any) -> bytes:
    """`FetchRequest_v11` without forgotten topics, which belong to sessions that nobody opens."""
    assert not request.forgotten_topics_data
    parts = [
        _FETCH.pack(
            request.replica_id,
            request.max_wait_time,
            request.min_bytes,
            request.max_bytes,
            request.isolation_level,
            request.session_id,
            request.session_epoch,
            len(request.topics),
        )
    ]
    pack = _FETCH_PARTITION.pack
    for topic, partitions in request.topics:
        parts += [_text(topic), _INT.pack(len(partitions))]
        parts += [pack(*partition) for partition in partitions]
    parts += [_INT.pack(0), _text(request.rack_id)]
    return b"".join(parts)


def decode_fetch(response: Callable[..., Any], data: BytesIO | bytes) -> Any:
    """`FetchResponse_v11`.

    Raises:
        struct.error: it ends too early. The connection is closed then, as with aiokafka's own.
        ValueError: the same, in the middle of the records.
    """
    content, place = _rest(data)
    throttle_ms, error, session, count = _FETCHED.unpack_from(content, place)
    place += _FETCHED.size
    topics = []
    for _ in range(count):
        topic, place = _read_text(content, place)
        (partition_count,) = _INT.unpack_from(content, place)
        place += _INT.size
        partitions = []
        for _ in range(partition_count):
            *first, aborted_count = _FETCHED_PARTITION.unpack_from(content, place)
            place += _FETCHED_PARTITION.size
            aborted = None
            if aborted_count >= 0:
                stop = place + aborted_count * _ABORTED.size
                aborted = list(_ABORTED.iter_unpack(content[place:stop]))
                place = stop
            replica, size = _REPLICA_AND_SIZE.unpack_from(content, place)
            place += _REPLICA_AND_SIZE.size
            records = None
            if size >= 0:
                records = content[place : place + size]
                if len(records) != size:
                    raise ValueError("Buffer underrun decoding Bytes")
                place += size
            partitions.append((*first, aborted, replica, records))
        topics.append((topic, partitions))
    return response(throttle_ms, error, session, topics)


def encode_produce(request: Any) -> bytes:
    """`ProduceRequest_v7`."""
    parts = [
        _text(request.transactional_id),
        _ACKS.pack(request.required_acks, request.timeout, len(request.topics)),
    ]
    for topic, partitions in request.topics:
        parts += [_text(topic), _INT.pack(len(partitions))]
        for partition, records in partitions:
            parts += [_PARTITION_AND_SIZE.pack(partition, len(records)), records]
    return b"".join(parts)


def decode_produce(response: Callable[..., Any], data: BytesIO | bytes) -> Any:
    """`ProduceResponse_v7`.

    Raises:
        struct.error: it ends too early. The connection is closed then, as with aiokafka's own.
    """
    content, place = _rest(data)
    (count,) = _INT.unpack_from(content, place)
    place += _INT.size
    topics = []
    for _ in range(count):
        topic, place = _read_text(content, place)
        (partition_count,) = _INT.unpack_from(content, place)
        place += _INT.size
        stop = place + partition_count * _PRODUCED_PARTITION.size
        topics.append((topic, list(_PRODUCED_PARTITION.iter_unpack(content[place:stop]))))
        place = stop
    (throttle_ms,) = _INT.unpack_from(content, place)
    return response(topics, throttle_ms)


def _text(value: str | None) -> bytes:
    if value is None:
        return _SHORT.pack(-1)
    content = value.encode()
    return _SHORT.pack(len(content)) + content


def _read_text(content: bytes, place: int) -> tuple[str | None, int]:
    (size,) = _SHORT.unpack_from(content, place)
    place += _SHORT.size
    if size < 0:
        return None, place
    text = content[place : place + size]
    if len(text) != size:
        raise ValueError("Buffer underrun decoding string")
    return text.decode(), place + size


def _rest(data: BytesIO | bytes) -> tuple[bytes, int]:
    """All of it, and where to go on: `BytesIO` gives out its bytes without a copy."""
    return (data, 0) if isinstance(data, bytes) else (data.getvalue(), data.tell())
