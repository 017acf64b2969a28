"""Why a prediction is what it is: from the store, the registry and the learner of that moment."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from confluent_kafka import Producer

from models.dense import EMBEDDING_MLP, build, mlp_parameters
from models.features import learn_spec
from models.hybrid import OnlineModel
from models.online import fingerprint
from models.protocol import FeatureColumns
from models.registry import load_serving, open_registry
from models.signing import load_keyring
from schemas.errors import PermanentError
from schemas.learners import LearnerHeader
from schemas.loading import load_pipeline
from schemas.manifest import Announcement, Manifest
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.cli.main import tidemill
from streams.decisions.explaining import Explanation, explain
from streams.store.client import connect, insert_rows
from streams.store.migrations import migrate
from streams.store.tables import TABLES
from streams.transport.administration import create_topics
from streams.workers.learners import OFFER, pack

DECLARATION = """
from schemas.pipeline import Pipeline, category, label, numeric, online

shop = Pipeline(
    name="{name}", key="user", features=[numeric("price"), category("country"), numeric("age")],
    target=label("bought"), partitions=2, learner=online("logistic_regression"), champion="hybrid",
)
"""
ROWS = 64


def columns(seed: int, rows: int = ROWS) -> FeatureColumns:
    """Rows in which the price decides."""
    dice = np.random.default_rng(seed)
    return FeatureColumns(
        ("price", "age"),
        ("country",),
        dice.normal([50, 40], [30, 12], (rows, 2)).astype(np.float32),
        pa.array(dice.choice(["FI", "SE", "NO"], rows)),
    )


@dataclass(frozen=True)
class Shop:
    """A pipeline on real servers, with a version and what predictions said by it."""

    file: Path
    pipeline: Pipeline
    settings: Settings
    version: str
    deep: Callable[[FeatureColumns], np.ndarray]

    def explained(self, event_id: str) -> Explanation:
        return explain(self.pipeline, self.settings, connect(self.settings), event_id)

    def store(self, event_id: str, row: FeatureColumns, *, score: float, position: int) -> None:
        """A prediction as the lander would have landed it."""
        now = datetime.now(UTC)
        [deep] = self.deep(row).tolist()
        values: dict[str, Any] = {
            "pipeline": self.pipeline.name, "topic_partition": 1, "topic_offset": 1,
            "event_id": event_id, "key": "k", "event_time": now, "produced_at": now,
            "predicted_at": now, "score": score, "model_version": self.version, "model_age_ms": 1,
            "source_partition": 1, "source_offset": 1, "numeric": row.numeric_BF[0].tolist(),
            "category": row.words.to_pylist(), "model_score": deep, "learner_position": position,
        }  # fmt: skip
        table = pa.Table.from_pylist([values], schema=TABLES["scored"])
        insert_rows(connect(self.settings), "scored", table, token=event_id)


@pytest.fixture
def shop(settings: Settings, tmp_path: Path, unique: Callable[[str], str]) -> Shop:
    file = tmp_path / "shop.py"
    file.write_text(DECLARATION.format(name=unique("shop")), encoding="utf-8")
    pipeline = load_pipeline(str(file))
    migrate(settings)
    create_topics(settings, [pipeline.topics.learners])
    spec = learn_spec(pipeline.features, [columns(1)])
    torch.manual_seed(5)
    network = build(EMBEDDING_MLP, mlp_parameters(spec))
    network.learn_scale(torch.from_numpy(columns(1).numeric_BF))  # type: ignore[operator]
    manifest = Manifest(
        pipeline=pipeline.name, architecture=EMBEDDING_MLP, parameters=mlp_parameters(spec),
        features=spec, weights_sha256="", trained_at_ms=1, seed=5,
    )  # fmt: skip
    registry = open_registry(settings)
    version, digest = registry.publish(manifest, network.state_dict())
    told = Announcement(
        pipeline=pipeline.name, version=version, digest=digest, epoch=1, announced_at_ms=0
    )
    return Shop(file, pipeline, settings, version, load_serving(registry, told).score)


def publish(shop: Shop, model: OnlineModel, *, epoch: int, position: int) -> None:
    """An offer of the learner of partition 1, as the learn worker sends it."""
    assert shop.pipeline.learner is not None
    header = LearnerHeader(
        pipeline=shop.pipeline.name, shard=1, epoch=epoch, position=position, rows_learned=1,
        fingerprint=fingerprint(shop.pipeline.learner, shop.pipeline.target), taken_at_ms=1, parts={},
    )  # fmt: skip
    keyring = load_keyring(shop.settings.signing_key_file)
    records, _ = pack(
        shop.pipeline.topics.learners.name, header, {OFFER: model.snapshot()}, keyring
    )
    producer = Producer({"bootstrap.servers": shop.settings.kafka})
    for key, value in zip(records.keys, records.values, strict=True):
        producer.produce(records.topic, value, key=key, partition=0)
    assert producer.flush(30) == 0


def test_a_blended_prediction_is_explained_by_the_learner_of_its_moment(shop: Shop) -> None:
    """
    Goal: what both models added makes the published score, also when the learner went on since.

    Method: three states of a real learner on the real topic, a prediction by the second.
    """
    model, row = OnlineModel(shop.pipeline), columns(99, rows=1)
    said = {}
    for epoch in (1, 2, 3):
        rows = columns(epoch)
        truth = (rows.numeric_BF[:, 0] > 50).astype(np.float64)
        model.take(rows, shop.deep(rows), [shop.version] * ROWS, truth, np.ones(ROWS))
        publish(shop, model, epoch=epoch, position=100 * epoch)
        [said[epoch]] = model.hybrid(row, shop.deep(row), shop.version).tolist()
    assert len({round(score, 3) for score in said.values()}) == 3, "the states differ"
    shop.store("then", row, score=said[2], position=200)
    found = shop.explained("then")
    assert found.learner is not None
    assert (found.learner.position, found.learner.exact) == (200, True)
    assert found.score_again == pytest.approx(said[2], abs=1e-4)
    total = sum(one.adds for one in found.contributions)
    assert found.base + total + found.remainder == pytest.approx(found.answer, abs=1e-9)
    assert abs(found.remainder) < 1e-3
    assert {one.feature for one in found.contributions} == {"price", "age", "country"}
    assert {one.value for one in found.contributions} == {
        *row.numeric_BF[0].tolist(),
        *row.words.to_pylist(),
    }
    assert "weight * (value - mean), exact" in found.method
    assert "integrated gradients" in found.method

    shop.store("compacted", row, score=said[2], position=240)
    near = shop.explained("compacted")
    assert near.learner is not None
    assert (near.learner.position, near.learner.exact) == (200, False)

    shop.store("alone", row, score=float(shop.deep(row)[0]), position=-1)
    alone = shop.explained("alone")
    assert alone.learner is None
    assert alone.score_again == pytest.approx(alone.score, abs=1e-5)


def test_the_command_says_why_and_what_it_does_not_know(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For people a table with signs, for programs one document; an unknown event is a clear no."""
    for name, value in shop.settings.environment().items():
        monkeypatch.setenv(name, value)
    row = columns(7, rows=1)
    shop.store("e1", row, score=float(shop.deep(row)[0]), position=-1)
    shown = CliRunner().invoke(tidemill, ["explain", str(shop.file), "--id", "e1"])
    assert shown.exit_code == 0, shown.output
    assert "price" in shown.output
    assert "baseline" in shown.output
    told = CliRunner().invoke(tidemill, ["explain", str(shop.file), "--id", "e1", "--json"])
    document = json.loads(told.output)
    assert document["version"] == shop.version
    adds = [abs(one["adds"]) for one in document["contributions"]]
    assert adds == sorted(adds, reverse=True)
    with pytest.raises(PermanentError, match="the store has no prediction of it"):
        shop.explained("nobody")
