"""Content encodings: whatever is packed unpacks, and nothing small becomes large."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.store.gateway.compression import choose, unpack
from streams.store.gateway.errors import EngineError

ENCODINGS = ["gzip", "deflate", "lz4", "zstd", "br"]


@given(encoding=st.sampled_from(ENCODINGS), pieces=st.lists(st.binary(max_size=2000), max_size=5))
def test_what_is_packed_in_pieces_unpacks_to_the_same(encoding: str, pieces: list[bytes]) -> None:
    name, packer = choose(encoding)
    assert name == encoding
    assert packer is not None
    packed = b"".join([*map(packer.pack, pieces), packer.end()])
    assert unpack(packed, name) == b"".join(pieces)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_refused_early(encoding: str) -> None:
    _, packer = choose(encoding)
    assert packer is not None
    packed = packer.pack(bytes(50_000_000)) + packer.end()
    assert unpack(packed, encoding, bytes_max=50_000_000) == bytes(50_000_000)
    with pytest.raises(EngineError, match="unpacks to more than") as caught:
        unpack(packed, encoding, bytes_max=10_000_000)
    assert caught.value.status == 413


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_damaged_or_cut_body_is_refused(encoding: str) -> None:
    """Half an insert must not be taken for a whole one."""
    _, packer = choose(encoding)
    assert packer is not None
    packed = packer.pack(bytes(range(256)) * 100) + packer.end()
    for body in (packed[: len(packed) // 2], b"\x00\x01\x02 no such stream", packed[:-1]):
        with pytest.raises(EngineError) as caught:
            unpack(body, encoding)
        assert caught.value.status == 400


def test_members_of_gzip_are_joined() -> None:
    assert unpack(gzip.compress(b"a") + gzip.compress(b"b"), "gzip") == b"ab"
    assert unpack(zlib.compress(b"a"), "deflate") == b"a"


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(EngineError, match="'snappy'") as caught:
        unpack(b"x", "snappy")
    assert caught.value.status == 501


@pytest.mark.parametrize(
    ("accepted", "name"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip, br", "gzip"),
        ("gzip;q=0, br", "br"),
        ("br, lz4, zstd", "lz4"),
        ("snappy", ""),
    ],
)
def test_the_cheapest_accepted_encoding_is_chosen(accepted: str, name: str) -> None:
    chosen, packer = choose(accepted)
    assert chosen == name
    assert (packer is not None) == bool(name)
