"""The users file: who may come in, with which password, to do what.

    [users.anna]
    password = "scrypt$15$8$3$...$..."    # made by: python -P -m streams.store.gateway.users add
    role = "read"                         # read, write or admin
    databases = ["tidemill"]              # left out: all; not for admins

    [users.anna.limits]                   # names and meaning: class Limits
    seconds_max = 60

    [limits.read]                         # of everybody with this role, unless said above
    queries_max = 8

The file holds no password, but hashes of weak ones can be guessed: it must be readable by its owner
alone, or by a group as well.
"""

import argparse
import getpass
import os
import re
import stat
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from schemas.errors import SetupError
from streams.store.gateway.access import Role
from streams.store.gateway.limits import Limits
from streams.store.gateway.passwords import Hash

USERS_MAX = 10_000
FILE_BYTES_MAX = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who was let in, with what they may do. Equal ones share connections."""

    name: str
    role: Role = Role.ADMIN
    databases: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


NOBODY: Final = User("default")
"""Who asks where there is no users file: on this machine only, without password."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user and the hash of the password."""

    user: User
    password: Hash = field(repr=False)


def read_users(file: Path) -> dict[str, Account]:
    """The accounts of ``file`` by name.

    Raises:
        SetupError: it cannot be read, others may read or write it, or it says something wrong. The
            message names the place and never repeats a hash.
    """
    try:
        with file.open("rb") as source:
            about = os.fstat(source.fileno())
            content = source.read(FILE_BYTES_MAX + 1)
    except OSError as cause:
        raise SetupError(f"could not read the users file {file}: {cause.strerror}.") from cause
    if about.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SetupError(
            f"could not use the users file {file}: others than its owner may read or change it; "
            f"mode={stat.S_IMODE(about.st_mode):04o}. Run: chmod 600 {file}"
        )
    if len(content) > FILE_BYTES_MAX:
        raise SetupError(f"could not use the users file {file}: it is over {FILE_BYTES_MAX} bytes.")
    try:
        return _accounts(tomllib.loads(content.decode()))
    except UnicodeDecodeError as cause:
        raise SetupError(f"could not read the users file {file}: it is not UTF-8.") from cause
    except ValueError as cause:  # TOMLDecodeError is one
        raise SetupError(f"could not read the users file {file}: {cause}.") from cause


def _accounts(document: Mapping[str, Any]) -> dict[str, Account]:
    _known(document, {"users", "limits"}, "the file")
    limits = _table(document, "limits", "the file")
    _known(limits, set(Role), "limits")
    by_role = {
        role: _limits(_table(limits, role, "limits"), Limits(), f"limits.{role}") for role in Role
    }
    users = _table(document, "users", "the file")
    if not 1 <= len(users) <= USERS_MAX:
        raise ValueError(f"it must have 1 to {USERS_MAX} users")
    return {name: _account(name, users, by_role) for name in users}


def _account(name: str, users: Mapping[str, Any], by_role: Mapping[Role, Limits]) -> Account:
    where = f"users.{name}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"user name {name!r} must be 1 to 64 of A-Z, a-z, 0-9 and _ . @ -")
    entry = _table(users, name, "users")
    _known(entry, {"password", "role", "databases", "limits"}, where)
    if entry.get("role") not in set(Role):
        raise ValueError(f"{where}.role must be one of {', '.join(Role)}")
    role = Role(entry["role"])
    databases = entry.get("databases", [])
    if not isinstance(databases, list) or not all(isinstance(d, str) and d for d in databases):
        raise ValueError(f"{where}.databases must be a list of names")
    if "databases" in entry and (role is Role.ADMIN or not databases):
        raise ValueError(f"{where}.databases must be left out for all of them, as admins have")
    if {"system", "default", "information_schema"} & {d.lower() for d in databases}:
        raise ValueError(f"{where}.databases must not name a database of the engine itself")
    try:
        password = Hash.read(str(entry.get("password", "")))
    except ValueError as cause:
        raise ValueError(f"{where}.password cannot be used: {cause}") from None
    limits = _limits(_table(entry, "limits", where), by_role[role], f"{where}.limits")
    return Account(User(name, role, tuple(databases), limits), password)


def _limits(table: Mapping[str, Any], base: Limits, where: str) -> Limits:
    try:
        return Limits.read(table, base=base)
    except ValueError as cause:
        raise ValueError(f"{where}: {cause}") from cause


def _table(parent: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = parent.get(name, {})
    if isinstance(found, dict):
        return found
    raise ValueError(f"{name} of {where} must be a table")


def _known(table: Mapping[str, Any], names: set[Any], where: str) -> None:
    unknown = set(table) - {str(name) for name in names}
    if unknown:
        raise ValueError(f"{where} has the unknown entry {min(unknown)[:80]!r}")


def entry_text(user: User, password: Hash) -> str:
    """The lines of the users file for ``user``."""
    lines = [f'[users."{user.name}"]', f'password = "{password.text}"', f'role = "{user.role}"']
    if user.databases:
        names = ", ".join(f'"{name}"' for name in user.databases)
        lines.append(f"databases = [{names}]")
    return "\n".join(lines) + "\n"


def write_users(file: Path, users: Mapping[User, Hash]) -> None:
    """Make ``file`` anew with ``users``, whole or not at all, for its owner alone."""
    text = "\n".join(entry_text(user, password) for user, password in users.items())
    _draft(file, text).replace(file)


def _draft(file: Path, text: str) -> Path:
    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    return draft


def add_user(file: Path, user: User, password: str) -> None:
    """Append ``user`` to ``file``, which is made if it is missing, whole or not at all.

    Raises:
        SetupError: the user is there already, or the file or the entry cannot be used.
    """
    known = read_users(file) if file.exists() else {}
    if user.name in known:
        raise SetupError(f"could not add user {user.name}: {file} has one. Take its entry out.")
    try:
        entry = entry_text(user, Hash.make(password))
    except ValueError as cause:
        raise SetupError(f"could not add user {user.name}: {cause}.") from None
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o600
    draft = _draft(file, before + ("\n" if before else "") + entry)
    try:
        draft.chmod(mode)
        read_users(draft)
        draft.replace(file)
    except SetupError:
        draft.unlink()
        raise


def main(arguments: list[str] | None = None) -> int:
    """``python -P -m streams.store.gateway.users add NAME --role read --file users.toml``."""
    parser = argparse.ArgumentParser(prog="python -P -m streams.store.gateway.users")
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("add", help="add a user; the password is asked for")
    add.add_argument("name")
    add.add_argument("--role", choices=list(Role), required=True, type=Role)
    add.add_argument("--database", action="append", default=[], help="repeat for several")
    add.add_argument("--file", type=Path, required=True, help="the users file")
    add.add_argument("--password-file", type=Path, help="first line is the password")
    options = parser.parse_args(arguments)
    try:
        user = User(options.name, options.role, tuple(options.database))
        add_user(options.file, user, _password(options.password_file))
    except (SetupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"added {options.name} to {options.file}; a running store reads it within a second")
    return 0


def _password(file: Path | None) -> str:
    if file is not None:
        return (file.read_text(encoding="utf-8").splitlines() or [""])[0]
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("Again: "):
        raise SetupError("could not add the user: the two passwords differ.")
    return password


if __name__ == "__main__":
    sys.exit(main())
