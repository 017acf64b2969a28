"""A drill: the store and the registry are lost, a backup brings them back, Kafka gives the rest."""

import asyncio
import shutil
import threading

import pytest
from click.testing import CliRunner

from schemas.errors import SetupError
from schemas.settings import Settings
from streams.cli.assembly import assembled
from streams.cli.main import tidemill
from streams.cli.named import Named
from streams.protection.backup import MANIFEST, read_backup
from streams.replay import Pace, Replay, history_slice
from tests.chaos.quick_flights import quick_flights as flights
from tests.chaos.test_kills import QUICK, books_when_done, settings_for

EVENTS = 6_000
RATE = 1_000.0


def call(settings: Settings, *arguments: str) -> str:
    """What the command prints; it must succeed."""
    done = CliRunner().invoke(
        tidemill, list(arguments), env=settings.environment(), catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.timeout(600)
def test_a_lost_store_is_filled_up_from_a_backup_and_kafka(tmp_path):
    """
    Goal: after the loss of tables and models a backup from the middle of the traffic is enough.

    Method: the backup is made while events flow; more flow after it. Then store and registry are
    deleted. After the restore the landers read what came since, and the books are exact.
    """
    settings, folder = settings_for(tmp_path), tmp_path / "monday"
    named = [Named.load(QUICK)]
    table = history_slice(flights, events=EVENTS, skip=None, start_ms=None)
    with assembled(settings, named, workers=1) as stack:
        replay = Replay(flights, stack.settings, table, Pace(RATE))
        feeding = threading.Thread(target=lambda: asyncio.run(replay.run()), daemon=True)
        feeding.start()
        while replay.sent.events < EVENTS // 3:
            threading.Event().wait(0.05)
        call(settings, "backup", str(folder))
        feeding.join(60)
        before = books_when_done(stack.settings)
    assert before.exact, before
    for name in ("store", "registry"):
        shutil.rmtree(settings.home / name)
    said = call(settings, "restore", str(folder))
    assert "flights: to land after the next start:" in said
    assert "of flights.scored" in said, said
    with assembled(settings, named, workers=1) as stack:
        more = history_slice(flights, events=500, skip=EVENTS + 60_000, start_ms=None)
        asyncio.run(Replay(flights, stack.settings, more, Pace(RATE)).run())
        after = books_when_done(stack.settings)
    assert after.exact, after
    assert after.events == before.events + 500
    _refusals(folder)


def _refusals(folder) -> None:
    """A file that was changed, one that is gone, and a folder that holds no backup."""
    weights = next((folder / "registry").rglob("*.safetensors"))
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"x")
    with pytest.raises(SetupError, match=r"safetensors is missing or not what it was"):
        read_backup(folder)
    weights.unlink()
    with pytest.raises(SetupError, match=r"safetensors is missing or not what it was"):
        read_backup(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(SetupError, match="could not read a backup in"):
        read_backup(folder)
