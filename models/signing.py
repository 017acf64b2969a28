"""Who made it: Ed25519 signatures over whatever is loaded into a process.

A home makes its own key at its first start. Several machines share one key, or each trusts the
public keys of the others (``TIDEMILL_TRUSTED_KEYS``). To rotate: add the new public key to the
trusted ones everywhere, then give the signers the new file, then drop the old public key when
nothing it signed is read any more.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.errors import SettingsError, SignatureRefused
from schemas.undecodable import UNDECODABLE

_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


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
        self._private = private
        self.public = private.public_key().public_bytes(*_RAW)
        """The own public key, 32 raw bytes; others trust it by its hexadecimal form."""
        self._trusted = {
            key.hex(): Ed25519PublicKey.from_public_bytes(key) for key in (self.public, *trusted)
        }

    def sign(self, purpose: str, content: bytes) -> bytes:
        """``content`` in a signed envelope that is good for ``purpose`` only."""
        signature = self._private.sign(_signed(purpose, content))
        return _encode(_Envelope(1, self.public.hex(), signature, content))

    def open(self, purpose: str, envelope: bytes) -> bytes:
        """The content of ``envelope``, if a trusted key signed it for ``purpose``.

        Raises:
            SignatureRefused: it is no envelope, the key is not trusted, or a byte was changed.
        """
        try:
            found = _decode(envelope)
        except UNDECODABLE as cause:
            raise SignatureRefused(f"could not check a signature: no envelope: {cause}") from cause
        key = self._trusted.get(found.key)
        if found.version != 1 or key is None:
            raise SignatureRefused(
                f"could not trust a {purpose}: version={found.version} signed by "
                f"key={found.key[:16]}, which is not trusted here. If it should be, add the whole "
                "key to TIDEMILL_TRUSTED_KEYS."
            )
        try:
            key.verify(found.signature, _signed(purpose, found.content))
        except InvalidSignature as cause:
            raise SignatureRefused(
                f"could not trust a {purpose}: the signature of key={found.key[:16]} does not fit; "
                f"bytes={len(found.content)} were changed or signed for something else"
            ) from cause
        return found.content


def load_keyring(path: Path, trusted: str = "") -> Keyring:
    """The keyring whose private key is the PEM file ``path``; made, mode 0600, if there is none.

    ``trusted`` are more public keys, hexadecimal, with commas between them.

    Raises:
        SettingsError: the file is no Ed25519 key or readable for others, or a public key is none.
    """
    if not path.exists():
        _make(path)
    try:
        mode = path.stat().st_mode & 0o777
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as cause:
        raise SettingsError(
            f"could not use signing_key={path}: {cause}. Set TIDEMILL_SIGNING_KEY to a PEM file "
            "with an Ed25519 key and no password."
        ) from cause
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(f"could not use signing_key={path}: it is no Ed25519 key.")
    if mode & 0o077:
        raise SettingsError(
            f"could not use signing_key={path}: mode={mode:o} lets others read it. chmod 600 it."
        )
    try:
        keys = [bytes.fromhex(text) for text in filter(None, map(str.strip, trusted.split(",")))]
        return Keyring(private, keys)
    except ValueError as cause:
        raise SettingsError(
            f"could not use trusted_keys: {cause}. Each is 64 hexadecimal digits, with commas "
            "between them."
        ) from cause


def _signed(purpose: str, content: bytes) -> bytes:
    return b"tidemill 1\0" + purpose.encode() + b"\0" + content


def _make(path: Path) -> None:
    """Write a new key so that of several processes that try at once one wins, with a whole file."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another was quicker: its key is the home's
            os.link(draft, path)
    finally:
        Path(draft).unlink()
