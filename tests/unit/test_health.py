"""What probes see: alive, ready, hanging, failed, gone. A wrong answer restarts what works."""

from pathlib import Path

import pytest

from schemas.pipeline import Pipeline, label, numeric
from streams.cli.health import judged
from streams.cli.worker import full_name
from streams.control.rights import rights
from streams.telemetry import Reporter, State
from tests.unit.test_cli import tidemill

SHOP = Pipeline(name="shop", key="user", features=[numeric("price")], target=label("bought"))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))


def report(folder: Path, name: str, state: State, *, age_s: float = 0.0, detail: str = "") -> None:
    """As a process of the home would have written it ``age_s`` ago."""
    import time

    reporter = Reporter(folder / "run", name, "score", clock=lambda: time.time() - age_s)
    reporter.state, reporter.detail = state, detail
    reporter.write()


@pytest.mark.parametrize(
    ("state", "age_s", "alive", "ready"),
    [
        ("running", 0, True, True),
        ("waiting", 0, True, False),
        ("starting", 0, True, False),
        ("stopping", 0, True, False),
        ("failed", 0, False, False),
        ("running", 60, False, False),
        ("waiting", 60, False, False),
    ],
)
def test_a_process_is_judged_by_its_last_report(
    state: State, age_s: float, alive: bool, ready: bool, tmp_path: Path
) -> None:
    """One that waits for a server must not be restarted: that helps nobody."""
    report(tmp_path, "a", state, age_s=age_s, detail="because")
    assert judged("a", ready=False, age_s_max=10)[0] is alive
    found, words = judged("a", ready=True, age_s_max=10)
    assert found is ready
    assert f"a is {state}, because; reported" in words


def test_a_name_is_asked_for_or_the_newest_is_meant(tmp_path: Path) -> None:
    """A container has one process; what was there before it has left its report behind."""
    report(tmp_path, "old", "failed", age_s=100)
    report(tmp_path, "new", "running")
    assert judged("", ready=True, age_s_max=10)[0] is True
    assert judged("old", ready=False, age_s_max=1000)[0] is False
    assert judged("nobody", ready=False, age_s_max=10) == (
        False, f"no report of nobody in {tmp_path}/run",
    )  # fmt: skip


def test_the_exit_code_is_the_answer(tmp_path: Path) -> None:
    """Probes read nothing else."""
    assert tidemill("health", home=tmp_path).returncode == 1
    report(tmp_path, "a", "running")
    answer = tidemill("health", "a", "--ready", "--age", "60", home=tmp_path)
    assert (answer.returncode, answer.stdout[:19]) == (0, "ok: a is running; r")
    silent = tidemill("health", "--store", "http://127.0.0.1:1", home=tmp_path)
    assert silent.returncode == 1
    assert "does not answer" in silent.stdout


@pytest.mark.parametrize(
    ("given", "pid", "name"),
    [
        ("", 1, "shop-score-pod_1.example-1"),
        ("host-0", 1, "shop-score-host-0"),
        ("shop-score-0", 7, "shop-score-0"),
        ("shop-score", 7, "shop-score"),
        ("shop-land-0", 7, "shop-score-shop-land-0"),
        ("a/b c", 7, "shop-score-a-b-c"),
    ],
)
def test_names_of_workers_differ_and_begin_as_their_rights_do(
    given: str, pid: int, name: str
) -> None:
    """In two containers both are process 1, and Kafka's transactions go by the name."""
    assert full_name(given, pipeline="shop", role="score", host="pod_1.example", pid=pid) == name
    if "-score-" in name:
        [ids] = {r.name for r in rights(SHOP, "score") if r.resource == "TRANSACTIONAL_ID"}
        assert f"tidemill-{name}".startswith(ids)
