"""The files of a home's keys: the one that signs, and the list of those that are believed.

``signing.pem`` holds the private key, ``signing.trust.json`` beside it the public keys of others
and those that were replaced, each trusted or revoked. A running process notices within one use that
the list has changed and reads both files again: keys are rotated and revoked without a restart.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.errors import SettingsError
from schemas.undecodable import UNDECODABLE

RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
KEYS_MAX = 1000
"""A list longer than this is a mistake."""


class KnownKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key on the list.

    Attributes:
        key: 64 hexadecimal digits.
        state: Whether what it signed is believed.
        since_ms: Since when.
        reason: Why, for a person.
    """

    key: str
    state: Literal["trusted", "revoked"]
    since_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The two files of one home.

    Args of the constructor:
        path: The private key, a PEM file.
        others: Public keys that are trusted besides those on the list, 32 raw bytes each.
    """

    path: Path
    others: tuple[bytes, ...] = ()

    @property
    def list_path(self) -> Path:
        """The list of known keys."""
        return self.path.with_suffix(".trust.json")

    def stamp(self) -> int:
        """Changes whenever the list is written; 0 while there is none."""
        try:
            return self.list_path.stat().st_mtime_ns
        except OSError:
            return 0

    def private(self) -> Ed25519PrivateKey:
        """The key that signs; made, mode 0600, if there is none.

        Raises:
            SettingsError: the file is no Ed25519 key, or readable for others.
        """
        if not self.path.exists():
            _link_new(self.path, Ed25519PrivateKey.generate())
        try:
            mode = self.path.stat().st_mode & 0o777
            private = serialization.load_pem_private_key(self.path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as cause:
            raise SettingsError(
                f"could not use signing_key={self.path}: {type(cause).__name__}. Set "
                "TIDEMILL_SIGNING_KEY to a PEM file with an Ed25519 key and no password."
            ) from cause
        if not isinstance(private, Ed25519PrivateKey):
            raise SettingsError(f"could not use signing_key={self.path}: it is no Ed25519 key.")
        if mode & 0o077:
            raise SettingsError(
                f"could not use signing_key={self.path}: mode={mode:o} lets others read it. "
                "chmod 600 it."
            )
        return private

    def known(self) -> dict[str, KnownKey]:
        """The list, by key.

        Raises:
            SettingsError: it cannot be read. Never taken for an empty one: that would believe what
                was revoked.
        """
        try:
            found = msgspec.json.decode(self.list_path.read_bytes(), type=list[KnownKey])
            for one in found:
                public_key(one.key)
        except FileNotFoundError:
            return {}
        except (OSError, *UNDECODABLE, SettingsError) as cause:
            raise SettingsError(
                f"could not read the trusted keys in {self.list_path}: {cause}"
            ) from cause
        return {one.key: one for one in found}

    def rotate(self, *, now_ms: int) -> tuple[str, str]:
        """Sign with a new key from now on; (old, new). What the old one signed is still believed.

        Raises:
            SettingsError: a file cannot be used.
        """
        old, private = public_of(self.private()), Ed25519PrivateKey.generate()
        new = public_of(private)
        rotated = KnownKey(key=old, state="trusted", since_ms=now_ms, reason="replaced")
        known = self.known() | {old: rotated}
        # First the list, so that nobody meets a signature of the new key without knowing it. Then
        # the key, then the list again: its new time makes running processes read the key.
        fresh = KnownKey(key=new, state="trusted", since_ms=now_ms, reason="signs")
        self._write(known | {new: fresh})
        draft = _draft(self.path, _pem(private))
        draft.replace(self.path)
        self._write(known | {new: fresh})
        return old, new

    def trust(self, key: str, *, now_ms: int, reason: str = "") -> None:
        """Believe what ``key`` signed and signs.

        Raises:
            SettingsError: it is no key, or was revoked: that is for good.
        """
        public_key(key)
        known = self.known()
        if key in known and known[key].state == "revoked":
            raise SettingsError(
                f"could not trust key={key[:16]}: it was revoked ({known[key].reason}), which is "
                "for good. Make a new one: `tidemill keys rotate` on its machine."
            )
        self._write(
            known | {key: KnownKey(key=key, state="trusted", since_ms=now_ms, reason=reason)}
        )

    def revoke(self, key: str, *, now_ms: int, reason: str) -> None:
        """Never again believe what ``key`` signed, whoever else trusts it.

        Raises:
            SettingsError: it is no key, or the one that signs here.
        """
        public_key(key)
        if key == public_of(self.private()):
            raise SettingsError(
                f"could not revoke key={key[:16]}: it signs here. First `tidemill keys rotate`."
            )
        revoked = KnownKey(key=key, state="revoked", since_ms=now_ms, reason=reason)
        self._write(self.known() | {key: revoked})

    def _write(self, known: dict[str, KnownKey]) -> None:
        if len(known) > KEYS_MAX:
            raise SettingsError(f"could not keep {len(known)} keys: at most {KEYS_MAX}")
        before = self.stamp()
        text = msgspec.json.format(msgspec.json.encode(sorted(known.values(), key=_age)), indent=2)
        draft = _draft(self.list_path, text + b"\n")
        os.utime(draft, ns=(max(draft.stat().st_mtime_ns, before + 1),) * 2)
        draft.replace(self.list_path)


def public_of(private: Ed25519PrivateKey) -> str:
    """Its public key, 64 hexadecimal digits."""
    return private.public_key().public_bytes(*RAW).hex()


def public_key(text: str) -> Ed25519PublicKey:
    """The public key that 64 hexadecimal digits spell.

    Raises:
        SettingsError: they spell none.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as cause:
        raise SettingsError(
            f"could not use key={text[:80]!r}: {cause}. It is 64 hexadecimal digits, as "
            "`tidemill keys list` prints them."
        ) from cause


def parse_keys(text: str) -> tuple[bytes, ...]:
    """The keys in a setting, with commas between them.

    Raises:
        SettingsError: one is none.
    """
    found: Iterable[str] = filter(None, map(str.strip, text.split(",")))
    try:
        return tuple(public_key(one).public_bytes(*RAW) for one in found)
    except SettingsError as cause:
        raise SettingsError(
            f"could not use trusted_keys: {cause}. Each is 64 hexadecimal digits, with commas "
            "between them."
        ) from cause


def _age(one: KnownKey) -> tuple[int, str]:
    return one.since_ms, one.key


def _pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _draft(path: Path, content: bytes) -> Path:
    """``content`` on the disk beside ``path``, mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(draft)


def _link_new(path: Path, private: Ed25519PrivateKey) -> None:
    """Write a new key so that of several processes that try at once one wins, with a whole file."""
    draft = _draft(path, _pem(private))
    try:
        with contextlib.suppress(FileExistsError):  # another was quicker: its key is the home's
            os.link(draft, path)
    finally:
        draft.unlink()
