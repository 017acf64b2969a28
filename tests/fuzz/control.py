"""Control records: announcements, headers of learners, alarms. Signed or not, they change nothing
unless they are whole, and a reader of the topic never stops at one."""

import contextlib
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models import rollout
from models.signing import Keyring
from schemas.alarms import Alarm, decode_alarm, encode_alarm
from schemas.errors import ModelError, SchemaError
from schemas.learners import LearnerHeader
from schemas.manifest import ANNOUNCEMENT_SIGNATURE, Announcement, NamedVersion
from streams.books.committed import Record
from streams.control.announce import newest
from streams.workers.learners import MODEL, PURPOSE, Assembler, pack
from tests.fuzz.target import Target

RING = Keyring(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
CHAMPION, OTHER = (NamedVersion(version=c * 12, digest=c * 64) for c in "ab")
FIRST = rollout.promote(None, "flights", CHAMPION, at_ms=1)
TRIED = rollout.try_out(FIRST, OTHER, at_ms=2)
STATES = [FIRST, TRIED, rollout.widen(TRIED, at_ms=3), rollout.hold(TRIED, at_ms=3, reason="é")]
_purpose = rollout._PURPOSE


def _record(value: bytes, signature: bytes) -> Record:
    headers = [(ANNOUNCEMENT_SIGNATURE, signature)]
    return Record("models", 0, 0, 0, 0, b"flights", value, None, 7, len(value), headers)


def check_announcement(content: bytes) -> None:
    """Bytes that a trusted key signed, as a newer release or a thief of the key would send them, and
    the same bytes as the signature itself."""
    before = _record(*rollout.seal(RING, FIRST))
    signature = RING.sign(_purpose, hashlib.sha256(content).digest())
    found = newest([before, _record(content, signature)], "flights", RING)
    assert isinstance(found, Announcement)
    assert found.epoch >= FIRST.epoch
    if found is not None and found.epoch > FIRST.epoch:
        assert (found.stage == "") == (found.challenger is None)
        assert 0 <= found.share <= 100
        rollout.hold(found, at_ms=1)
    assert newest([before, _record(before.value, content)], "flights", RING) in (FIRST, found)


def check_learner(content: bytes) -> None:
    """A header that is signed, and one that is not, behind a good snapshot."""
    for header in (content, RING.sign(PURPOSE, content)):
        assembler = Assembler("shop", RING, wanted={MODEL})
        for key, value in LEARNER:
            assembler.take(key, value)
        for key in (b"0", content[:40]):
            try:
                found = assembler.take(key, header)
            except (ModelError, SchemaError):
                continue
            assert found is None or found.header.epoch >= 1


def check_alarm(content: bytes) -> None:
    with contextlib.suppress(SchemaError):
        assert isinstance(decode_alarm(content), Alarm)


_HEADER = LearnerHeader(
    pipeline="shop", shard=0, epoch=1, position=10, fingerprint="f", rows_learned=5, taken_at_ms=1,
    parts={},
)  # fmt: skip
_out, _ = pack("shop.learners", _HEADER, {MODEL: b"weights" * 100}, RING)
LEARNER = list(zip(_out.keys or [], _out.values, strict=True))
_signed = LEARNER[-1][1] or b""
ANNOUNCEMENT = Target(
    "announcement", [rollout.seal(RING, state)[0] for state in STATES], check_announcement,
    [b'"epoch":', b'"stage":"canary"', b'"share":101', b'"challenger":null', b'"pipeline":"x"'],
    bytes_max=4096,
)  # fmt: skip
LEARNER_HEADER = Target(
    "learner-header", [RING.open(PURPOSE, _signed), _signed], check_learner, [b"parts", b"model"],
    bytes_max=4096,
)  # fmt: skip
_ALARM = Alarm(
    alarm_id="a", detector="adwin", subject="x", model_version="v", event_time_ms=1,
    source_partition=0, source_offset=1, shard=0, statistic=1.5, threshold=1.0, before=None,
    after=0.5, rows_before=1, rows_after=2, false_alarm_every=1000,
)  # fmt: skip
ALARM = Target("alarm", [encode_alarm(_ALARM)], check_alarm, [b'"before":'], bytes_max=8192)
