"""Keys: replaced while processes run, trusted from elsewhere, and taken back for good."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.keys import KeyFiles, parse_keys, public_of
from models.signing import load_keyring
from schemas.errors import SettingsError, SignatureRefused


def test_a_running_process_follows_a_rotation(tmp_path: Path) -> None:
    """
    Goal: nobody restarts anything, and nothing that is signed is refused on the way.

    Method: two keyrings of one home, as two processes have them, and a rotation under them.
    """
    path = tmp_path / "signing.pem"
    signer, reader = load_keyring(path), load_keyring(path)
    before = signer.sign("snapshot", b"x")
    old, new = KeyFiles(path).rotate(now_ms=5)
    assert reader.open("snapshot", before) == b"x"
    after = signer.sign("snapshot", b"y")
    assert signer.public.hex() == new != old
    assert reader.open("snapshot", after) == b"y"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in KeyFiles(path).list_path.read_bytes()


def test_many_rotations_in_one_moment_are_all_noticed(tmp_path: Path) -> None:
    """A file's time has a grain; the list must not look unchanged within it."""
    path = tmp_path / "signing.pem"
    ring = load_keyring(path)
    for number in range(20):
        _old, new = KeyFiles(path).rotate(now_ms=number)
        ring.sign("snapshot", b"x")
        assert ring.public.hex() == new


def test_what_a_revoked_key_signed_is_refused_at_once(tmp_path: Path) -> None:
    """Also where a setting still names the key as trusted: a lost key is lost everywhere."""
    path = tmp_path / "signing.pem"
    ring = load_keyring(path)
    stolen = ring.sign("snapshot", b"x")
    old, _new = KeyFiles(path).rotate(now_ms=1)
    running = load_keyring(path, trusted=old)
    assert running.open("snapshot", stolen) == b"x"
    KeyFiles(path).revoke(old, now_ms=2, reason="lost")
    for one in (ring, running, load_keyring(path, trusted=old)):
        with pytest.raises(SignatureRefused, match="was revoked"):
            one.open("snapshot", stolen)
        assert one.open_history("snapshot", stolen) == (b"x", old)
    with pytest.raises(SettingsError, match="for good"):
        KeyFiles(path).trust(old, now_ms=3)


def test_a_key_from_elsewhere_is_believed_once_it_is_trusted(tmp_path: Path) -> None:
    """By a running process, too."""
    here, there = load_keyring(tmp_path / "a" / "k.pem"), load_keyring(tmp_path / "b" / "k.pem")
    foreign = there.sign("snapshot", b"x")
    with pytest.raises(SignatureRefused, match="not trusted here"):
        here.open("snapshot", foreign)
    with pytest.raises(SignatureRefused, match="never trusted here"):
        here.open_history("snapshot", foreign)
    KeyFiles(tmp_path / "a" / "k.pem").trust(there.public.hex(), now_ms=1)
    assert here.open("snapshot", foreign) == b"x"


def test_the_key_that_signs_cannot_be_revoked(tmp_path: Path) -> None:
    """Everything would stop; `rotate` comes first."""
    files = KeyFiles(tmp_path / "signing.pem")
    with pytest.raises(SettingsError, match="tidemill keys rotate"):
        files.revoke(public_of(files.private()), now_ms=1, reason="?")
    assert files.known() == {}


@pytest.mark.parametrize("content", [b"", b"[", b'[{"key":"ab","state":"trusted","since_ms":1}]'])
def test_a_list_that_cannot_be_read_is_never_an_empty_one(content: bytes, tmp_path: Path) -> None:
    """Taken for empty, it would bring back what was revoked."""
    path = tmp_path / "signing.pem"
    ring = load_keyring(path)
    KeyFiles(path).list_path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"signing\.trust\.json"):
        load_keyring(path)
    with pytest.raises(SettingsError, match=r"signing\.trust\.json"):
        ring.sign("snapshot", b"x")


def test_what_is_no_key_is_said(tmp_path: Path) -> None:
    """Sixty-four digits, not the beginning of them that messages show."""
    with pytest.raises(SettingsError, match="64 hexadecimal digits"):
        KeyFiles(tmp_path / "k.pem").trust("abcd", now_ms=1)
    with pytest.raises(SettingsError, match="could not use trusted_keys"):
        parse_keys("00")
    key = public_of(Ed25519PrivateKey.generate())
    assert parse_keys(f" {key}, ") == (bytes.fromhex(key),)
