"""`tidemill sql` against the real store."""

from pathlib import Path

from tests.unit.test_cli import tidemill


def test_formats_parameters_settings_and_files(store: str, tmp_path: Path) -> None:
    def ask(*arguments: str) -> str:
        answer = tidemill(
            "sql", *arguments, home=tmp_path, TIDEMILL_CLICKHOUSE=store, TIDEMILL_DATABASE="system"
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    sql = "SELECT number AS n, {s:String} AS s FROM numbers(2)"
    assert ask("--format", "tsv", "--param", "s=a=b", sql) == "n\ts\n0\ta=b\n1\ta=b\n"
    assert ask("--format", "jsonl", "--param", "s=x", sql).count('{"n":') == 2
    file = tmp_path / "q.sql"
    file.write_text("SELECT getSetting('max_threads') AS threads;\n")
    assert ask("--file", str(file), "--format", "csv", "--setting", "max_threads=3").endswith(
        "\n3\n"
    )


def test_a_mistake_is_shown_where_it_is(store: str, tmp_path: Path) -> None:
    answer = tidemill(
        "sql",
        "SELECT 1\nFROMM x",
        home=tmp_path,
        TIDEMILL_CLICKHOUSE=store,
        TIDEMILL_DATABASE="system",
    )
    assert answer.returncode == 2
    assert "  2 | FROMM x\n            ^" in answer.stderr
    assert "[code 62]" in answer.stderr
