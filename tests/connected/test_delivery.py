"""The slow loop on real Kafka, store and training: due, trained, tried, and never twice."""

import asyncio
import time
from pathlib import Path

import pytest

from models import rollout
from models.registry import open_registry
from schemas.errors import SetupError
from schemas.settings import Settings
from schemas.training import JOB
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.control.announce import announce, champion
from streams.rollout import delivery
from streams.rollout.delivery import TRIED, TRIGGER, Delivery
from streams.rollout.promotion import steer
from streams.rollout.retraining import jobs_folder, only_training
from streams.store.client import connect
from streams.telemetry import Reporter
from tests.connected.test_bad_input import constant

DECLARATION = """
import numpy as np
import pyarrow as pa
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.retraining import Retraining

def history():
    rows, dice = 20_000, np.random.default_rng(7)
    amount = dice.random(rows)
    times = 1_700_000_000_000 + 60_000 * np.arange(rows)
    return pa.table({{
        "event_id": [str(i) for i in range(rows)], "event_time_ms": times, "card": ["c"] * rows,
        "amount_eur": amount, "age_days": amount, "country": ["FI"] * rows,
        "channel": ["app"] * rows, "label": (dice.random(rows) < amount**2).astype(float),
        "label_time_ms": times + 1,
    }})

payments = Pipeline(
    name="{name}",
    key="card",
    features=[numeric("amount_eur"), numeric("age_days"), category("country"), category("channel")],
    target=label("fraud"),
    history=history,
    partitions=1,
    retraining=Retraining(every="1h", gap="1h"),
)
"""
DECISIONS = (
    "SELECT kind, decision, version, reason FROM decisions WHERE pipeline = {name:String} "
    "ORDER BY at"
)


def test_what_is_due_is_trained_once_and_tried_whatever_is_killed(
    settings: Settings, tmp_path: Path, unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Goal: a rule that is due leads to one training and one rollout, each with its row.

    Method: a version that knows nothing serves since two hours; a training of it is due. Then the
    process "dies" at each of its borders: a new one must end what was begun, and begin nothing.
    """
    monkeypatch.setattr(delivery, "MEANWHILE_S", 0.1)
    name = unique("payments")
    file = tmp_path / f"{name}.py"
    file.write_text(DECLARATION.format(name=name))
    named = Named.load(str(file))
    prepare(settings, [named])
    version, digest = open_registry(settings).publish(*constant(named.pipeline))
    now_s = time.time()
    announce(
        settings, pipeline=name, version=version, digest=digest, now_ms=int(now_s - 7200) * 1000
    )
    client = connect(settings)

    def look(at_s: float) -> str:
        reporter = Reporter(tmp_path, "d", "deliver", name)
        process = Delivery(named.pipeline, str(file), settings, reporter, clock=lambda: at_s)
        process.look()
        return reporter.detail

    def decisions() -> list[tuple[str, ...]]:
        return [tuple(r) for r in client.query(DECISIONS, parameters={"name": name}).result_rows]

    with only_training(settings, name), pytest.raises(SetupError, match="already runs"):
        look(now_s)  # somebody trains by hand
    assert decisions() == []

    assert "done: version" in look(now_s)
    rows = decisions()
    assert [(kind, said) for kind, said, _, _ in rows] == [
        ("trigger", "train"), ("gate", "passed"), ("rollout", "try"),
    ], rows  # fmt: skip
    tried = rows[1][2]
    assert rows[2][2:] == (tried, rows[0][3])
    assert rows[0][3] == "schedule: 1h since the last training"
    told = asyncio.run(champion(settings, name))
    assert told is not None
    assert told.challenger is not None
    assert (told.version, told.challenger.version, told.stage) == (version, tried, "shadow")

    [folder] = [path.parent for path in jobs_folder(settings).glob(f"*/{TRIGGER}")]
    began = (folder / JOB).stat().st_mtime_ns
    (folder / TRIED).unlink()  # it died after the training: `try` is asked again, and refused
    steer(settings, name, lambda told: rollout.hold(told, at_ms=1), now_ms=1)
    look(now_s + 1)
    assert not (folder / TRIED).exists()  # a person keeps everything as it is
    steer(settings, name, lambda told: rollout.release(told, at_ms=2), now_ms=2)
    assert "nothing calls for it" in look(now_s + 1)
    assert (folder / TRIED).exists()
    assert len(list(jobs_folder(settings).glob("*/job.json"))) == 1
    assert (folder / JOB).stat().st_mtime_ns == began
    assert [row for row in decisions() if row[0] == "trigger" and row[1] == "train"] == rows[:1]

    assert f"{tried} is being tried; otherwise: schedule" in look(now_s + 7200)
    assert decisions()[-1][:2] == ("trigger", "wait")

    steer(settings, name, lambda told: rollout.roll_back(told, at_ms=3), now_ms=2**42)
    assert decisions()[-1][:3] == ("rollout", "rollback", tried)  # what was taken back
    client.close()
