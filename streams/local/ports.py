"""Free ports on the loopback interface, each given to one Tidemill only.

A port that is free now may be taken a second later by another stack that looked at the same moment.
Then its broker answers on our port, ours dies, and our workers would work for the other one. So a
port is also reserved, for as long as this process lives, by a lock that every Tidemill of this user
asks for.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from schemas.errors import SetupError

_RANGE = range(15_000, 32_000)
"""Below what Linux and macOS give to outgoing connections: otherwise a client's own connection may
take a broker's port while that broker restarts."""

_ATTEMPTS_MAX = 200


def port_free(port: int) -> bool:
    """Say whether a server could listen on 127.0.0.1:``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        # Linux lets two sockets bind with SO_REUSEADDR while neither listens: ask for both.
        try:
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(preferred: int = 0) -> int:
    """``preferred`` if it is free, otherwise a random free one; reserved for this process.

    Within one process, only a port asked for by its number is given twice.

    Raises:
        SetupError: none is free.
    """
    if preferred and port_free(preferred) and (preferred in _reserved or _reserve(preferred)):
        return preferred
    for _ in range(_ATTEMPTS_MAX):
        port = random.choice(_RANGE)  # noqa: S311  # two processes must not try the same order
        if port_free(port) and _reserve(port):
            return port
    raise SetupError(
        f"could not find a free port on 127.0.0.1 from {_RANGE.start} to {_RANGE.stop}: "
        f"{_ATTEMPTS_MAX} random ones are in use."
    )


_reserved: dict[int, int] = {}
"""File descriptors of our locks by port. The kernel lets go of them however this process ends."""


def _reserve(port: int) -> bool:
    """Hold ``port`` against every other Tidemill of this user; False if one of them has it."""
    if port in _reserved:
        return False
    folder = Path(tempfile.gettempdir()) / f"tidemill-ports-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return True  # no place to lock: as good as it was without
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return False
    _reserved[port] = fd
    return True
