"""What `tidemill prepare` leaves behind for workers, and probes of a store that runs."""

from pathlib import Path

import pytest

from schemas.settings import Settings
from streams.cli.status import gather
from streams.store.client import connect
from tests.unit.test_cli import tidemill

PIPELINE = """
from schemas.pipeline import Pipeline, label, numeric

mine = Pipeline(
    name="{name}", key="account", features=[numeric("amount")], target=label("fraud", prior=0.1),
    partitions=2,
)
"""


def environment(settings: Settings) -> dict[str, str]:
    return {"TIDEMILL_KAFKA": settings.kafka, "TIDEMILL_CLICKHOUSE": settings.clickhouse,
            "TIDEMILL_DATABASE": settings.database}  # fmt: skip


def test_prepare_makes_what_workers_need_and_may_be_repeated(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every deployment it runs again, beside workers that work."""
    name = settings.database.replace("tidemill", "prepared")
    file = tmp_path / "mine.py"
    file.write_text(PIPELINE.format(name=name))
    for _ in range(2):
        done = tidemill(
            "prepare", str(file), "--no-first-model", home=tmp_path, **environment(settings)
        )
        assert done.returncode == 0, done.stderr
        assert f"workers of {name} can start" in done.stdout
    client = connect(settings)
    views = {row[0] for row in client.query("SHOW TABLES").result_rows}
    client.close()
    assert {name, f"{name}_outcomes", "scored", "schema_migrations"} <= views
    from streams.cli.server_checks import _topics

    assert _topics(settings, str(file)) == f"9 of {name}, 2 partitions each"
    for variable, value in environment(settings).items():
        monkeypatch.setenv(variable, value)
    found = gather([str(file)])
    assert (found["running"], found["pipelines"]) == (True, [name]), "named: no `up` runs here"
    if found["kafka_state"] == "ok":  # on a saturated machine it may not answer in time
        assert found["lag"][name]["score"] == 0
        assert found["models"][name] is None


@pytest.mark.slow
def test_prepare_gives_up_on_servers_that_stay_away(tmp_path: Path) -> None:
    """With the reason, and a code that a job runner repeats."""
    away = {"TIDEMILL_KAFKA": "127.0.0.1:1", "TIDEMILL_CLICKHOUSE": "http://127.0.0.1:1"}
    done = tidemill("prepare", "flights", "--wait", "0", home=tmp_path, **away)
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.embedded
def test_a_store_is_probed(store: str, tmp_path: Path) -> None:
    """By the command that the image of the gateway uses."""
    answer = tidemill("health", "--store", store, home=tmp_path)
    assert (answer.returncode, answer.stdout) == (0, f"ok: {store} said 'Ok.'\n")
