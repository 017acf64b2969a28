"""Content encodings of HTTP, both ways: gzip, deflate, lz4, zstd and br; and ClickHouse's frames.

Unpacking is bounded: a small body may not become a large one in memory.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import brotli
import lz4.frame

from streams.store.gateway.errors import NOT_IMPLEMENTED, TOO_LARGE, refusal, unreadable
from streams.store.gateway.frames import frames, read_frames

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UNPACKED_BYTES_MAX = 512 << 20
"""A body may grow to this when it is unpacked."""
UNPACKED_FREE_BYTES = 64 << 20
RATIO_MAX = 100
"""Beyond `UNPACKED_FREE_BYTES` what has been unpacked may be this many times as long as what it was
made of: columns that compress better are sent in smaller inserts. gzip can make 1,032 bytes of one,
zstd and brotli far more."""
_PIECE = 4 << 20
_SLICE = 64 << 10

Pieces = Iterator[tuple[int, bytes]]
"""Parts of the content, each with how much of the packed body they and those before took."""


class Packer(Protocol):
    """Compresses one answer piece by piece."""

    def pack(self, piece: bytes) -> bytes:
        """What can be sent of ``piece`` and of those before it."""

    def end(self) -> bytes:
        """The rest."""


class _Frames:
    """A `Packer` that makes ClickHouse's frames: each piece can be read as soon as it arrives.

    ``outer`` packs the frames once more, as a server does for a client that asks for both.
    """

    def __init__(self, outer: Packer | None) -> None:
        self._outer = outer

    def pack(self, piece: bytes) -> bytes:
        framed = frames(piece)
        return framed if self._outer is None else self._outer.pack(framed)

    def end(self) -> bytes:
        return b"" if self._outer is None else self._outer.end()


class _Object:
    """A `Packer` over an object with a compressing and a finishing call."""

    def __init__(
        self, pack: Callable[[bytes], bytes], end: Callable[[], bytes], *, begin: bytes = b""
    ) -> None:
        self._pack, self._end, self._begin = pack, end, begin

    def pack(self, piece: bytes) -> bytes:
        begin, self._begin = self._begin, b""
        return begin + self._pack(piece)

    def end(self) -> bytes:
        begin, self._begin = self._begin, b""
        return begin + self._end()


def _gzip() -> Packer:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return _Object(packer.compress, packer.flush)


def _deflate() -> Packer:
    packer = zlib.compressobj(1)
    return _Object(packer.compress, packer.flush)


def _lz4() -> Packer:
    packer = lz4.frame.LZ4FrameCompressor()
    return _Object(packer.compress, packer.flush, begin=packer.begin())


def _zstd() -> Packer:
    packer = zstd.ZstdCompressor(level=1)
    return _Object(packer.compress, packer.flush)


def _brotli() -> Packer:
    packer = brotli.Compressor(quality=1)
    return _Object(packer.process, packer.finish)


_PACKERS = {"lz4": _lz4, "zstd": _zstd, "gzip": _gzip, "br": _brotli, "deflate": _deflate}


def choose(accepted: str, *, framed: bool = False) -> tuple[str, Packer | None]:
    """The cheapest encoding that an ``Accept-Encoding`` header allows, and what packs an answer.

    The name is empty for no encoding. ``framed`` asks for ClickHouse's frames inside of it, which
    HTTP has no name for. Without a packer the answer is sent as it is.
    """
    names = {}
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        names[name.strip()] = weight.replace(" ", "") not in {"q=0", "q=0.0"}
    name = next((name for name in _PACKERS if names.get(name)), "")
    packer = _PACKERS[name]() if name else None
    return name, _Frames(packer) if framed else packer


def unpack(body: bytes, encoding: str, *, bytes_max: int = UNPACKED_BYTES_MAX) -> bytes:
    """``body`` without its ``Content-Encoding``.

    Raises:
        EngineError: the encoding is not known, the body is damaged or cut off, or it would become
            larger than ``bytes_max``.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in _UNPACKERS:
        raise refusal(NOT_IMPLEMENTED, f"Unknown Content-Encoding {encoding[:40]!r}.")
    try:
        return _gather(_UNPACKERS[name](body), bytes_max)
    except (zlib.error, brotli.error, zstd.ZstdError, RuntimeError, EOFError) as cause:
        raise unreadable(f"Cannot unpack the body as {name}: {cause}") from cause


def unpack_frames(body: bytes, *, bytes_max: int = UNPACKED_BYTES_MAX) -> bytes:
    """What the ClickHouse frames of ``body`` hold.

    Raises:
        EngineError: a frame is damaged, or they would become larger than ``bytes_max``.
    """
    return _gather(read_frames(body), bytes_max)


def unpack_all(body: bytes, encoding: str, *, framed: bool) -> bytes:
    """``body`` without its ``Content-Encoding``, then without ClickHouse's frames if ``framed``.

    Raises:
        EngineError: as `unpack` and `unpack_frames`.
    """
    unpacked = unpack(body, encoding)
    return unpack_frames(unpacked) if framed else unpacked


def _gather(pieces: Pieces, bytes_max: int) -> bytes:
    found, size = [], 0
    for taken, piece in pieces:
        size += len(piece)
        if size > bytes_max:
            raise refusal(TOO_LARGE, f"The body unpacks to more than {bytes_max} bytes.")
        if size > UNPACKED_FREE_BYTES and size > RATIO_MAX * taken:
            raise refusal(
                TOO_LARGE,
                f"The body unpacks to more than {UNPACKED_FREE_BYTES} bytes, and more than "
                f"{RATIO_MAX} of each byte.",
            )
        found.append(piece)
    return b"".join(found)


def _unpack_zlib(body: bytes, window: int) -> Pieces:
    view, at = memoryview(body), 0
    while at < len(view):  # gzip allows several members behind each other
        unpacker = zlib.decompressobj(window)
        while not unpacker.eof:
            # In slices: what is left over of the input is copied with every call.
            rest: bytes | memoryview = unpacker.unconsumed_tail
            if not rest:
                rest = view[at : at + _SLICE]
                at += len(rest)
            piece = unpacker.decompress(rest, _PIECE)
            if not piece and not rest and not unpacker.eof:
                raise EOFError("it is cut off")
            yield at, piece
        at -= len(unpacker.unused_data)


def _unpack_stream(make: Callable[[], Any], body: bytes) -> Pieces:
    view, at = memoryview(body), 0
    while at < len(view):  # several frames behind each other
        unpacker = make()
        while not unpacker.eof:
            rest: bytes | memoryview = b""
            if unpacker.needs_input:
                rest = view[at : at + _SLICE]
                at += len(rest)
                if not rest:
                    raise EOFError("it is cut off")
            yield at, unpacker.decompress(rest, _PIECE)
        at -= len(unpacker.unused_data or b"")


def _unpack_brotli(body: bytes) -> Pieces:
    view, at = memoryview(body), 0
    unpacker = brotli.Decompressor()
    while not unpacker.is_finished():
        rest = b""
        if unpacker.can_accept_more_data():
            rest = bytes(view[at : at + _SLICE])
            at += len(rest)
            if not rest:
                raise EOFError("it is cut off")
        yield at, unpacker.process(rest, output_buffer_limit=_PIECE)


_UNPACKERS: dict[str, Callable[[bytes], Pieces]] = {
    "gzip": lambda body: _unpack_zlib(body, 31),
    "x-gzip": lambda body: _unpack_zlib(body, 31),
    "deflate": lambda body: _unpack_zlib(body, 15),
    "lz4": lambda body: _unpack_stream(lz4.frame.LZ4FrameDecompressor, body),
    "zstd": lambda body: _unpack_stream(zstd.ZstdDecompressor, body),
    "br": _unpack_brotli,
}
