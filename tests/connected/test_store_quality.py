"""The views of quality and alarms on the real engine say what the sums in Python say."""

import math

import numpy as np
import pyarrow as pa
import pytest

from models.measures import summed
from models.observer import PipelineObserver
from schemas.drift import drift
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from streams.store.client import connect, insert_rows
from streams.store.migrations import migrate
from streams.store.tables import TABLES, check_table
from streams.store.views import create_views
from tests.contract.test_documentation import blocks
from tests.unit.journal import message, row

shop = Pipeline(
    name="shop", key="user", features=[numeric("price"), category("country")],
    target=label("bought", prior=0.3), drift=drift(features=["price"]),
)  # fmt: skip
rent = Pipeline(
    name="rent", key="flat", features=[numeric("rooms"), category("town")],
    target=label("price", kind="number", prior=10.0),
)  # fmt: skip


def landed(batch: pa.RecordBatch, pipeline: str, offset: int) -> pa.Table:
    """The rows as the lander makes them."""
    count = batch.num_rows
    place = [
        pa.array([pipeline] * count), pa.array([0] * count, pa.uint32()),
        pa.array([offset] * count, pa.uint64()),
    ]  # fmt: skip
    return pa.Table.from_arrays([*place, *batch.columns], schema=TABLES["evaluations"])


def journal(random: np.random.Generator, *, binary: bool):
    """Asked, answered late, some corrected, in two hours and by two versions."""
    rows = []
    for i in range(1500):
        score = float(np.float32(random.beta(0.7, 1.1) if binary else random.normal(10, 4)))
        truth = float(random.random() < score) if binary else float(random.normal(10, 2))
        shared = {
            "score": score, "model": score / 2, "hour": i // 900, "version": f"v{i // 1200}",
        }  # fmt: skip
        rows.append((i, row(i, "pending", **shared)))
        if i % 10 == 0:
            rows.append((i + 300, row(i, "expired", **shared)))
            continue
        delay_ms = int(np.exp(random.normal(9, 2)))
        rows.append((i + 200, row(i, "final", label=truth, delay_ms=delay_ms, **shared)))
        if i % 7 == 0:
            other = 1 - truth if binary else truth * 1.5
            corrected = {"label": other, "previous": truth, "delay_ms": 2 * delay_ms}
            rows.append((i + 400, row(i, "corrected", **corrected, **shared)))
    return [line for _, line in sorted(rows, key=lambda item: item[0])]


@pytest.fixture
def client(store, unique):
    own = Settings(clickhouse=store, database=unique("quality"))
    migrate(own)
    made = connect(own)
    yield made
    made.close()


@pytest.mark.parametrize("pipeline", [shop, rent], ids=["binary", "number"])
def test_the_view_says_what_the_sums_say(client, pipeline):
    """
    Goal: whoever asks in SQL gets the numbers that the tests of `models` prove.

    Method: a journal with corrections, landed message by message; per subject the view, summed over
    windows and versions by the window that holds them all, equals `models.measures`.
    """
    for table in TABLES:
        check_table(client, table)
    create_views(client, pipeline)
    observer = PipelineObserver(pipeline)
    rows = journal(np.random.default_rng(3), binary=pipeline is shop)
    batches = []
    for first in range(0, len(rows), 400):
        part = message(rows[first : first + 400])
        online = np.clip(np.asarray(part["score"], float) * 0.9, 0.001, None)
        found = observer.observe(part, {"online": online})
        batches.append(found.evaluations)
        table = landed(found.evaluations, pipeline.name, first)
        insert_rows(client, "evaluations", table, token=f"t{first}")
    seen = client.query(f"SELECT * FROM {pipeline.name}_quality").named_results()
    windows = list(seen)
    assert len(windows) == 5 * 3  # hours 0 and 1, of which one has two versions
    for line in windows:
        own = [
            pa.RecordBatch.from_pylist(
                [
                    r for r in batch.to_pylist()
                    if r["window_start"] == line["window_start"].replace(tzinfo=r["window_start"].tzinfo)
                    and r["model_version"] == line["model_version"]
                ],
                schema=batch.schema,
            )
            for batch in batches
        ]  # fmt: skip
        wanted = summed(own)[line["subject"]]
        expected = {
            "coverage": wanted.coverage, "predictions": wanted.counts["predictions"],
            "labels": wanted.counts["labels"], "corrected": wanted.counts["corrected"],
        }  # fmt: skip
        if pipeline is shop:
            area, error_max = wanted.auc
            expected |= {
                "accuracy": wanted.accuracy, "kappa": wanted.kappa, "brier": wanted.brier,
                "auc": area, "auc_error_max": error_max,
            }  # fmt: skip
            if line["subject"] != "no_change":
                expected["log_loss"] = wanted.log_loss
        else:
            expected |= {"mae": wanted.mae, "rmse": wanted.rmse}
        if line["subject"] == "served":
            expected |= {
                "expired": wanted.counts["expired"],
                "delay_s_p50": wanted.delay_ms(0.5) / 1000,
                "delay_s_p95": wanted.delay_ms(0.95) / 1000,
            }
            if pipeline is shop:
                expected |= {
                    "estimated_accuracy": wanted.estimated_accuracy,
                    "estimate_error": wanted.estimate_error,
                }
        for name, value in expected.items():
            if math.isnan(value):
                assert line[name] is None, (line["subject"], name)
            else:
                assert float(line[name]) == pytest.approx(value, rel=1e-9, abs=1e-9), (
                    line["subject"], name,
                )  # fmt: skip


def test_the_queries_of_the_documentation_run(client):
    """A query that fails costs a newcomer the evening."""
    create_views(client, load_pipeline("flights"))
    queries = blocks("docs/quality.md", "sql")
    assert len(queries) == 6
    for query in queries:
        client.query(query)


def test_stability_and_alarms_have_views(client):
    """A feature that moved: a row each minute, and one alarm as a row with its evidence."""
    create_views(client, shop)
    random = np.random.default_rng(1)
    observer, alarms = PipelineObserver(shop), []
    for first in range(0, 4000, 200):
        part = message(
            [
                row(i, "pending", time_ms=600 * i, numeric=(random.normal(2 * (i > 3000)),))
                for i in range(first, first + 200)
            ]
        )
        found = observer.observe(part, {})
        alarms += found.alarms
        table = landed(found.evaluations, "shop", first)
        insert_rows(client, "evaluations", table, token=f"s{first}")
    looks = client.query(
        "SELECT feature, count(), max(stability) FROM shop_stability GROUP BY feature"
    ).result_rows
    assert {name for name, *_ in looks} == {"price", "country"}
    assert {name: top for name, _, top in looks}["price"] > 0.25
    assert {alarm.detector for alarm in alarms} >= {"population-stability", "adwin-value"}
