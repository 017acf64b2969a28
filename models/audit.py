"""The chain of audit entries: how one follows another, and where a chain is broken."""

from collections.abc import Iterable

import msgspec

from models.signing import Keyring
from schemas.audit import FIRST, AuditEntry, decode_entry, encode_entry, entry_digest
from schemas.errors import SchemaError, SignatureRefused

REVOKE = "revoke key"
"""The action after which entries of the key it is about are not believed any more."""
_PURPOSE = "audit entry"

Sealed = tuple[bytes, bytes | None]
"""Canonical bytes of an entry, and its signature; None where there is none."""


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """The first link of a chain that does not hold.

    Attributes:
        number: The place in the chain, from 0.
        why: What is wrong with it, for a person.
    """

    number: int
    why: str


class Chain:
    """The end of a chain while it is read from its start.

    Args of the constructor:
        keyring: Knows whose signatures count.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._revoked: set[str] = set()
        self.length = 0
        self.last = FIRST
        """Digest of the newest entry."""

    def follow(self, content: bytes, signature: bytes | None) -> AuditEntry | Broken:
        """The next entry, if it follows the one before; else why not, and the chain stays."""
        try:
            entry = decode_entry(content)
            signer = self._signer(content, signature)
        except (SchemaError, SignatureRefused) as cause:
            return Broken(number=self.length, why=str(cause))
        why = ""
        if entry.number != self.length:
            why = f"it has number {entry.number}: entries were dropped, repeated or put in"
        elif entry.previous != self.last:
            why = f"it follows {entry.previous[:16]}, but the entry before is {self.last[:16]}"
        elif signer in self._revoked:
            why = f"key={signer[:16]} signed it, which was revoked before"
        if why:
            return Broken(number=self.length, why=why)
        if entry.action == REVOKE:
            self._revoked.add(entry.subject)
        self.length += 1
        self.last = entry_digest(content)
        return entry

    def _signer(self, content: bytes, signature: bytes | None) -> str:
        if signature is None:
            raise SignatureRefused("it is not signed")
        digest, signer = self._keyring.open_history(_PURPOSE, signature)
        if digest != entry_digest(content).encode():
            raise SignatureRefused("its signature is that of another entry: bytes were changed")
        return signer


def seal_entry(keyring: Keyring, entry: AuditEntry) -> tuple[bytes, bytes]:
    """Canonical bytes of ``entry``, and the signature that goes with them."""
    content = encode_entry(entry)
    return content, keyring.sign(_PURPOSE, entry_digest(content).encode())


def verify_chain(found: Iterable[Sealed], keyring: Keyring) -> tuple[int, Broken | None]:
    """How many entries hold from the start, and the first that does not; None: all hold.

    Not noticed: entries missing at the end. Whoever keeps the newest digest elsewhere sees that.
    """
    chain = Chain(keyring)
    for content, signature in found:
        link = chain.follow(content, signature)
        if isinstance(link, Broken):
            return chain.length, link
    return chain.length, None
