"""One secured broker and one pipeline on it, every role with a user of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from models.registry import open_registry
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.control.announce import announce
from streams.control.rights import ROLES, rights
from streams.transport.authorization import set_rights
from tests.connected.test_bad_input import DECLARATION, constant
from tests.doors.secured import ADMIN, SecuredKafka

NAME = "vault"
STRANGER = "stranger"
"""A user with a password and without any right."""
DEADLINE_S = 240.0


@dataclass
class Vault:
    """The pipeline ``vault`` on the secured broker."""

    broker: SecuredKafka
    named: Named
    base: Settings
    folder: Path
    landed: object = None
    """What the store counted when everything had passed."""

    @property
    def pipeline(self) -> Pipeline:
        return self.named.pipeline

    def as_(self, role: str, **changes: object) -> Settings:
        """Settings with which a role gets in."""
        user = role if role in {ADMIN, STRANGER} else f"{NAME}-{role}"
        return replace(self.broker.settings(self.base, user), **changes)  # type: ignore[arg-type]

    def client(self, role: str, **more: object) -> dict[str, object]:
        """Options of a confluent client of a role."""
        user = role if role in {ADMIN, STRANGER} else f"{NAME}-{role}"
        return self.broker.client(user, log_level=0, **more)

    def tidemill(self, role: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command, run with the settings of a role."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "streams.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **self.as_(role).environment()}
            | more,
        )


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """The secured broker of this run; only `ADMIN` may do anything."""
    users = (STRANGER, *(f"{NAME}-{role}" for role in ROLES))
    with SecuredKafka(tmp_path_factory.mktemp("secured") / "kafka", users=users) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def vault(secured: SecuredKafka, store: str, tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Its topics, its tables and a model that says 0.25; made with the rights of the roles."""
    folder = tmp_path_factory.mktemp("vault")
    file = folder / f"{NAME}.py"
    file.write_text(DECLARATION.format(name=NAME))
    named = Named.load(str(file))
    base = Settings(home=folder / "home", clickhouse=store, database="tidemill_doors")
    found = Vault(secured, named, base, folder)
    wanted = [right for role in ROLES for right in rights(named.pipeline, role)]
    set_rights(found.as_(ADMIN), grant=wanted, revoke=[])
    prepare(found.as_("operator"), [named])
    registry = open_registry(base)
    version, digest = registry.publish(*constant(named.pipeline))
    announce(found.as_("deliver"), pipeline=NAME, version=version, digest=digest, now_ms=1)
    return found


def wait_for(what: str, found: Callable[[], object], *, limit_s: float = DEADLINE_S) -> object:
    """What ``found`` returns, once it is true."""
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {limit_s} s"
        time.sleep(0.1)
    return value
