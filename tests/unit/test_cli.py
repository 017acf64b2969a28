"""The command line without servers: help, errors, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.cli.console import without_password
from streams.cli.main import COMMANDS


def tidemill(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a person does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "streams.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TIDEMILL_HOME": str(home), **environment},
    )


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    """`tidemill --help` must be quick: torch alone takes two seconds."""
    code = (
        "import sys; sys.argv = ['tidemill', '--help']\n"
        "from streams.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as done: assert done.code in (0, None), done.code\n"
        "heavy = {'torch', 'faust', 'chdb', 'aiokafka', 'pyarrow', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    for name in COMMANDS:
        assert f"  {name} " in answer.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    """An example is what people look for first."""
    import importlib

    import click

    command = importlib.import_module(f"streams.cli.{name}").command
    text = command.get_help(click.Context(command, info_name=f"tidemill {name}"))
    assert "Example" in text
    assert f"tidemill {name}" in text


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["sql", "SELECT 1"], {}, "nothing runs on home="),
        (["reconcile"], {}, "nothing runs on home="),
        (["up", "nonsense"], {}, "ready ones are"),
        (["up", "absent.py"], {}, "there is no such file"),
        (["status"], {"TIDEMILL_TYPO": "1"}, "TIDEMILL_TYPO is not a setting"),
        (["kafka", "nonsense"], {}, "is none of"),
        (["replay", "--rate", "1", "--speed", "1"], {}, "not both"),
        (["prepare", "flights", "--wait", "nan"], {}, "nan is not a number"),
        (["health", "--age", "NaN"], {}, "NaN is not a number"),
        (["prepare", "flights", "--wait", "-1"], {}, "-1.0 is not in the range"),
        (["sql", ""], {}, "could not find a query"),
    ],
)
def test_mistakes_are_one_statement_and_exit_code_2(
    arguments: list[str], environment: dict[str, str], words: str, tmp_path: Path
) -> None:
    """No traceback for anything that a person can put right."""
    answer = tidemill(*arguments, home=tmp_path, **environment)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


def test_status_says_that_nothing_runs(tmp_path: Path) -> None:
    """A program reads the same."""
    answer = tidemill("status", "--json", home=tmp_path)
    assert answer.returncode == 1
    found = json.loads(answer.stdout)
    assert found["running"] is False
    assert (found["kafka"], found["pipelines"], found["workers"]) == ("", [], [])


def test_status_answers_when_servers_are_down_and_shows_no_password(tmp_path: Path) -> None:
    """The moment a person asks is often the moment something is down."""
    answer = tidemill(
        "status",
        "--json",
        home=tmp_path,
        TIDEMILL_KAFKA="127.0.0.1:1",
        TIDEMILL_CLICKHOUSE="http://someone:secret@127.0.0.1:1",
    )
    found = json.loads(answer.stdout)
    assert found["kafka_state"].startswith("down: ")
    assert found["clickhouse_state"].startswith("down: ")
    assert found["clickhouse"] == "http://127.0.0.1:1"
    assert "secret" not in answer.stdout + answer.stderr


def test_doctor_checks_the_machine(tmp_path: Path) -> None:
    """Each check has a name, and a remedy where it failed."""
    answer = tidemill("doctor", "--json", home=tmp_path)
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    assert {"python", "java", "kafka jars", "processor", "disk", "ports", "servers"} <= set(checks)
    assert all(check["ok"] or check["remedy"] for check in checks.values())
    assert answer.returncode == (0 if all(check["ok"] for check in checks.values()) else 1)


def test_addresses_are_shown_without_their_password() -> None:
    """Users have colons and at signs in their passwords."""
    assert without_password("http://u:p%40ss@host:8123/x") == "http://host:8123/x"
    assert without_password("http://host:8123") == "http://host:8123"


def test_kafkas_tools_get_credentials_in_a_file_of_their_owner(tmp_path: Path) -> None:
    """Not on the command line, where every user of the machine reads it."""
    from schemas.settings import Settings
    from streams.cli.kafka import _connection

    settings = Settings(
        home=tmp_path,
        kafka="k:9092",
        kafka_security="SASL_SSL",
        kafka_username="someone",
        kafka_password='a"b\\c',
        kafka_ca="/ca.pem",
    )
    options = _connection(settings)
    assert options[:3] == ["--bootstrap-server", "k:9092", "--command-config"]
    path = Path(options[3])
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "security.protocol=SASL_SSL" in text
    assert "sasl.mechanism=SCRAM-SHA-512" in text
    assert 'ScramLoginModule required username="someone" password="a\\\\"b\\\\\\\\c";' in text
    assert _connection(Settings(kafka="k:9092")) == ["--bootstrap-server", "k:9092"]
