"""The embedded store: the gateway process that alone owns the ClickHouse engine."""

import http.client
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import StoreUnavailable
from streams.local.server import EmbeddedServer
from streams.store.gateway.passwords import Hash
from streams.store.gateway.users import User, write_users

GATEWAY = "streams.store.gateway"
OWN_USER = "tidemill"
"""Whom Tidemill's own processes log in as, where there are users; a new password at each start."""


class EmbeddedStore(EmbeddedServer):
    """One ClickHouse engine behind HTTP on the loopback interface."""

    what = "the embedded store"
    start_s_max = 60.0
    unavailable = StoreUnavailable

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        log: Path | None = None,
        users: Path | None = None,
    ) -> None:
        """Describe the store; nothing is started. Port 0 takes a free one.

        With a ``users`` file only those get in, and `url` holds a user of our own.
        """
        super().__init__(folder, port=port, log=log)
        self._users = None if users is None else users.absolute()
        self._password = "" if users is None else secrets.token_urlsafe(32)

    @property
    def url(self) -> str:
        """Where clients connect; with user and password if there are users."""
        login = f"{OWN_USER}:{self._password}@" if self._password else ""
        return f"http://{login}127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        """The gateway's command line."""
        gateway = [sys.executable, "-P", "-m", GATEWAY]
        command = [*gateway, "--folder", str(self.folder), "--port", str(self.port)]
        if self._users is not None:
            own = self.folder.with_name(f"{self.folder.name}.users.toml")
            # Its hash, not the password: that is only in our memory and in our children's.
            write_users(own, {User(OWN_USER): Hash.make(self._password)})
            command += ["--users", str(self._users), "--users", str(own)]
        return command

    def answers(self) -> bool:
        """Say whether ``GET /ping`` is answered with ``Ok.``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read(64).strip() == b"Ok."
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
