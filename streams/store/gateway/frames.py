"""ClickHouse's own compressed frames, as its native protocol and ``compress=1`` carry them.

A frame is a checksum of 16 bytes, one byte that names the method, the sizes of the frame without
its checksum and of its content (32 bits each, least significant byte first), and the packed bytes.
The checksum is CityHash128 (version 1.0.2) of all that follows it, its higher half first; each half
has its least significant byte first. Frames stand behind each other without a beginning or an end,
so a stream that was cut off between two frames looks whole.
"""

import struct
import sys
from collections.abc import Iterator
from typing import Final

import lz4.block
from clickhouse_cityhash.cityhash import CityHash128

from streams.store.gateway.errors import EngineError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME_BYTES: Final = 1 << 20
"""Content of one frame that is sent; the size a server takes."""
FRAME_BYTES_MAX: Final = 64 << 20
"""Content of one frame that is accepted; clients send at most 10 MiB."""

_CHECKSUM: Final = struct.Struct("<QQ")
_HEAD: Final = struct.Struct("<BII")
_OVERHEAD: Final = _CHECKSUM.size + _HEAD.size
_NONE: Final = 0x02
_LZ4: Final = 0x82
_ZSTD: Final = 0x90

# The most that these methods can make of one byte: a frame that promises more is a lie, and is
# found out before memory is taken for it.
_LZ4_RATIO_MAX: Final = 255


def frame(content: bytes | memoryview) -> bytes:
    """``content``, of at most 4 GiB, as one LZ4 frame."""
    packed = lz4.block.compress(content, store_size=False)
    return _sealed(_HEAD.pack(_LZ4, _HEAD.size + len(packed), len(content)) + packed)


def frames(content: bytes) -> bytes:
    """``content`` as frames of at most `FRAME_BYTES` each; nothing for nothing."""
    view = memoryview(content)
    return b"".join(
        frame(view[start : start + FRAME_BYTES]) for start in range(0, len(view), FRAME_BYTES)
    )


def read_frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The contents of the frames in ``body``, one after the other, each with where it ends.

    Raises:
        EngineError: a frame is damaged, cut off, packed by another method than LZ4, ZSTD or NONE,
            or holds more than `FRAME_BYTES_MAX`.
    """
    view = memoryview(body)
    at = 0
    while at < len(view):
        if len(view) - at < _OVERHEAD:
            raise _error(32, f"Cannot read all data: a frame is cut off at byte {at}.")
        method, size, size_unpacked = _HEAD.unpack_from(view, at + _CHECKSUM.size)
        if size < _HEAD.size or max(size, size_unpacked) > FRAME_BYTES_MAX + _HEAD.size:
            raise _error(
                19,
                f"Too large or too small size: {size} bytes hold {size_unpacked}; "
                f"a frame has at most {FRAME_BYTES_MAX}. Most likely the body has no frames.",
            )
        end = at + _CHECKSUM.size + size
        if end > len(view):
            raise _error(32, f"Cannot read all data: a frame is cut off at byte {at}.")
        if _checksum(view[at + _CHECKSUM.size : end]) != view[at : at + _CHECKSUM.size]:
            raise _error(40, f"Checksum doesn't match: the frame at byte {at} is damaged.")
        yield end, _content(method, view[at + _OVERHEAD : end], size_unpacked)
        at = end


def _sealed(rest: bytes) -> bytes:
    return _checksum(rest) + rest


def _checksum(rest: bytes | memoryview) -> bytes:
    digest = CityHash128(rest)
    return _CHECKSUM.pack(digest >> 64, digest & 0xFFFF_FFFF_FFFF_FFFF)


def _content(method: int, packed: memoryview, size: int) -> bytes:
    """What one frame holds, of exactly ``size`` bytes."""
    if size == 0 and not packed:
        return b""
    try:
        if method == _NONE:
            content = bytes(packed)
        elif method == _LZ4:
            if size > len(packed) * _LZ4_RATIO_MAX:
                raise ValueError("it promises more than LZ4 can hold")
            content = lz4.block.decompress(packed, uncompressed_size=size)
        elif method == _ZSTD:
            unpacker = zstd.ZstdDecompressor()
            # One byte more than promised, so that a frame that holds more is noticed.
            content = unpacker.decompress(packed, size + 1)
            if not unpacker.eof:
                raise ValueError("it is cut off or holds more than it says")
        else:
            raise _error(89, f"Unknown compression method: 0x{method:02x}.")
    except (lz4.block.LZ4BlockError, zstd.ZstdError, ValueError, MemoryError) as cause:
        raise _error(271, f"Cannot decompress a frame: {cause}.") from cause
    if len(content) != size:
        raise _error(271, f"Cannot decompress a frame: it holds {len(content)} bytes, not {size}.")
    return content


_NAMES: Final = {
    19: "TOO_LARGE_SIZE_COMPRESSED",
    32: "ATTEMPT_TO_READ_AFTER_EOF",
    40: "CHECKSUM_DOESNT_MATCH",
    89: "UNKNOWN_COMPRESSION_METHOD",
    271: "CANNOT_DECOMPRESS",
}


def _error(code: int, reason: str) -> EngineError:
    return EngineError(code, f"Code: {code}. DB::Exception: {reason} ({_NAMES[code]})")
