"""Passwords: made into entries of the users file, and compared with them.

scrypt (RFC 7914) with the strength that OWASP's Password Storage Cheat Sheet names (2^15, 8, 3):
32 MiB and about 0.2 s for one comparison, here and on every guess. The caller remembers who was let
in (`authentication`), so that a request does not cost that.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Self

PASSWORD_BYTES_MAX = 1024
PASSWORD_LENGTH_MIN = 8
_COST, _BLOCK, _PARALLEL = 15, 8, 3
_SALT_BYTES = 16
_KEY_BYTES = 32
_ENTRY = re.compile(r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([\w+/=]+)\$([\w+/=]+)", re.ASCII)


@dataclass(frozen=True, slots=True, repr=False)
class Hash:
    """What is kept of a password. ``text`` is its form in the users file."""

    text: str
    cost: int
    block: int
    parallel: int
    salt: bytes
    key: bytes

    @classmethod
    def make(cls, password: str) -> Self:
        """A new entry for ``password``; two of the same password differ.

        Raises:
            ValueError: the password is too short or too long.
        """
        length = len(password.encode())
        if len(password) < PASSWORD_LENGTH_MIN or length > PASSWORD_BYTES_MAX:
            raise ValueError(
                f"a password has at least {PASSWORD_LENGTH_MIN} characters and at most "
                f"{PASSWORD_BYTES_MAX} bytes"
            )
        salt = secrets.token_bytes(_SALT_BYTES)
        key = _derive(password, salt, cost=_COST, block=_BLOCK, parallel=_PARALLEL)
        text = "$".join(
            ("scrypt", str(_COST), str(_BLOCK), str(_PARALLEL), _encoded(salt), _encoded(key))
        )
        return cls(text, _COST, _BLOCK, _PARALLEL, salt, key)

    @classmethod
    def read(cls, text: str) -> Self:
        """The entry ``text`` of a users file.

        Raises:
            ValueError: it is no such entry; the message does not repeat it.
        """
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise ValueError("it is not of the form scrypt$15$8$3$salt$key")
        cost, block, parallel = (int(match.group(i)) for i in (1, 2, 3))
        # Bounds also on what a file may ask of this process: 128 MiB at most.
        if not (12 <= cost <= 17 and 1 <= block <= 8 and 1 <= parallel <= 8):
            raise ValueError("its cost must be 12 to 17, block and parallel 1 to 8")
        try:
            salt, key = (base64.b64decode(match.group(i), validate=True) for i in (4, 5))
        except binascii.Error:
            raise ValueError("salt and key must be Base64") from None
        if len(salt) < _SALT_BYTES or len(key) != _KEY_BYTES:
            raise ValueError(f"salt has {_SALT_BYTES} bytes at least, key {_KEY_BYTES}")
        return cls(text, cost, block, parallel, salt, key)

    def fits(self, password: str) -> bool:
        """Whether this is the hash of ``password``. Takes its time, without the GIL."""
        if len(password.encode()) > PASSWORD_BYTES_MAX:
            return False
        found = _derive(
            password, self.salt, cost=self.cost, block=self.block, parallel=self.parallel
        )
        return hmac.compare_digest(found, self.key)


def _derive(password: str, salt: bytes, *, cost: int, block: int, parallel: int) -> bytes:
    memory = 128 * block * ((1 << cost) + parallel) + (1 << 20)
    return hashlib.scrypt(
        password.encode(), salt=salt, n=1 << cost, r=block, p=parallel, maxmem=memory,
        dklen=_KEY_BYTES,
    )  # fmt: skip


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
