"""What a newcomer meets first: `init`, completion in the shell, and what `doctor` says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from schemas.errors import SetupError
from schemas.loading import load_pipeline, ready_pipelines
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.cli.init import command
from streams.cli.main import COMMANDS
from streams.cli.main import tidemill as program
from streams.cli.settings_checks import check_settings, contradictions
from streams.cli.starter import FEED_ROWS, feed_lines
from tests.unit.test_cli import tidemill


def init(name: str, folder: Path, *more: str) -> None:
    """`tidemill init`, in this process."""
    command.main([name, "--folder", str(folder), *more], standalone_mode=False)


def test_init_writes_a_pipeline_that_loads_and_a_history_that_can_train(tmp_path: Path) -> None:
    """What it writes is used at once, so it must satisfy every rule of declaration and training."""
    from trainers.dataset import split_history

    init("shop", tmp_path / "new")
    pipeline = load_pipeline(str(tmp_path / "new/shop.py"))
    assert (pipeline.name, pipeline.key, pipeline.partitions) == ("shop", "account_id", 4)
    assert pipeline.history is not None
    table = pipeline.history()
    split = split_history(tuple(pipeline.features), table, days=pipeline.first_training_days)
    assert table.num_rows == FEED_ROWS
    assert len(split.training) > 2_000
    assert 0.03 < split.training.labels.mean() < 0.08
    assert len(split.evaluation) > 1_000, "there is something to judge by, and to replay"


def test_init_writes_a_file_that_explains_what_may_be_declared(tmp_path: Path) -> None:
    """Its comments are the shortest documentation there is; a field that is gone must not linger."""
    init("shop", tmp_path)
    text = (tmp_path / "shop.py").read_text()
    for field in (
        "name",
        "key",
        "features",
        "target",
        "history",
        "horizon",
        "silence",
        "partitions",
    ):
        assert f"    {field}=" in text
        assert field in Pipeline.__dataclass_fields__
    uncommented = text.replace("    # learner=", "    learner=").replace(
        "from schemas.pipeline import Pipeline", "from schemas.pipeline import online, Pipeline"
    )
    uncommented = uncommented.replace("    # retraining=", "    retraining=").replace(
        "from pathlib", "from schemas.retraining import Retraining\nfrom pathlib"
    )
    (tmp_path / "shop.py").write_text(uncommented)
    pipeline = load_pipeline(str(tmp_path / "shop.py"))
    assert pipeline.learner is not None
    assert pipeline.retraining is not None


def test_init_never_replaces_a_file_unasked(tmp_path: Path) -> None:
    """Neither of both, also when only one is there: an evening's work may lie in it."""
    mine = tmp_path / "shop.csv"
    mine.write_text("mine")
    with pytest.raises(SetupError, match=r"shop\.csv: it is there already\. .*--force"):
        init("shop", tmp_path)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "shop.py").exists()
    init("shop", tmp_path, "--force")
    assert mine.read_text() != "mine"


@pytest.mark.parametrize("name", ["flights", "Shop", "9lives", "../shop", "class", "event_id", ""])
def test_init_refuses_names_that_no_pipeline_can_have(name: str, tmp_path: Path) -> None:
    """Before it writes anything, also outside of the folder."""
    with pytest.raises(SetupError, match="could not use the name"):
        init(name, tmp_path / "in")
    assert not list(tmp_path.rglob("*"))


def test_the_feed_is_the_same_every_time() -> None:
    """Figures of two people can be compared; another seed is another feed."""
    assert list(feed_lines()) == list(feed_lines())
    assert list(feed_lines(2))[1:] != list(feed_lines())[1:]


COMPLETE = """
eval "$(tidemill completion bash)"
compopt() { COMPREPLY=(FILES); }  # bash refuses it outside of a key press
complete -p tidemill
while read -r -a COMP_WORDS; do
    [ "${COMP_WORDS[-1]}" = NOTHING ] && COMP_WORDS[-1]=""
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()  # as bash does
    _tidemill_completion tidemill
    echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_choices_and_pipelines(tmp_path: Path) -> None:
    """By a bash that sourced the script, not by our idea of one."""
    (tmp_path / "payments.py").touch()
    wanted = {
        "tidemill rec": "reconcile",
        "tidemill worker l": "learn land",
        "tidemill demo --ev": "--events",
        "tidemill up NOTHING": " ".join([*ready_pipelines(), "payments.py"]),
        "tidemill train other/": "FILES",
    }
    answer = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE],
        input="\n".join(wanted) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    registered, *found = answer.stdout.splitlines()
    assert answer.stderr == ""
    assert registered.endswith("-F _tidemill_completion tidemill")
    assert dict(zip(wanted, found, strict=True)) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str) -> None:
    """zsh and fish are parsed where they are installed."""
    answer = CliRunner().invoke(program, ["completion", shell])
    assert answer.exit_code == 0
    assert f"_TIDEMILL_COMPLETE={shell}_complete" in answer.output
    if shutil.which(shell):
        parsed = subprocess.run([shell, "-n"], input=answer.output, text=True, check=False)
        assert parsed.returncode == 0


def test_every_command_is_offered() -> None:
    """The list is made without importing the commands, so it is compared here."""
    found = program.shell_complete(click.Context(program), "")
    assert [item.value for item in found] == list(COMMANDS)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"kafka_security": "SSL"}, "TIDEMILL_KAFKA is empty"),
        ({"kafka": "k:9092", "kafka_password": "p"}, "nobody logs in"),
        ({"kafka": "k:9092", "kafka_ca": "ca.pem"}, "nothing is encrypted"),
        ({"kafka": "k:9092", "kafka_security": "SASL_PLAINTEXT"}, "clear text"),
        ({"clickhouse": "http://c:8123", "clickhouse_ca": "ca.pem"}, "no https address"),
        ({"clickhouse": "http://c:8123", "clickhouse_users": "u"}, "names a server"),
        ({"clickhouse_cluster": "c"}, "no cluster"),
        ({"replication": 3}, "one node"),
        ({"land_rows_min": 200_000}, "TIDEMILL_LAND_ROWS_MIN=200000 is above"),
        ({"land_few_age_ms_max": 5_000}, "is above TIDEMILL_LAND_AGE_MS_MAX"),
    ],
)
def test_contradictions_are_named_with_their_fix(changed: dict[str, object], word: str) -> None:
    """Each of these runs, and does not do what it says."""
    [(fact, remedy)] = contradictions(Settings(**changed))  # type: ignore[arg-type]
    assert word in fact
    assert remedy
    assert list(contradictions(Settings())) == []


def test_an_optional_package_that_is_needed_and_absent_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it is told what it would be for."""
    monkeypatch.setattr("streams.cli.settings_checks.find_spec", lambda name: None)
    settings = Settings(inference="onnx", registry="s3://bucket/models")
    checks = [check for check in check_settings(settings) if check.name == "extras"]
    assert [check.ok for check in checks] == [False, False, True]
    assert "'.[onnx]'" in checks[0].remedy
    assert "'.[s3]'" in checks[1].remedy
    assert "installed: none" in checks[2].found


def test_doctor_looks_at_the_machine_when_the_settings_cannot_be_read(tmp_path: Path) -> None:
    """A typo is a finding among others, with the name that was meant."""
    answer = tidemill("doctor", "--json", home=tmp_path, TIDEMILL_KAKFA="k:9092")
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    assert answer.returncode == 1
    assert "Did you mean TIDEMILL_KAFKA" in checks["settings"]["found"]
    assert {"python", "store engine", "memory", "disk", "home", "open files", "clock"} <= set(
        checks
    )
