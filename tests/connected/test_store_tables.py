"""Migrations, the schema check, inserts with tokens and the views, on the real engine."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.errors import PermanentError, SettingsError, SetupError, StoreUnavailable
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from streams.local.store import EmbeddedStore
from streams.store.client import Client, connect, count_range, insert_rows
from streams.store.migrations import Migration, migrate, read_migrations
from streams.store.tables import TABLES, check_table
from streams.store.views import create_views


@pytest.fixture
def own(store: str, unique: Callable[[str], str]) -> Settings:
    """Settings with a database of the test's own."""
    return Settings(clickhouse=store, database=unique("tables"))


@pytest.fixture
def client(own: Settings) -> Iterator[Client]:
    migrate(own)
    made = connect(own)
    yield made
    made.close()


def scored(count: int, *, offset: int = 0, pipeline: str = "flights") -> pa.Table:
    """``count`` rows, ten to a message."""
    numbers = range(offset, offset + count)
    columns: dict[str, Any] = {
        "pipeline": [pipeline] * count,
        "topic_partition": [3] * count,
        "topic_offset": [n // 10 for n in numbers],
        "event_id": [f"e{n}" for n in numbers],
        "key": [f"N{n % 7}" for n in numbers],
        # Replayed history: must not expire by the time of the event.
        "event_time": [1_357_041_000_000] * count,
        "produced_at": [1_790_000_000_000] * count,
        "predicted_at": [1_790_000_000_500] * count,
        "score": [n / 1e6 for n in numbers],
        "model_version": ["v1"] * count,
        "model_age_ms": [5] * count,
        "source_partition": [1] * count,
        "source_offset": list(numbers),
        "numeric": [[float(n), 2.0] for n in numbers],
        "category": [["UA" if n % 2 else "DL"] for n in numbers],
        "model_score": [n / 2e6 for n in numbers],
        "learner_position": [-1] * count,
    }
    return pa.table(columns, schema=TABLES["scored"])


def labels(rows: list[tuple[str, int, int]]) -> pa.Table:
    """Labels as (event_id, value, revision)."""
    return pa.table(
        {
            "pipeline": ["flights"] * len(rows),
            "topic_partition": [0] * len(rows),
            "topic_offset": list(range(len(rows))),
            "event_id": [row[0] for row in rows],
            "value": [row[1] for row in rows],
            "label_time": [1_357_045_000_000 + row[2] for row in rows],
            "revision": [row[2] for row in rows],
            "produced_at": [1_790_000_000_000] * len(rows),
        },
        schema=TABLES["labels"],
    )


def examples(rows: list[tuple[int, str, float | None, float | None, int]]) -> pa.Table:
    """Steps as (source offset, kind, label, previous, revision), a second apart."""
    count = len(rows)
    known = [row[1] in {"final", "corrected"} for row in rows]
    return pa.table(
        {
            "pipeline": ["flights"] * count,
            "topic_partition": [0] * count,
            "topic_offset": [0] * count,  # all in one message
            "event_id": [f"e{row[0]}" for row in rows],
            "kind": [row[1] for row in rows],
            "label": [row[2] for row in rows],
            "previous": [row[3] for row in rows],
            "label_time": [1_357_045_000_000 + n if k else None for n, k in enumerate(known)],
            "revision": [row[4] for row in rows],
            "delay_ms": [3_600_000 if k else None for k in known],
            "source_partition": [1] * count,
            "source_offset": [row[0] for row in rows],
            "produced_at": [1_790_000_000_000 + 1000 * n for n in range(count)],
        },
        schema=TABLES["examples"],
    )


STEPS = [
    (1, "final", 0.0, None, 0), (1, "corrected", 1.0, 0.0, 2), (2, "provisional", 0.0, None, 0),
    (3, "provisional", 0.0, None, 0), (4, "expired", None, None, 0), (5, "expired", None, None, 0),
    (3, "corrected", 1.0, 0.0, 0), (5, "corrected", 1.0, None, 0), (1, "corrected", 0.0, 1.0, 3),
    (6, "evicted", None, None, 0),
]  # fmt: skip


def total(client: Client, table: str) -> int:
    return int(client.query(f"SELECT count() FROM {table}").result_rows[0][0])


def test_a_fresh_database_gets_every_table_once(own: Settings) -> None:
    names = [m.name for m in read_migrations()]
    assert [m.name for m in migrate(own, dry_run=True)] == names
    with pytest.raises(SetupError):
        connect(own)  # a dry run made nothing
    assert [m.name for m in migrate(own)] == names
    assert migrate(own) == []
    client = connect(own)
    for table in TABLES:
        check_table(client, table)
    assert total(client, "schema_migrations") == len(names)
    client.close()


def test_several_processes_may_migrate_at_once(own: Settings) -> None:
    troubles: list[BaseException] = []

    def one() -> None:
        try:
            migrate(own)
        except BaseException as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    client = connect(own)
    assert total(client, "schema_migrations FINAL") == len(read_migrations())
    client.close()


def test_a_changed_file_is_refused_and_a_new_one_applied(own: Settings) -> None:
    migrate(own)
    files = read_migrations()
    changed = [replace(files[0], template=files[0].template + "-- a change\n"), *files[1:]]
    with pytest.raises(SetupError, match=r"0001_scored was applied as sha256=[0-9a-f]{12}"):
        migrate(own, migrations=changed)
    with pytest.raises(SetupError, match="newer than this program"):
        migrate(own, migrations=files[:-1])
    added = Migration(
        len(files) + 1,
        "more",
        "ALTER TABLE {database}.scored {on_cluster}\nADD COLUMN IF NOT EXISTS extra String;\n",
    )
    assert migrate(own, migrations=[*files, added]) == [added]
    client = connect(own)
    with pytest.raises(SetupError, match="column extra is unknown and has no default"):
        check_table(client, "scored")
    client.close()


def test_a_table_that_would_twist_rows_is_refused(client: Client) -> None:
    """insert_arrow would store -1 as 4294967295 and NULL as 0 without a word."""
    client.command("ALTER TABLE labels MODIFY COLUMN value Int16, DROP COLUMN label_time")
    with pytest.raises(SetupError) as caught:
        check_table(client, "labels")
    assert "column value is Int16 and must be Float64" in str(caught.value)
    assert "column label_time is missing" in str(caught.value)
    client.command("DROP TABLE dead_letters")
    with pytest.raises(SetupError, match="it does not exist"):
        check_table(client, "dead_letters")


def test_a_token_is_taken_once(client: Client) -> None:
    rows = scored(1000)
    for _ in range(3):
        insert_rows(client, "scored", rows, token="flights.scored|1|3|0|99")
    assert total(client, "scored") == 1000
    # The token decides, not the content: model outputs differ when a batch is scored again.
    insert_rows(client, "scored", scored(1000, offset=5000), token="flights.scored|1|3|0|99")
    assert total(client, "scored") == 1000
    insert_rows(client, "scored", rows, token="flights.scored|2|3|0|99")
    assert total(client, "scored") == 2000


def test_without_a_window_tokens_do_nothing(client: Client) -> None:
    """The control: it is the table's setting that makes the test above pass."""
    client.command("ALTER TABLE scored MODIFY SETTING non_replicated_deduplication_window = 0")
    for _ in range(2):
        insert_rows(client, "scored", scored(10), token="t")
    assert total(client, "scored") == 20


def test_ranges_are_counted(client: Client) -> None:
    insert_rows(client, "scored", scored(1000), token="a")
    insert_rows(client, "scored", scored(50, pipeline="others"), token="b")

    def count(first: int, last: int, *, partition: int = 3) -> int:
        return count_range(
            client, "scored", pipeline="flights", topic_partition=partition, first=first, last=last
        )

    assert count(0, 99) == 1000
    assert count(10, 19) == 100
    assert count(99, 99) == 10
    assert count(100, 200) == 0
    assert count(0, 99, partition=4) == 0


def test_rows_come_back_as_they_went_in(client: Client) -> None:
    sent = scored(100)
    insert_rows(client, "scored", sent, token="a")
    names = ", ".join(f"`{name}`" for name in sent.schema.names)
    back = client.query_arrow(f"SELECT {names} FROM scored ORDER BY source_offset")
    for name in sent.schema.names:
        assert back[name].cast(sent[name].type).to_pylist() == sent[name].to_pylist(), name


def test_dead_letters_keep_every_byte(client: Client) -> None:
    raw = bytes(range(256))
    rows = pa.table(
        {
            "pipeline": ["flights"] * 2,
            "topic_partition": [0] * 2,
            "topic_offset": [0, 1],
            "reason": ["malformed-json", "null-value"],
            "detail": ["x", ""],
            "source_topic": ["flights.events"] * 2,
            "source_partition": [2, 2],
            "source_offset": [7, -1],
            "key": [None, raw],
            "value": [raw, None],
            "produced_at": [1_790_000_000_000] * 2,
        },
        schema=TABLES["dead_letters"],
    )
    insert_rows(client, "dead_letters", rows, token="a")
    found = client.query(
        "SELECT hex(value), isNull(value), hex(key), isNull(key), source_offset "
        "FROM dead_letters ORDER BY topic_offset"
    ).result_rows
    text = raw.hex().upper()
    assert found == [(text, 0, None, 1, 7), (None, 1, text, 0, -1)]


def test_views_name_the_features_and_join_the_latest_truth(client: Client) -> None:
    pipeline = Pipeline(
        name="flights",
        key="tail_number",
        target=label("late"),
        features=[category("carrier"), numeric("delay_min"), numeric("score")],
    )
    create_views(client, pipeline)
    create_views(client, pipeline)
    insert_rows(client, "scored", scored(10), token="a")
    insert_rows(client, "examples", examples(STEPS), token="b")
    assert client.query(
        "SELECT carrier, count(), sum(delay_min), max(feature_score) FROM flights "
        "GROUP BY carrier ORDER BY carrier"
    ).result_rows == [("DL", 5, 20.0, 2.0), ("UA", 5, 25.0, 2.0)]
    assert client.query(
        "SELECT event_id, tail_number, late, label_revision, label_kind FROM flights_outcomes "
        "ORDER BY event_id"
    ).result_rows == [
        ("e1", "N1", 0, 3, "corrected"), ("e2", "N2", 0, 0, "provisional"),
        ("e3", "N3", 1, 0, "corrected"), ("e5", "N5", 1, 0, "corrected"),
    ]  # fmt: skip


def test_the_documented_questions_to_the_history_are_answered(client: Client) -> None:
    """Which truth was assumed when; what became of everything. As `docs/pipelines.md` asks them."""
    pipeline = Pipeline(
        name="payments", key="account_id", target=label("fraud"), features=[numeric("amount")]
    )
    create_views(client, pipeline)
    rows = examples(STEPS)
    rows = rows.set_column(0, rows.schema.field("pipeline"), pa.array(["payments"] * len(STEPS)))
    insert_rows(client, "examples", rows, token="b")
    text = (Path(__file__).parents[2] / "docs/pipelines.md").read_text(encoding="utf-8")
    then, became = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    moment = "toDateTime64('2026-09-21 14:13:24', 3, 'UTC')"
    assert "now() - INTERVAL 1 HOUR" in then
    found = client.query(then.replace("now() - INTERVAL 1 HOUR", moment)).result_rows
    assert sorted(found) == [
        ("e1", "corrected", 1.0), ("e2", "provisional", 0.0), ("e3", "provisional", 0.0),
        ("e4", "expired", None),
    ]  # fmt: skip
    assert {row[:2] for row in client.query(became).result_rows} == {
        ("final", 1), ("provisional", 2), ("expired", 2), ("corrected", 4), ("evicted", 1)
    }  # fmt: skip


def test_errors_say_what_can_be_done(own: Settings, client: Client, tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        insert_rows(client, "nowhere", scored(1), token="a")
    with pytest.raises(PermanentError):
        insert_rows(client, "scored", pa.table({"topic_offset": ["not a number"]}), token="b")
    with pytest.raises(SetupError) as caught:
        connect(replace(own, clickhouse=own.clickhouse.replace("//", "//default:s3cret@")))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SettingsError):
        connect(replace(own, clickhouse=""))
    gone = EmbeddedStore(tmp_path / "gone")
    with gone:
        away = connect(Settings(clickhouse=gone.url))
    with pytest.raises(StoreUnavailable):
        insert_rows(away, "scored", scored(1), token="a")
    with pytest.raises(StoreUnavailable):
        count_range(away, "scored", pipeline="p", topic_partition=0, first=0, last=1)
    with pytest.raises(StoreUnavailable):
        connect(Settings(clickhouse=gone.url))
