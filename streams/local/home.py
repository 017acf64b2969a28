"""The home folder: who runs on it, where its servers are, and that there is one owner only."""

import errno
import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil

from schemas.errors import HomeInUse, SetupError
from schemas.settings import Settings

CLOCK_SLACK_MS = 2_000
"""Boot time is only known to about a second, and the start times of processes rest on it."""


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The running `tidemill up` of one home, as other commands find it.

    Attributes:
        pid: The process that owns the home.
        kafka: ``host:port`` of the broker, or of the existing cluster.
        clickhouse: Where the store is. May hold a password, so the file is its owner's alone.
        database: The database with our tables.
        pipelines: The pipelines that run.
        started_at_ms: When all of it was ready.
    """

    pid: int
    kafka: str
    clickhouse: str
    database: str
    pipelines: list[str]
    started_at_ms: int


class HomeLock:
    """Holds the home for one process. The kernel lets go of it however that process ends."""

    def __init__(self, home: Path) -> None:
        """Name the home; nothing is locked yet."""
        self._home = home.absolute()
        self._fd = -1

    def take(self) -> None:
        """Hold it from now on.

        Raises:
            HomeInUse: another process has it.
            SetupError: the folder cannot be written to.
        """
        path = self._home / "lock"
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as cause:
            raise SetupError(
                f"could not use home={self._home}: {cause}. Set TIDEMILL_HOME to a folder that "
                "can be written to."
            ) from cause
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            if cause.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise SetupError(f"could not lock home={self._home}: {cause}") from cause
            raise HomeInUse(
                f"could not start on home={self._home}: a Tidemill already runs there; "
                f"pid={owner}. Stop it (Ctrl-C in its terminal, or `kill {owner}`), or set "
                "TIDEMILL_HOME to another folder."
            ) from cause
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Let go of it; harmless when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_stack(settings: Settings, *, pipelines: list[str]) -> Stack:
    """Say that this process runs on the home of ``settings`` and where its servers are."""
    stack = Stack(
        pid=os.getpid(),
        kafka=settings.kafka,
        clickhouse=settings.clickhouse,
        database=settings.database,
        pipelines=pipelines,
        started_at_ms=int(time.time() * 1000),
    )
    path = _stack_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(stack))
    draft.replace(path)
    return stack


def read_stack(settings: Settings) -> Stack | None:
    """What runs on the home of ``settings``; None if nothing does or its process is gone."""
    try:
        stack = msgspec.json.decode(_stack_file(settings).read_bytes(), type=Stack)
        created_ms = psutil.Process(stack.pid).create_time() * 1000
    except (OSError, msgspec.MsgspecError, psutil.Error):
        return None
    # A process that is younger than the file only got the same process id.
    return stack if created_ms <= stack.started_at_ms + CLOCK_SLACK_MS else None


def remove_stack(settings: Settings) -> None:
    """Say that nothing runs on the home of ``settings`` any more."""
    _stack_file(settings).unlink(missing_ok=True)


def resolve(settings: Settings) -> Settings:
    """Fill in the addresses that the environment leaves out, from what runs on the home.

    With the store's address comes its database, unless the environment names another one.

    Raises:
        SetupError: an address is missing and nothing runs on the home.
    """
    if settings.kafka and settings.clickhouse:
        return settings
    stack = read_stack(settings)
    if stack is None:
        missing = [
            name
            for name, value in (
                ("TIDEMILL_KAFKA", settings.kafka),
                ("TIDEMILL_CLICKHOUSE", settings.clickhouse),
            )
            if not value
        ]
        raise SetupError(
            f"could not find the servers: nothing runs on home={settings.home.absolute()}. "
            f"Start `tidemill up`, or set {' and '.join(missing)}, or set TIDEMILL_HOME to the "
            "folder of a running one."
        )
    named = settings.database != Settings.__dataclass_fields__["database"].default
    keep_database = bool(settings.clickhouse) or named
    return replace(
        settings,
        kafka=settings.kafka or stack.kafka,
        clickhouse=settings.clickhouse or stack.clickhouse,
        database=settings.database if keep_database else stack.database,
    )


def _stack_file(settings: Settings) -> Path:
    return settings.run_folder / "stack.json"
