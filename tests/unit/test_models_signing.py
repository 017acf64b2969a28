"""Who may put a model into a process: the key of the home, and keys that a person trusts."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from models.signing import Keyring, load_keyring
from schemas.errors import SettingsError, SignatureRefused

RING = Keyring(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
STRANGER = Keyring(Ed25519PrivateKey.from_private_bytes(b"2" * 32))


@given(st.binary(max_size=300))
def test_signed_bytes_come_back(content: bytes) -> None:
    """Any bytes, also none."""
    assert RING.open("snapshot", RING.sign("snapshot", content)) == content


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(where: int, change: int) -> None:
    """In the content, the signature, the key's name or the frame around them."""
    envelope = bytearray(RING.sign("snapshot", b"weights of a learner"))
    envelope[where % len(envelope)] ^= change
    with pytest.raises(SignatureRefused):
        RING.open("snapshot", bytes(envelope))


def test_other_keys_and_other_purposes_are_refused() -> None:
    """A signed manifest must not pass for a snapshot, and a stranger's snapshot for ours."""
    with pytest.raises(SignatureRefused, match="not trusted here"):
        RING.open("snapshot", STRANGER.sign("snapshot", b"x"))
    with pytest.raises(SignatureRefused, match="changed or signed for something else"):
        RING.open("snapshot", RING.sign("manifest", b"x"))
    for broken in (b"", b"x" * 200, RING.sign("snapshot", b"x")[:-1]):
        with pytest.raises(SignatureRefused):
            RING.open("snapshot", broken)


def test_a_trusted_key_is_believed_and_so_keys_can_be_rotated(tmp_path: Path) -> None:
    """The old public key stays trusted until nothing it signed is read any more."""
    old = load_keyring(tmp_path / "old.pem")
    new = load_keyring(tmp_path / "new.pem", trusted=f" {old.public.hex()}, ")
    assert new.open("snapshot", old.sign("snapshot", b"x")) == b"x"
    assert new.open("snapshot", new.sign("snapshot", b"x")) == b"x"
    with pytest.raises(SignatureRefused):
        old.open("snapshot", new.sign("snapshot", b"x"))


def test_the_key_is_made_once_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """The first start of a home makes it; the next ones find it."""
    path = tmp_path / "keys" / "signing.pem"
    first = load_keyring(path)
    assert load_keyring(path).public == first.public
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["signing.pem"]
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_keyring(path)


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    """A person must change it."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"no key")
    with pytest.raises(SettingsError, match="TIDEMILL_SIGNING_KEY"):
        load_keyring(path)
    path.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="no Ed25519 key"):
        load_keyring(path)
    path.unlink()
    with pytest.raises(SettingsError, match="64 hexadecimal digits"):
        load_keyring(path, trusted="abc")
