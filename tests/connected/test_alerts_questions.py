"""The figures that are SQL, on rows whose answers are known by hand."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.alerts import alert
from schemas.pipeline import Pipeline, label, numeric
from schemas.settings import Settings
from streams.alerts.core import Asked, Reading
from streams.alerts.questions import QUESTIONS
from streams.alerts.readings import Readings
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.store.client import Client, connect

NOW = datetime.now(UTC)


@pytest.fixture
def rows(
    settings: Settings, unique: Callable[[str], str]
) -> Iterator[tuple[Settings, Pipeline, Client]]:
    pipeline = Pipeline(
        name=unique("letters"), key="k", features=[numeric("n")], target=label("bad"), partitions=1
    )
    prepare(settings, [Named("letters", pipeline)])
    client = connect(settings)
    yield settings, pipeline, client
    client.close()


def insert(client: Client, table: str, pipeline: str, count: int, **values: Any) -> None:
    """``count`` rows that differ in their offset only."""
    names = ["pipeline", "topic_offset", *values]
    made = [[pipeline, offset, *values.values()] for offset in range(count)]
    client.insert(table, made, column_names=names)


def ask(settings: Settings, pipeline: Pipeline) -> dict[str, Reading]:
    """The reading of every question."""
    asked = [
        Asked(pipeline.name, alert(name.replace("_", "-"), figure=name, above=0))
        for name in QUESTIONS
    ]

    async def read() -> dict[str, Reading]:
        async with Readings(settings, [pipeline]) as readings:
            found = await readings.read(asked, {})
        return {one.rule.figure: found[one.key] for one in asked}

    return asyncio.run(read())


def test_the_questions_give_what_a_hand_calculation_gives(
    rows: tuple[Settings, Pipeline, Client],
) -> None:
    """150 of 250 truths; 0.1 against 0.2 squared error; 2 alarms; 20 of 200 rejected; 90 s old."""
    settings, pipeline, client = rows
    name, old = pipeline.name, NOW - timedelta(days=2)
    for kind, count, at in (("final", 150, NOW), ("expired", 100, NOW), ("expired", 99, old)):
        insert(client, "examples", name, count, kind=kind, produced_at=at)
    insert(client, "examples", name, 50, kind="corrected", produced_at=NOW)
    for subject, error in (("served", "0.1"), ("prior", "0.2"), ("no_change", "0.4")):
        values = {"subject": subject, "subject_kind": "score", "labels": 1, "squared_error": error}
        insert(client, "evaluations", name, 300, window_start=old, **values)
    insert(client, "alarms", name, 2, detector="adwin-loss", subject="served", produced_at=NOW)
    insert(client, "dead_letters", name, 20, reason="schema", produced_at=NOW)
    insert(
        client, "scored", name, 180, predicted_at=datetime.now(UTC), produced_at=NOW,
        model_version="v1", model_age_ms=90_000,
    )  # fmt: skip
    found = ask(settings, pipeline)
    assert {name: one.error for name, one in found.items() if one.error} == {}
    assert found["label_coverage"].value == pytest.approx(0.6)
    assert found["label_coverage"].detail == "150 of 250 predictions got a truth"
    assert found["skill"].value == pytest.approx(0.5)
    assert found["skill"].detail == "squared error 0.1, of the better baseline 0.2, over 300 truths"
    assert found["drift_alarms"] == Reading(value=2.0, detail="adwin-loss of served")
    assert found["dead_letter_share"].value == pytest.approx(0.1)
    assert found["dead_letter_share"].detail == "20 rejected, 180 good ones; schema"
    assert 90 <= (found["model_age_s"].value or 0) < 300
    assert found["model_age_s"].detail == "version v1"


def test_without_rows_there_is_nothing_to_say(rows: tuple[Settings, Pipeline, Client]) -> None:
    """A pipeline that has just begun wakes nobody."""
    settings, pipeline, _client = rows
    found = ask(settings, pipeline)
    assert {name: one.value for name, one in found.items()} == {
        "model_age_s": None,
        "label_coverage": None,
        "skill": None,
        "drift_alarms": 0.0,
        "dead_letter_share": None,
    }
    assert {one.error for one in found.values()} == {""}
