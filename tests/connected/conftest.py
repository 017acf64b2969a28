"""A store with users, for the tests of who may do what."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.settings import Settings
from streams.local.store import EmbeddedStore
from streams.store.gateway.access import Role
from streams.store.gateway.passwords import Hash
from streams.store.gateway.users import User, write_users
from tests.connected.store_http import Reply, send

PASSWORD = "correct horse: battery-st\u00e4ple"
USERS = (
    User("ada", Role.ADMIN),
    User("will", Role.WRITE),
    User("rita", Role.READ),
    User("wanda", Role.WRITE, ("closed_own",)),
    User("rolf", Role.READ, ("closed_own",)),
)
LIMITED = """
[users.lena]
password = "{hash}"
role = "write"

[users.lena.limits]
queries_max = 2
memory_bytes_max = 200_000_000
seconds_max = 5
read_rows_max = 100_000
read_bytes_max = 10_000_000
result_rows_max = 1000
result_bytes_max = 100_000
"""


@dataclass(frozen=True)
class Guarded:
    """A store with `USERS` and lena, and its users file; all have the same password."""

    process: EmbeddedStore
    file: Path

    @property
    def url(self) -> str:
        """Its address, without a user."""
        return f"http://127.0.0.1:{self.process.port}"

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.process.log.read_text(encoding="utf-8")

    def ask(self, user: str, sql: str | bytes = b"", **parameters: object) -> Reply:
        """One request of ``user``."""
        login = {"X-ClickHouse-User": user, "X-ClickHouse-Key": PASSWORD.encode().decode("latin-1")}
        headers = login | dict(parameters.pop("headers", {}))  # type: ignore[call-overload]
        return send(self.url, sql, headers=headers, **parameters)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The store with users of this run. Its users file may be changed and must be put back."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "users.toml"
    stored = Hash.make(PASSWORD)
    write_users(file, dict.fromkeys(USERS, stored))
    with file.open("a") as out:
        out.write(LIMITED.format(hash=stored.text))
    with EmbeddedStore(folder / "clickhouse", users=file) as process:
        found = Guarded(process, file)
        for sql in (
            "CREATE DATABASE closed_own",
            "CREATE TABLE closed_own.t (a Int32) ENGINE = MergeTree ORDER BY a",
            "CREATE TABLE tidemill.t (a Int32) ENGINE = MergeTree ORDER BY a",
            "INSERT INTO closed_own.t VALUES (1)",
            "INSERT INTO tidemill.t VALUES (2)",
        ):
            reply = found.ask("ada", sql)
            assert reply.status == 200, reply.text
        yield found


@pytest.fixture
def kafka_settings(kafka, tmp_path) -> Settings:
    """Of a group that notices quickly when a worker is gone."""
    return Settings(kafka=kafka, home=tmp_path, session_timeout_ms=3000)
