"""The audit log: whoever changes, drops, adds or reorders an entry is found at that entry."""

import hashlib
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from models.audit import REVOKE, Broken, Sealed, seal_entry, verify_chain
from models.keys import KeyFiles
from models.signing import Keyring, load_keyring
from schemas.audit import FIRST, AuditEntry, decode_entry, encode_entry, entry_digest
from schemas.errors import SchemaError
from streams.control.audit import compare

RING = Keyring(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
THIEF = Keyring(Ed25519PrivateKey.from_private_bytes(b"2" * 32))


def chain(count: int, keyring: Keyring = RING, **changes: str) -> list[Sealed]:
    found: list[Sealed] = []
    previous = FIRST
    for number in range(count):
        fields = {"action": "promote", "subject": f"p{number}"} | changes
        entry = AuditEntry(
            number=number, previous=previous, at_ms=number, who="ada@here", after=number, **fields
        )
        found.append(seal_entry(keyring, entry))
        previous = entry_digest(found[-1][0])
    return found


def test_canonical_bytes_are_what_the_documentation_says() -> None:
    """Anybody can check a link with a few lines of another language."""
    [(content, _), (second, _)] = chain(2)
    assert content == (
        b'{"action":"promote","after":0,"at_ms":0,"before":null,"number":0,"previous":"'
        + b"0" * 64
        + b'","reason":"","subject":"p0","who":"ada@here"}'
    )
    assert decode_entry(second).previous == hashlib.sha256(content).hexdigest()
    with pytest.raises(SchemaError, match="canonical"):
        decode_entry(content.replace(b":0,", b": 0,"))


def test_a_whole_chain_holds() -> None:
    assert verify_chain([], RING) == (0, None)
    assert verify_chain(chain(5), RING) == (5, None)


@given(st.integers(0, 4), st.data())
def test_any_changed_byte_is_found_at_its_entry(place: int, data: st.DataObject) -> None:
    """In the entry or in its signature, whatever byte."""
    found = chain(5)
    part = data.draw(st.integers(0, 1))
    changed = bytearray(found[place][part] or b"")
    where = data.draw(st.integers(0, len(changed) - 1))
    changed[where] ^= data.draw(st.integers(1, 255))
    pair = [*found[place]]
    pair[part] = bytes(changed)
    found[place] = (pair[0] or b"", pair[1])
    length, broken = verify_chain(found, RING)
    assert broken is not None
    assert (length, broken.number) == (place, place)


@pytest.mark.parametrize(
    ("tamper", "number", "words"),
    [
        (lambda f: f[:2] + f[3:], 2, "number 3"),
        (lambda f: f[1:], 0, "number 1"),
        (lambda f: [*f[:3], f[2], *f[3:]], 3, "number 2"),
        (lambda f: [f[0], f[2], f[1], *f[3:]], 1, "number 2"),
        (lambda f: [*f[:1], (f[1][0], None), *f[2:]], 1, "not signed"),
        (lambda f: [*f[:1], (f[1][0], f[0][1]), *f[2:]], 1, "another entry"),
        (lambda f: [*f[:2], *chain(5, subject="forged")[2:]], 2, "follows"),
        (lambda f: [*f[:2], *chain(5, THIEF)[2:]], 2, "never trusted"),
        (lambda f: [(b"", None), *f], 0, "could not decode"),
    ],
    ids=["dropped", "cut at the start", "repeated", "swapped", "signature gone", "signature of another",
         "rewritten from there on", "by a stranger", "garbage"],
)  # fmt: skip
def test_tampering_is_named(tamper, number: int, words: str) -> None:
    length, broken = verify_chain(tamper(chain(5)), RING)
    assert broken is not None
    assert (length, broken.number) == (number, number)
    assert words in broken.why


def test_a_stolen_key_signs_nothing_after_it_was_revoked(tmp_path: Path) -> None:
    """What it signed before that stays; what comes after is broken."""
    path = tmp_path / "signing.pem"
    ring = load_keyring(path)
    found = chain(2, ring)
    stolen = Keyring(KeyFiles(path).private())
    old, _new = KeyFiles(path).rotate(now_ms=1)
    KeyFiles(path).revoke(old, now_ms=2, reason="stolen")

    def after(number: int, keyring: Keyring, action: str, subject: str) -> Sealed:
        previous = entry_digest(found[-1][0])
        entry = AuditEntry(
            number=number, previous=previous, at_ms=9, who="w", action=action, subject=subject
        )
        return seal_entry(keyring, entry)

    found.append(after(2, ring, REVOKE, old))
    assert verify_chain(found, ring) == (3, None)
    found.append(after(3, stolen, "promote", "evil"))
    assert verify_chain(found, ring)[1] == Broken(
        number=3, why=f"key={old[:16]} signed it, which was revoked before"
    )


def test_the_table_is_a_second_witness() -> None:
    """A cut-off end is seen by what the table still has, a rewritten topic by what it has instead."""
    found = chain(4)
    rows = {number: entry_digest(content) for number, (content, _) in enumerate(found)}
    whole = compare(found, rows, RING)
    assert (whole.entries, whole.broken, whole.copied, whole.head) == (4, None, 4, rows[3])
    assert compare(found, {0: rows[0]}, RING).broken is None, "a copy may be behind"
    cut = compare(found[:3], rows, RING)
    assert cut.broken is not None
    assert (cut.broken.number, "cut off" in cut.broken.why) == (3, True)
    rewritten = compare(chain(4, subject="other"), rows, RING)
    assert rewritten.broken is not None
    assert (rewritten.broken.number, "another entry" in rewritten.broken.why) == (0, True)


def test_the_bytes_of_an_old_entry_are_still_canonical() -> None:
    """A field that is added later must not break the log of today: this is a stored entry."""
    stored = encode_entry(
        msgspec.json.decode(
            b'{"number":0,"previous":"%s","at_ms":1,"who":"a","action":"b","subject":"c"}'
            % (b"0" * 64),
            type=AuditEntry,
        )
    )
    assert entry_digest(stored) == hashlib.sha256(stored).hexdigest()
    assert sorted(msgspec.json.decode(stored)) == [
        "action", "after", "at_ms", "before", "number", "previous", "reason", "subject", "who",
    ]  # fmt: skip
