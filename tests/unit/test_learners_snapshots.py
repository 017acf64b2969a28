"""Snapshots on the learners topic: whole and trusted, or refused with the reason."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.signing import Keyring
from schemas.errors import ChecksumMismatch, ModelError, SchemaError, SetupError, SignatureRefused
from schemas.learners import LearnerHeader, decode_header, encode_header
from streams.workers import learners
from streams.workers.learners import MODEL, OBSERVER, OFFER, PURPOSE, Assembler, pack

RING = Keyring(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
STRANGER = Keyring(Ed25519PrivateKey.from_private_bytes(b"2" * 32))
PARTS = {MODEL: b"weights" * 100, OBSERVER: b"sketches"}


def header(epoch=1, shard=0, pipeline="shop"):
    return LearnerHeader(
        pipeline=pipeline, shard=shard, epoch=epoch, position=10 * epoch, fingerprint="f",
        rows_learned=5, taken_at_ms=1, parts={},
    )  # fmt: skip


def records(epoch=1, shard=0, *, parts=PARTS, ring=RING, pipeline="shop"):
    out, signed = pack("shop.learners", header(epoch, shard, pipeline), parts, ring)
    assert (out.topic, out.partition) == ("shop.learners", 0)
    return list(zip(out.keys, out.values, strict=True)), signed


def read(found, assembler=None):
    assembler = assembler or Assembler("shop", RING, wanted={MODEL, OBSERVER})
    taken = [assembler.take(key, value) for key, value in found]
    assert taken[:-1] == [None] * (len(taken) - 1)
    return taken[-1]


def test_a_snapshot_comes_back(monkeypatch) -> None:
    """Also one of many pieces; and only the parts that are wanted."""
    found, signed = records()
    snapshot = read(found)
    assert (snapshot.parts, snapshot.signed, snapshot.header.position) == (PARTS, signed, 10)
    assert set(read(found, Assembler("shop", RING, wanted={MODEL})).parts) == {MODEL}
    monkeypatch.setattr("schemas.learners.PIECE_BYTES_MAX", 3)
    small, _ = records(epoch=2)
    assert len(small) > 10
    assert read(small).parts == PARTS


def test_a_part_that_was_changed_is_refused() -> None:
    """Pieces carry no signature of their own: the header names their digests."""
    (piece, *others), _ = records()
    for changed in (b"", piece[1][:-1] + bytes([piece[1][-1] ^ 1]), b"another"):
        with pytest.raises(ChecksumMismatch, match="not those that were signed"):
            read([(piece[0], changed), *others])
    with pytest.raises(ChecksumMismatch):
        read(others)  # compaction took the piece: a newer snapshot follows


def test_strangers_and_changed_headers_are_refused() -> None:
    """A header counts only if somebody trusted signed exactly this one as a snapshot."""
    with pytest.raises(SignatureRefused, match="not trusted"):
        read(records(ring=STRANGER)[0])
    (*others, (key, value)), _ = records()
    for changed in (value[:-1], value.replace(b"shop", b"shoq"), b""):
        with pytest.raises(SignatureRefused):
            read([*others, (key, changed)])
    manifest = RING.sign("model manifest", encode_header(header()))
    with pytest.raises(SignatureRefused):
        read([(b"0", manifest)])
    with pytest.raises(SchemaError):
        read([(b"0", RING.sign(PURPOSE, b"no header"))])


def test_a_snapshot_that_is_sent_again_is_refused() -> None:
    """Old bytes are still well signed; that they are older is what gives them away."""
    assembler = Assembler("shop", RING, wanted={MODEL})
    first, second = records(epoch=1)[0], records(epoch=2)[0]
    read(first, assembler)
    read(second, assembler)
    for old in (first, second):
        with pytest.raises(ModelError, match="was sent again"):
            read(old, assembler)
    assert read(records(epoch=1, shard=1)[0], assembler) is not None  # shards count for themselves


def test_a_snapshot_of_another_pipeline_or_shard_is_refused() -> None:
    """A signature says who made it, not where it belongs."""
    with pytest.raises(ModelError, match="pipeline=other"):
        read(records(pipeline="other")[0])
    found, _ = records(shard=1)
    with pytest.raises(ModelError, match="shard=1, found at pipeline=shop key=b'0'"):
        read([*found[:-1], (b"0", found[-1][1])])


def test_a_learner_that_grew_too_large_is_named(monkeypatch) -> None:
    """Better than a broker that refuses a message nobody can connect with it."""
    monkeypatch.setattr(learners, "SNAPSHOT_BYTES_MAX", 10)
    with pytest.raises(SetupError, match="Declare a smaller one"):
        records()


def test_a_flood_of_foreign_pieces_is_forgotten(monkeypatch) -> None:
    """Whoever may write to the topic must not be able to fill our memory."""
    monkeypatch.setattr(learners, "SNAPSHOT_BYTES_MAX", 1000)
    assembler = Assembler("shop", RING, wanted={MODEL})
    for index in range(100):
        assembler.take(b"0/model/%d" % index, b"x" * 100)
    assert sum(map(len, assembler._pieces.values())) <= 2000
    assert read(records()[0], assembler).parts[MODEL] == PARTS[MODEL]


def test_headers_only_grow() -> None:
    """Fields of a later release are ignored."""
    text = msgspec.msgpack.decode(encode_header(header()))
    assert decode_header(msgspec.msgpack.encode({**text, "later": 1})) == header()
    for broken in (b"", b"\xff\xff", msgspec.msgpack.encode({"pipeline": "shop"})):
        with pytest.raises(SchemaError):
            decode_header(broken)


def test_an_offer_is_for_those_who_serve_and_takes_nothing_from_a_whole_snapshot() -> None:
    """Recovery needs the whole one, however often compaction has passed since."""
    whole, offer = records(epoch=1)[0], records(epoch=2, parts={OFFER: b"newer"})[0]
    assert not {key for key, _ in whole} & {key for key, _ in offer}
    serving = Assembler("shop", RING, wanted={MODEL, OFFER})
    assert [read(found, serving).model for found in (whole, offer)] == [PARTS[MODEL], b"newer"]
    recovering = Assembler("shop", RING, wanted={MODEL, OBSERVER})
    assert read(whole, recovering).parts == PARTS
    assert read(offer, recovering) is None
    assert recovering.epoch(0) == 2
    with pytest.raises(ModelError, match="key=b'0'"):
        read([*offer[:-1], (b"0", offer[-1][1])])
