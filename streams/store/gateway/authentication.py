"""Who sends a request: what it claims, compared with the users file, which may change meanwhile."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from schemas.errors import SetupError
from streams.store.gateway.errors import (
    AUTHENTICATION_FAILED,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    EngineError,
    refusal,
)
from streams.store.gateway.passwords import PASSWORD_BYTES_MAX, Hash
from streams.store.gateway.users import NOBODY, Account, User, read_users

CHECK_S = 1.0
"""How often the users file is looked at, at most."""
KNOWN_MAX = 1024
"""Comparisons remembered: right passwords and wrong ones apart."""
WAITING_MAX = 16
"""Logins that wait for their comparison; more are told to come again."""
FAILURES_MAX = 6
"""Wrong passwords that one address may try at once; one more each `FAILURE_S` seconds."""
FAILURE_S = 10.0
ADDRESSES_MAX = 4096

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, repr=False)
class Claim:
    """A name and a password that a request came with."""

    name: str
    password: str


def read_claim(headers: Mapping[str, str], parameters: Mapping[str, str]) -> Claim:
    """What a request says of its sender, in any of the three forms that clients use.

    Raises:
        EngineError: an Authorization header of another kind, or two forms that contradict.
    """
    claims: set[tuple[str, str]] = set()
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        user = headers.get("X-ClickHouse-User", "default")
        claims.add((user, headers.get("X-ClickHouse-Key", "")))
    if "Authorization" in headers:
        kind, _, token = headers["Authorization"].partition(" ")
        try:
            text = base64.b64decode(token.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            text = ""
        user, colon, password = text.partition(":")
        if kind.lower() != "basic" or not colon:
            raise refusal(AUTHENTICATION_FAILED, "The Authorization header cannot be used.")
        claims.add((user, password))
    if "user" in parameters or "password" in parameters:
        claims.add((parameters.get("user", "default"), parameters.get("password", "")))
    if len(claims) > 1:
        raise refusal(AUTHENTICATION_FAILED, "The request names two users or two passwords.")
    name, password = claims.pop() if claims else ("default", "")
    # Headers may hold bytes that are no text; nobody's name or password does.
    name, password = (text.encode(errors="replace").decode() for text in (name, password))
    return Claim(name or "default", password)


@dataclass(slots=True)
class _Known:
    """The newest of what was asked, up to a bound."""

    most: int
    _found: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)

    def __contains__(self, key: bytes) -> bool:
        if key not in self._found:
            return False
        self._found.move_to_end(key)
        return True

    def add(self, key: bytes) -> None:
        self._found[key] = None
        if len(self._found) > self.most:
            self._found.popitem(last=False)


@dataclass(slots=True)
class _Failures:
    """Wrong passwords by address, forgotten one by one."""

    clock: Callable[[], float]
    _found: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)

    def level(self, address: str) -> float:
        count, since_s = self._found.get(address, (0.0, 0.0))
        return max(0.0, count - (self.clock() - since_s) / FAILURE_S)

    def add(self, address: str) -> None:
        self._found[address] = (self.level(address) + 1.0, self.clock())
        self._found.move_to_end(address)
        if len(self._found) > ADDRESSES_MAX:
            self._found.popitem(last=False)


class Doorkeeper:
    """Lets users in. Without a users file everybody is `NOBODY`, and no password is right.

    A right password is compared slowly once in the life of the process and its entry, a wrong one
    once as well while it is remembered. What is remembered is keyed by a secret of this process.
    Used by the event loop's thread only.
    """

    def __init__(
        self, files: Sequence[Path] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read ``files``.

        Raises:
            SetupError: one cannot be used.
        """
        self._files = tuple(files)
        self._clock = clock
        self._seen = self._signature()
        self._accounts = self._read()
        self.databases = _restricted(self._accounts)
        """Databases that some user was restricted to at the start: the engine has their roles."""
        self._check_s = clock() + CHECK_S
        self._right, self._wrong = _Known(KNOWN_MAX), _Known(KNOWN_MAX)
        self._failures = _Failures(clock)
        self._secret = secrets.token_bytes(32)
        self._threads = ThreadPoolExecutor(1, "password")
        self._waiting = 0
        # Compared with when there is no such user, which then takes as long.
        self._nobody: Final = Hash.make(secrets.token_hex(16)) if files else None

    @property
    def guarded(self) -> bool:
        """Whether there are users."""
        return bool(self._files)

    async def let_in(self, claim: Claim, *, address: str) -> User:
        """The user that ``claim`` belongs to.

        Raises:
            EngineError: AUTHENTICATION_FAILED, in the same words whatever was wrong; or too many
                logins at once or failures from this address.
        """
        if not self._files:
            if not _same(claim.name, NOBODY.name) or not _same(claim.password, ""):
                raise _failed(claim)
            return NOBODY
        self._reload()
        if not claim.password:  # nobody has an empty one, and it is no guess
            raise _failed(claim)
        account = self._accounts.get(claim.name)
        stored = self._nobody if account is None else account.password
        assert stored is not None
        key = self._key(claim, stored)
        if account is not None and key in self._right:
            return account.user
        # The address's part comes after what is known, so that an attack from it shuts nobody out
        # who was in.
        if self._failures.level(address) > FAILURES_MAX - 1:
            raise refusal(
                TOO_MANY_SIMULTANEOUS_QUERIES, "Too many failed logins from this address."
            )
        if key in self._wrong or not await self._fits(stored, claim.password) or account is None:
            self._wrong.add(key)
            self._failures.add(address)
            raise _failed(claim)
        self._right.add(key)
        return account.user

    def _read(self) -> dict[str, Account]:
        found: dict[str, Account] = {}
        for file in self._files:
            accounts = read_users(file)
            if twice := set(found) & set(accounts):
                raise SetupError(
                    f"could not use the users file {file}: user {min(twice)} is in another as well."
                )
            found |= accounts
        return found

    def _signature(self) -> tuple[tuple[int, ...], ...]:
        found: list[tuple[int, ...]] = []
        for file in self._files:
            try:
                about = file.stat()
            except OSError:
                found.append(())
            else:
                found.append((about.st_mtime_ns, about.st_size, about.st_ino, about.st_mode))
        return tuple(found)

    def close(self) -> None:
        """Stop the thread."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _fits(self, stored: Hash, password: str) -> bool:
        if self._waiting >= WAITING_MAX:
            raise refusal(TOO_MANY_SIMULTANEOUS_QUERIES, "Too many logins at once.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, stored.fits, password
            )
        finally:
            self._waiting -= 1

    def _key(self, claim: Claim, stored: Hash) -> bytes:
        text = "\0".join((claim.name, stored.text, claim.password[: PASSWORD_BYTES_MAX + 1]))
        return hmac.digest(self._secret, text.encode(errors="replace"), hashlib.sha256)

    def _reload(self) -> None:
        """Take a changed file; one that cannot be used changes nothing and is logged once."""
        if self._clock() < self._check_s:
            return
        self._check_s = self._clock() + CHECK_S
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            accounts = self._read()
            if unknown := _restricted(accounts) - self.databases:
                raise SetupError(
                    f"could not use the changed users file: nobody was restricted to database "
                    f"{min(unknown)} when the store started. Restart it."
                )
        except SetupError as error:
            log.error("users not changed", why=str(error))  # noqa: TRY400  # for a person
            return
        gone = sorted(set(self._accounts) - set(accounts))
        new = sorted(set(accounts) - set(self._accounts))
        self._accounts = accounts
        log.info("users changed", users=len(accounts), added=new, removed=gone)


def _restricted(accounts: Mapping[str, Account]) -> frozenset[str]:
    return frozenset(d for one in accounts.values() for d in one.user.databases)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


def _failed(claim: Claim) -> EngineError:
    shown = claim.name[:64] if claim.name.isprintable() else "?"
    return refusal(
        AUTHENTICATION_FAILED,
        f"{shown}: Authentication failed: password is incorrect, or there is no user with "
        "such name.",
    )
