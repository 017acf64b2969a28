"""Who made it: Ed25519 signatures over whatever is loaded into a process.

A home makes its own key at its first start. Several machines share one key, or each trusts the
public keys of the others (``TIDEMILL_TRUSTED_KEYS``, or `tidemill keys trust`). `tidemill keys
rotate` replaces the key, `tidemill keys revoke` takes the trust back (`models.keys`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.keys import RAW, KeyFiles, parse_keys, public_key
from schemas.errors import SignatureRefused
from schemas.undecodable import UNDECODABLE


class _Envelope(msgspec.Struct, array_like=True):
    version: int
    key: str
    signature: bytes
    content: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Envelope).decode


class Keyring:
    """One private key to sign with, and the public keys that are believed: its own and others.

    Args of the constructor:
        private: Signs.
        trusted: Public keys of other signers, 32 raw bytes each.
    """

    def __init__(self, private: Ed25519PrivateKey, trusted: Iterable[bytes] = ()) -> None:
        self._files: KeyFiles | None = None
        self._stamp = 0
        self._revoked: set[str] = set()
        self._take(private, trusted)

    @classmethod
    def of_files(cls, files: KeyFiles) -> Self:
        """The keyring in ``files``, which follows them when they change.

        Raises:
            SettingsError: a file cannot be used.
        """
        ring = cls(files.private())
        ring._files, ring._stamp = files, -1
        ring._refresh()
        return ring

    def sign(self, purpose: str, content: bytes) -> bytes:
        """``content`` in a signed envelope that is good for ``purpose`` only."""
        self._refresh()
        signature = self._private.sign(_signed(purpose, content))
        return _encode(_Envelope(1, self.public.hex(), signature, content))

    def open(self, purpose: str, envelope: bytes) -> bytes:
        """The content of ``envelope``, if a trusted key signed it for ``purpose``.

        Raises:
            SignatureRefused: it is no envelope, the key is not trusted, or a byte was changed.
        """
        self._refresh()
        found = _envelope(envelope)
        if found.version != 1 or found.key not in self._trusted:
            why = "was revoked" if found.key in self._revoked else "is not trusted here"
            raise SignatureRefused(
                f"could not trust a {purpose}: version={found.version} signed by "
                f"key={found.key[:16]}, which {why}. If it should be, add the whole key to "
                "TIDEMILL_TRUSTED_KEYS, or `tidemill keys trust` it."
            )
        _check(purpose, found)
        return found.content

    def open_history(self, purpose: str, envelope: bytes) -> tuple[bytes, str]:
        """Content and signer of ``envelope``, also if its key was revoked meanwhile.

        For records of the past alone: whether the key was good at that time is for the caller.

        Raises:
            SignatureRefused: it is no envelope, nobody here ever knew the key, or a byte was
                changed.
        """
        self._refresh()
        found = _envelope(envelope)
        if found.version != 1 or not (found.key in self._trusted or found.key in self._revoked):
            raise SignatureRefused(
                f"could not check a {purpose}: key={found.key[:16]} was never trusted here. If it "
                "should be, `tidemill keys trust` the whole key."
            )
        _check(purpose, found)
        return found.content, found.key

    def _take(self, private: Ed25519PrivateKey, trusted: Iterable[bytes]) -> None:
        self._private = private
        self.public = private.public_key().public_bytes(*RAW)
        """The own public key, 32 raw bytes; others trust it by its hexadecimal form."""
        every = (self.public, *trusted)
        self._trusted = {public_key(key.hex()).public_bytes(*RAW).hex() for key in every}

    def _refresh(self) -> None:
        """Read the files again if they have changed: one look at a file's time per signature."""
        if self._files is None or (stamp := self._files.stamp()) == self._stamp:
            return
        known = self._files.known()
        trusted = {key for key, one in known.items() if one.state == "trusted"}
        self._take(self._files.private(), [*self._files.others, *map(bytes.fromhex, trusted)])
        self._revoked = set(known) - trusted
        self._trusted -= self._revoked
        self._stamp = stamp


def load_keyring(path: Path, trusted: str = "") -> Keyring:
    """The keyring whose private key is the PEM file ``path``; made, mode 0600, if there is none.

    ``trusted`` are more public keys, hexadecimal, with commas between them.

    Raises:
        SettingsError: the file is no Ed25519 key or readable for others, or a public key is none.
    """
    return Keyring.of_files(KeyFiles(path, parse_keys(trusted)))


def _envelope(envelope: bytes) -> _Envelope:
    try:
        return _decode(envelope)
    except UNDECODABLE as cause:
        raise SignatureRefused(f"could not check a signature: no envelope: {cause}") from cause


def _check(purpose: str, found: _Envelope) -> None:
    try:
        public_key(found.key).verify(found.signature, _signed(purpose, found.content))
    except InvalidSignature as cause:
        raise SignatureRefused(
            f"could not trust a {purpose}: the signature of key={found.key[:16]} does not fit; "
            f"bytes={len(found.content)} were changed or signed for something else"
        ) from cause


def _signed(purpose: str, content: bytes) -> bytes:
    return b"tidemill 1\0" + purpose.encode() + b"\0" + content
