"""Tidemill's own processes with a store that has users."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from schemas.errors import SetupError
from schemas.settings import Settings
from streams.local.home import read_stack
from streams.local.tree import LocalStack
from streams.store.client import connect, insert_rows
from streams.store.migrations import migrate
from tests.connected.conftest import PASSWORD, Guarded
from tests.connected.store_http import send

WAIT_S_MAX = 90.0


def _tidemill(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "streams.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **variables},
    )


def test_workers_get_in_by_their_settings(guarded: Guarded) -> None:
    """What the lander does: migrate, insert, count."""
    settings = Settings(clickhouse=guarded.process.url, database="closed_protected")
    assert migrate(settings)
    client = connect(settings)
    client.command("CREATE TABLE landed (a UInt64) ENGINE = MergeTree ORDER BY a")
    insert_rows(client, "landed", pa.table({"a": pa.array([1, 2], pa.uint64())}), token="t|1")
    assert client.command("SELECT count() FROM landed") == 2
    client.close()


def test_a_wrong_password_is_a_set_up_error_without_it(guarded: Guarded) -> None:
    with pytest.raises(SetupError) as caught:
        connect(
            Settings(clickhouse=f"http://tidemill:open-sesame@127.0.0.1:{guarded.process.port}")
        )
    assert "open-sesame" not in str(caught.value)


def test_commands_take_the_address_from_a_file_and_never_show_it(
    guarded: Guarded, tmp_path: Path
) -> None:
    url = guarded.process.url
    password = urlsplit(url).password
    assert password
    migrate(Settings(clickhouse=url, database="closed_protected"))
    secret = tmp_path / "address"
    secret.write_text(url + "\n", encoding="utf-8")
    variables = {
        "TIDEMILL_CLICKHOUSE_FILE": str(secret),
        "TIDEMILL_HOME": str(tmp_path),
        "TIDEMILL_KAFKA": "127.0.0.1:1",
        "TIDEMILL_DATABASE": "closed_protected",
    }
    asked = _tidemill("sql", "SELECT 6 * 7 AS answer", "--format", "csv", **variables)
    assert "42" in asked.stdout, asked.stderr
    deadline_s = time.monotonic() + WAIT_S_MAX
    shown = _tidemill("status", "--json", **variables)
    while '"clickhouse_state": "ok"' not in shown.stdout and time.monotonic() < deadline_s:
        shown = _tidemill("status", "--json", **variables)  # it waits for seconds only
    assert '"clickhouse_state": "ok"' in shown.stdout, shown.stdout
    wrong = _tidemill("sql", "SELECT nothing", **variables)
    for done in (asked, shown, wrong, _tidemill("doctor", **variables)):
        assert password not in done.stdout + done.stderr
    assert password not in guarded.log


def test_only_hashes_lie_on_the_disk(guarded: Guarded) -> None:
    own = guarded.process.folder.with_name("clickhouse.users.toml")
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    password = urlsplit(guarded.process.url).password or "?"
    for file in guarded.file.parent.rglob("*"):
        if file.is_file() and file.stat().st_size < 1 << 20:
            assert password.encode() not in file.read_bytes(), file


def test_up_with_a_users_file(guarded: Guarded, tmp_path: Path) -> None:
    """The tree starts the store with the users, and others find a user of our own in the home."""
    settings = Settings(home=tmp_path, kafka="127.0.0.1:1", clickhouse_users=str(guarded.file))
    with LocalStack(settings) as stack:
        url = stack.settings.clickhouse
        parts = urlsplit(url)
        assert parts.username == "tidemill"
        found = read_stack(settings)
        assert found is not None
        assert found.clickhouse == url
        assert stat.S_IMODE((tmp_path / "run" / "stack.json").stat().st_mode) == 0o600
        bare = f"http://127.0.0.1:{parts.port}"
        assert send(bare, "SELECT 1").code == 516
        assert send(bare, "SELECT 1", user="rita", password=PASSWORD).text == "1\n"
        client = connect(stack.settings)
        assert client.command("SELECT 3") == 3
        client.close()
        for file in (tmp_path / "logs").iterdir():
            assert (parts.password or "?") not in file.read_text(encoding="utf-8")
