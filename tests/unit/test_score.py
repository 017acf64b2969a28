"""The scorer: runs of bytes in, messages out, one place for every record, whatever the model does."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.champion import Champion, Served
from models.engine import Engine, Loaded
from models.features import Encoder
from models.hybrid import OnlineModel
from models.inference import BLOCK_ROWS
from models.protocol import FeatureColumns
from schemas.dead_letters import DeadLetter, Reason, read_dead_letter
from schemas.errors import ModelError
from schemas.features import FeatureSpec, split
from schemas.pipeline import Pipeline, category, label, numeric, online
from schemas.predictions import Prediction
from schemas.retraining import ModelAge
from schemas.scored import read_scored
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.transport.commit import Outgoing
from streams.transport.records import Run
from streams.workers.score import POISON_ROWS_MAX, Scorer

NOW_MS = 1_700_000_000_000
POISON = 666.0
shop = Pipeline(
    name="shop",
    key="user",
    features=[numeric("price"), numeric("age", missing=7.0), category("country")],
    target=label("bought"),
    partitions=8,
)


class Touchy(nn.Module):
    """Says price / 1000, plus 0.5 for country FI; raises on any batch with a poisoned price."""

    def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
        if bool((numbers[:, 0] == POISON).any()):
            raise RuntimeError("index out of range in self")
        return numbers[:, 0] / 1000 + 0.5 * (words[:, 0] == 1)


class Mad(nn.Module):
    """Answers a poisoned price with what is no probability."""

    def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
        return torch.where(numbers[:, 0] == POISON, torch.nan, 0.25)


def make(
    tmp_path: Path,
    module: nn.Module | None = None,
    champion: Champion | None = None,
    pipeline: Pipeline = shop,
    **options: int,
) -> Scorer:
    numbers, words = split(shop.features)
    loaded = Loaded(
        version="0123456789ab",
        epoch=1,
        trained_at_ms=NOW_MS - 60_000,
        module=Touchy() if module is None else module,
        encode=Encoder(FeatureSpec(numeric=numbers, category=words, vocabularies=(("FI",),))),
    )
    return Scorer(
        pipeline,
        Engine(loaded),
        Settings(home=tmp_path, **options),
        Reporter(tmp_path, "w", "score"),
        champion=champion,
        clock=lambda: NOW_MS / 1000,
    )


def event(event_id: str, price: object = 100.0, **more: object) -> bytes:
    fields = {"event_id": event_id, "event_time_ms": NOW_MS - 5, "user": f"u-{event_id}",
              "price": price, "country": "SE"}  # fmt: skip
    return json.dumps(fields | more).encode()


def run(
    values: list[bytes | None], keys: list[bytes | None] | None = None, partition: int = 5
) -> Run:
    """Offsets 100, 103, 106 ...: gaps as after a compaction."""
    return Run(
        tp=TP("shop.events", partition),
        keys=[b"key-%d" % i for i in range(len(values))] if keys is None else keys,
        values=values,
        timestamps_ms=[NOW_MS - i for i in range(len(values))],
        offsets=range(100, 100 + 3 * len(values), 3),
        next_offset=100 + 3 * len(values),
    )


def predictions(outgoing: list[Outgoing]) -> list[Prediction]:
    return [
        msgspec.json.decode(value, type=Prediction)
        for part in outgoing
        if part.topic == "shop.predictions"
        for value in part.values
    ]


def scored(outgoing: list[Outgoing]) -> list[dict]:
    return [
        row
        for part in outgoing
        if part.topic == "shop.scored"
        for value in part.values
        for row in read_scored(value).to_pylist()
    ]


def letters(outgoing: list[Outgoing]) -> list[DeadLetter]:
    return [
        read_dead_letter(key, value, headers)
        for part in outgoing
        if part.topic == "shop.dead-letters"
        for key, value, headers in zip(part.keys, part.values, part.headers, strict=True)
    ]


def test_a_run_becomes_predictions_and_the_same_rows_with_features(tmp_path: Path) -> None:
    """All to the partition the events came from, in their order."""
    answer = make(tmp_path)(run([event("a", country="FI"), event("b", 200.0, age=3)]))
    assert [(part.topic, part.partition, len(part.values)) for part in answer] == [
        ("shop.predictions", 5, 2),
        ("shop.scored", 5, 1),
    ]
    assert answer[0].keys == [b"key-0", b"key-1"]
    assert predictions(answer) == [
        Prediction(event_id=i, key=f"u-{i}", score=s, event_time_ms=NOW_MS - 5, source_offset=o,
                   source_partition=5, model_version="0123456789ab", model_age_ms=60_000,
                   predicted_at_ms=NOW_MS)
        for i, s, o in (("a", 0.6, 100), ("b", 0.2, 103))
    ]  # fmt: skip
    first, second = scored(answer)
    assert (first["numeric"], first["category"]) == ([100.0, 7.0], ["FI"])
    assert (second["numeric"], second["category"]) == ([200.0, 3.0], ["SE"])
    assert [r["source_offset"] for r in (first, second)] == [100, 103]
    assert [r["produced_at"].timestamp() * 1000 for r in (first, second)] == [NOW_MS, NOW_MS - 1]
    assert first["score"] == pytest.approx(0.6)


def test_a_champion_with_a_learner_says_whose_score_it_is(tmp_path: Path) -> None:
    """What was served, what the deep model said alone, and how far the learner had learned."""
    online_shop = replace(shop, learner=online("logistic_regression"))
    model = OnlineModel(online_shop)
    wrong = FeatureColumns(
        ("price", "age"), ("country",), np.array([[100.0, 7.0]], np.float32), pa.array(["SE"])
    )
    for _ in range(50):  # it is always the other way round than the deep model says
        model.take(wrong, np.array([0.1], np.float32), ["0123456789ab"], np.ones(1), np.ones(1))
    champion = Champion(online_shop)
    scorer = make(tmp_path, champion=champion)
    before = scored(scorer(run([event("a")])))
    assert [(r["learner_position"], r["model_score"] == r["score"]) for r in before] == [(-1, True)]
    champion.offer(5, Served(model, 4321))
    answer = scorer(run([event("a"), event("b")]))
    for row, prediction in zip(scored(answer), predictions(answer), strict=True):
        assert row["model_score"] == pytest.approx(0.1)
        assert row["score"] > 0.5
        assert prediction.score == pytest.approx(row["score"], abs=1e-6)
        assert row["learner_position"] == prediction.learner_position == 4321
    champion.offer(4, Served(model, 9))
    assert scored(scorer(run([event("a")])))[0]["learner_position"] == 4321


def test_an_unknown_word_is_scored_as_any_other(tmp_path: Path) -> None:
    """New airports open; an event is not bad because the model has not met its words."""
    answer = make(tmp_path)(run([event("a", country="Atlantis"), event("b", country="")]))
    assert [one.score for one in predictions(answer)] == [0.1, 0.1]
    assert [row["category"] for row in scored(answer)] == [["Atlantis"], [""]]


def test_a_null_key_becomes_that_of_the_key_field(tmp_path: Path) -> None:
    """So that predictions are keyed even when the producer forgot; other keys stay as they are."""
    answer = make(tmp_path)(run([event("a"), b"{", event("c")], [None, None, b"own"]))
    assert answer[0].keys == [b"u-a", b"own"]
    assert letters(answer)[0].key is None


@pytest.mark.parametrize("module", [Touchy(), Mad()], ids=["raises", "answers NaN"])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("gggggpb"), max_size=40))
def test_exactly_the_poisoned_rows_become_dead_letters(
    tmp_path_factory: pytest.TempPathFactory, module: nn.Module, kinds: list[str]
) -> None:
    """A batch on which the model fails is split until each poisoned record stands alone."""
    prices = [{"g": 1.0 + i, "p": POISON, "b": "broken"}[kind] for i, kind in enumerate(kinds)]
    values = [event(str(i), price) for i, price in enumerate(prices)]
    answer = make(tmp_path_factory.getbasetemp(), module)(run(values))
    offsets = {kind: [100 + 3 * i for i, k in enumerate(kinds) if k == kind] for kind in "gpb"}
    said = predictions(answer)
    assert [one.source_offset for one in said] == offsets["g"]
    expected = [p / 1000 for p, kind in zip(prices, kinds, strict=True) if kind == "g"]
    if isinstance(module, Touchy):
        assert [one.score for one in said] == pytest.approx(expected)
    rows = scored(answer)
    assert [row["source_offset"] for row in rows] == offsets["g"]
    assert [row["event_id"] for row in rows] == [one.event_id for one in said]
    np.testing.assert_allclose([row["score"] for row in rows], [one.score for one in said], 1e-5)
    found = letters(answer)
    assert sorted(x.offset for x in found if x.reason is Reason.MODEL) == offsets["p"]
    assert sorted(x.offset for x in found if x.reason is Reason.SCHEMA) == offsets["b"]
    for one in found:
        position = (one.offset - 100) // 3
        assert (one.value, one.key) == (values[position], b"key-%d" % position)
        assert (one.topic, one.partition) == ("shop.events", 5)


def test_a_run_of_poison_alone_gives_no_predictions(tmp_path: Path) -> None:
    """And no empty messages either."""
    answer = make(tmp_path)(run([event("a", POISON)]))
    assert [part.topic for part in answer] == ["shop.dead-letters"]


def test_a_broken_model_stops_the_worker_instead_of_rejecting_everything(tmp_path: Path) -> None:
    """The events wait in Kafka for a better version; as dead letters they would be lost to users."""
    with pytest.raises(ModelError, match=r"version=0123456789ab failed on 17 records in a row"):
        make(tmp_path)(run([event(str(i), POISON) for i in range(POISON_ROWS_MAX + 1)]))


def test_poison_is_counted_over_runs_and_forgotten_after_a_good_row(tmp_path: Path) -> None:
    """A broken model shows also on a quiet topic, where every run is one record."""
    scorer = make(tmp_path)
    poison = [event(str(i), POISON) for i in range(POISON_ROWS_MAX)]
    assert len(letters(scorer(run(poison)))) == POISON_ROWS_MAX
    scorer(run([event("good")]))
    for one in poison:
        assert len(letters(scorer(run([one])))) == 1
    with pytest.raises(ModelError):
        scorer(run([event("one too many", POISON)]))


@pytest.mark.parametrize("price", ["1e39", "-1e39", "1e400", "3.4028236e38"])
def test_numbers_beyond_float32_are_found_among_good_rows(tmp_path: Path, price: str) -> None:
    """The decoder's short way lets 1e39 pass; the feature code sees it; the others stay."""
    bad = event("bad", "@").replace(b'"@"', price.encode())
    answer = make(tmp_path)(run([event("a"), bad, event("c")]))
    assert [one.event_id for one in predictions(answer)] == ["a", "c"]
    [letter] = letters(answer)
    assert (letter.reason, letter.offset, letter.value) == (Reason.NOT_FINITE, 103, bad)


def test_labels_are_only_checked(tmp_path: Path) -> None:
    """The lander takes the good ones from the topic itself; here the broken ones are rejected."""
    good = b'{"event_id":"nobody knows it","value":1,"label_time_ms":5}'
    large = good[:-1] + b',"note":"' + b"x" * 1000 + b'"}'
    labels = run([good, b"{", None, good, large])
    labels.tp = TP("shop.labels", 5)
    answer = make(tmp_path, event_bytes_max=500)(labels)
    assert [part.topic for part in answer] == ["shop.dead-letters"]
    assert [(x.reason, x.topic, x.offset) for x in letters(answer)] == [
        (Reason.MALFORMED_JSON, "shop.labels", 103),
        (Reason.NULL_VALUE, "shop.labels", 106),
        (Reason.TOO_LARGE, "shop.labels", 112),
    ]
    labels.values = [good] * 5
    assert make(tmp_path)(labels) == []


def test_totals_are_counted(tmp_path: Path) -> None:
    """What `status` shows is what was sent."""
    scorer = make(tmp_path)
    scorer(run([event("a"), b"{", event("p", POISON), event("c")]))
    assert scorer._counters["predictions"] == 2
    assert scorer._counters["dead_letters"] == 2


def test_runs_of_one_drain_are_scored_together_and_answered_apart(tmp_path: Path) -> None:
    """One call of the model for all partitions; each message names and holds its own."""
    calls: list[int] = []

    class Counting(Touchy):
        def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
            calls.append(len(numbers))
            return super().forward(numbers, words)

    runs = [
        run([event("a", 100.0), b"{", event("b", 200.0)], partition=3),
        run([event("c", 300.0, country="FI")], partition=5),
        run([b"no json"], partition=6),
    ]
    together = make(tmp_path, Counting())
    found = together.finish(together.compute(runs))
    assert calls == [BLOCK_ROWS]  # three rows, filled up
    alone = make(tmp_path)
    expected = [part for one in runs for part in alone(one)]

    def by_place(parts: list[Outgoing]) -> dict[tuple[str, int], object]:
        return {
            (part.topic, part.partition): [read_scored(value) for value in part.values]
            if part.topic == "shop.scored"
            else part
            for part in parts
        }

    assert by_place(found) == by_place(expected)
    assert len(found) == len(expected) == 6


def test_poison_in_one_run_leaves_the_others_their_answers(tmp_path: Path) -> None:
    """The call for the whole drain fails; then each run is searched alone."""
    scorer = make(tmp_path)
    runs = [
        run([event("a"), event("p", POISON)], partition=0),
        run([event("b")], partition=1),
    ]
    found = scorer.finish(scorer.compute(runs))
    assert [letter.partition for letter in letters(found)] == [0]
    ids = {
        part.partition: [json.loads(value)["event_id"] for value in part.values]
        for part in found
        if part.topic == "shop.predictions"
    }
    assert ids == {0: ["a"], 1: ["b"]}


@pytest.mark.parametrize(("limit", "then", "version", "old"), [
    ("61s", "prior", "0123456789ab", 0.0),
    ("59s", "alarm", "0123456789ab", 2.0),
    ("59s", "prior", "prior", 2.0),
])  # fmt: skip
def test_a_model_that_is_too_old_is_an_alarm_or_not_asked(
    limit: str, then: str, version: str, old: float, tmp_path: Path
) -> None:
    """It ended its training a minute ago. The prior has no age, and the rows name it."""
    aged = replace(shop, model_age=ModelAge(limit=limit, then=then))
    scorer = make(tmp_path, pipeline=aged)
    answer = scorer(run([event("a", country="FI"), event("b", 200.0)]))
    assert {said.model_version for said in predictions(answer)} == {version}
    expected = [0.5, 0.5] if version == "prior" else [0.6, 0.2]
    assert [said.score for said in predictions(answer)] == pytest.approx(expected)
    assert [row["model_age_ms"] for row in scored(answer)] == [
        0 if version == "prior" else 60_000
    ] * 2
    assert scorer._counters["model_too_old_rows"] == old
