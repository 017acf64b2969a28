"""Numbered files, one template for a server and a cluster; views as SQL."""

from pathlib import Path

import pytest

from schemas.errors import SettingsError, SetupError
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from streams.store.client import connect
from streams.store.migrations import Migration, read_migrations, render
from streams.store.tables import TABLES
from streams.store.views import view_statements


def test_our_files_are_numbered_without_gaps() -> None:
    assert [m.version for m in read_migrations()] == list(range(1, len(read_migrations()) + 1))


@pytest.mark.parametrize("names", [["0002_a.sql"], ["0001_a.sql", "0001_b.sql"], ["1_a.sql"]])
def test_gaps_repeats_and_odd_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(SetupError, match="could not read migration"):
        read_migrations(tmp_path)


@pytest.mark.parametrize("migration", read_migrations(), ids=lambda m: m.name)
def test_every_file_can_run_twice_and_deduplicates(migration: Migration) -> None:
    """Two processes may run a file at once; a repeated insert is a no-op only with a window."""
    for sql in render(migration.template, database="d"):
        if sql.startswith("ALTER TABLE"):
            assert "ADD COLUMN" not in sql.replace("ADD COLUMN IF NOT EXISTS", "")
            continue
        assert "IF NOT EXISTS" in sql
        assert "non_replicated_deduplication_window = 100000" in sql
        assert "{" not in sql
    for sql in render(migration.template, database="d", cluster="c"):
        assert "ON CLUSTER `c`" in sql
        if sql.startswith("ALTER TABLE"):
            continue
        assert "ENGINE = ReplicatedMergeTree" in sql
        assert " replicated_deduplication_window = 50000" in sql


def test_engine_arguments_survive() -> None:
    [sql] = render("ENGINE = {engine:ReplacingMergeTree(revision)}", database="d", cluster="c")
    assert sql == "ENGINE = ReplicatedReplacingMergeTree(revision)"


def test_every_table_has_a_schema() -> None:
    assert {m.name for m in read_migrations()} >= set(TABLES)


def test_names_that_collide_are_set_apart() -> None:
    """A user may call a feature or the target like a column of ours."""
    pipeline = Pipeline(
        name="odd",
        key="key",
        target=label("score"),
        features=[numeric("score"), category("model_version"), numeric("amount")],
    )
    sql = view_statements(pipeline)
    assert "numeric[1] AS `feature_score`" in sql["odd"]
    assert "numeric[2] AS `amount`" in sql["odd"]
    assert "category[1] AS `feature_model_version`" in sql["odd"]
    assert "AS `feature_feature_score`" in sql["odd_outcomes"]


@pytest.mark.parametrize("url", ["http://u:s3cret@h:x", "http://u:s3cret@:1", "ftp://u:s3cret@h"])
def test_an_address_that_cannot_be_used_keeps_its_secret(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        connect(Settings(clickhouse=url))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
