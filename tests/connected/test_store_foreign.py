"""What clients of other languages need: ClickHouse's own compressed frames, and clickhouse-go's hello."""

import struct
from collections.abc import Callable

import lz4.block
import pytest
from backports import zstd
from clickhouse_cityhash.cityhash import CityHash128

from tests.connected.store_http import send

Unique = Callable[[str], str]
LZ4, ZSTD, NONE = 0x82, 0x90, 0x02


def sealed(method: int, packed: bytes, size: int) -> bytes:
    """A frame written from the specification, for requests."""
    rest = struct.pack("<BII", method, 9 + len(packed), size) + packed
    digest = CityHash128(rest)
    return struct.pack("<QQ", digest >> 64, digest & (1 << 64) - 1) + rest


def read(body: bytes) -> bytes:
    """The content of frames, read from the specification."""
    content, at = b"", 0
    while at < len(body):
        method, size, size_unpacked = struct.unpack_from("<BII", body, at + 16)
        assert method == LZ4
        assert size_unpacked <= 1 << 20
        packed = body[at + 25 : at + 16 + size]
        assert sealed(method, packed, size_unpacked) == body[at : at + 16 + size]
        content += lz4.block.decompress(packed, uncompressed_size=size_unpacked)
        at += 16 + size
    assert at == len(body)
    return content


def test_answers_come_in_frames(store: str) -> None:
    """Small, streamed and packed once more for HTTP: the content is the same."""
    for rows in (1, 500_000):
        sql = f"SELECT number, toString(number) FROM numbers({rows})"
        plain = send(store, sql)
        assert read(send(store, sql, compress=1).body) == plain.body
        both = send(
            store, sql, compress=1, enable_http_compression=1, headers={"Accept-Encoding": "zstd"}
        )
        assert both.headers["Content-Encoding"] == "zstd"
        assert read(zstd.ZstdDecompressor().decompress(both.body)) == plain.body


def test_an_error_in_mid_stream_comes_in_a_frame(store: str) -> None:
    reply = send(store, "SELECT throwIf(number = 2900000) FROM numbers(3000000)", compress=1)
    tag = reply.headers["X-ClickHouse-Exception-Tag"].encode()
    assert b"__exception__\r\n" + tag + b"\r\nCode: 395" in read(reply.body)


def test_rows_are_sent_in_frames(store: str, unique: Unique) -> None:
    """By every method that clients use; the SQL may lie in the frames, too."""
    table = unique("tidemill.framed")
    send(store, f"CREATE TABLE {table} (n UInt32) ENGINE = MergeTree ORDER BY n")
    rows = b"".join(b"%d\n" % n for n in range(1000))
    body = (
        sealed(LZ4, lz4.block.compress(rows, store_size=False), len(rows))
        + sealed(ZSTD, zstd.compress(b"1000\n"), 5)
        + sealed(NONE, b"1001\n", 5)
    )
    sql = f"INSERT INTO {table} FORMAT TSV"
    assert send(store, body, query=sql, decompress=1).status == 200
    whole = f"{sql}\n1002\n".encode()
    assert send(store, sealed(NONE, whole, len(whole)), decompress=1).status == 200
    assert send(store, f"SELECT count(), sum(n) FROM {table}").text == "1003\t502503\n"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (sealed(NONE, b"1\n", 2)[:-1], 32),
        (sealed(NONE, b"1\n", 2)[:20], 32),
        (b"\0" * 16 + sealed(NONE, b"1\n", 2)[16:], 40),
        (sealed(0x91, b"1\n", 2), 89),
        (sealed(NONE, b"1\n", 3), 271),
        (sealed(LZ4, b"\xff\xff\xff", 1 << 25), 271),
        (sealed(ZSTD, zstd.compress(b"0" * 100_000), 10), 271),
        (b"no frames at all, just text that is long enough", 19),
    ],
)
def test_a_bad_frame_is_refused(store: str, body: bytes, code: int) -> None:
    """Damaged, cut off, of an unknown method, or promising what it does not hold."""
    reply = send(store, body, query="INSERT INTO t FORMAT TSV", decompress=1)
    assert (reply.code, reply.status >= 400) == (code, True), reply.text


def test_frames_that_unpack_to_too_much_are_refused(store: str) -> None:
    one = sealed(ZSTD, zstd.compress(b"\0" * (64 << 20)), 64 << 20)
    assert len(one) < 10_000
    assert send(store, one * 9, query="INSERT INTO t FORMAT TSV", decompress=1).code == 307


@pytest.mark.embedded
def test_the_hello_of_clickhouse_go(store: str) -> None:
    """Its first block must have block information and flags, and say revision 0."""
    sql = "SELECT displayName(), version(), revision(), timezone()"
    body = send(store, sql, default_format="Native", client_protocol_version=54460).body
    assert body.startswith(
        b"\x01\x00\x02\xff\xff\xff\xff\x00\x04\x01\x0ddisplayName()\x06String\x00"
    )
    assert (
        b"\x0arevision()\x06UInt32\x00\x00\x00\x00\x00\x0atimezone()\x06String\x00\x03UTC" in body
    )
    framed = send(store, sql, default_format="Native", client_protocol_version=54460, compress=1)
    assert read(framed.body) == body
    plain = send(store, "SELECT 1 AS a", default_format="Native", client_protocol_version=54460)
    assert plain.body == b"\x01\x01\x01a\x05UInt8\x01"
