"""Features: the same numbers whether a row is served or trained on, alone or among others."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import (
    DICT_WORDS_MAX,
    ColumnReader,
    Encoder,
    columns,
    encode,
    from_table,
    learn_spec,
    list_columns,
)
from schemas.errors import FeatureError, ModelError
from schemas.events import Event, EventDecoder, Source
from schemas.features import Category, FeatureSpec, Numeric
from schemas.pipeline import Pipeline, category, label, numeric

PIPELINE = Pipeline(
    name="ships",
    key="ship_id",
    features=[
        category("flag", missing="none", vocabulary_max=3),
        numeric("speed_kn"),
        numeric("load_t", missing=7.5),
        category("port"),
    ],
    target=label("late"),
)
SPEC = FeatureSpec(
    numeric=(Numeric(name="speed_kn"), Numeric(name="load_t", missing=7.5)),
    category=(Category(name="flag", missing="none", vocabulary_max=3), Category(name="port")),
    # "NO" is a word of both vocabularies, with another index in each.
    vocabularies=(("NO", "none"), ("HAM", "NO", "")),
)
SOURCE = Source("ships.events", 0)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
words = st.sampled_from(["NO", "none", "HAM", "", "DE", "\u00e9", "\x00"]) | st.text(max_size=5)
rows = st.fixed_dictionaries(
    {"speed_kn": finite, "port": words.filter(lambda w: w.isprintable())},
    optional={"load_t": st.none() | finite, "flag": st.none() | words.filter(str.isprintable)},
)


def served(messages: list[dict[str, Any]]) -> list[Event]:
    """The events that a worker would make of these rows."""
    values = [
        json.dumps({"event_id": str(i), "event_time_ms": 1, "ship_id": "s", **row}).encode()
        for i, row in enumerate(messages)
    ]
    count = len(values)
    found = EventDecoder(PIPELINE).decode(SOURCE, range(count), [None] * count, values, now_ms=1)
    assert not found.rejects
    return found.events


def history(messages: list[dict[str, Any]]) -> pa.Table:
    kinds = {"speed_kn": pa.float64(), "load_t": pa.float64(), "flag": pa.utf8(), "port": pa.utf8()}
    return pa.table(
        {n: pa.array([row.get(n) for row in messages], kind) for n, kind in kinds.items()}
    )


@given(st.lists(rows, max_size=130))
@settings(max_examples=100, deadline=None)
def test_serving_and_training_see_the_same_tensors(messages: list[dict[str, Any]]) -> None:
    """The conformance of the two paths: JSON events and Arrow history, below and above the
    number of words at which the look-up changes its method."""
    live = encode(SPEC, columns(PIPELINE.features, served(messages)))
    past = encode(SPEC, from_table(PIPELINE.features, history(messages)))
    assert live.numeric_BF.dtype == torch.float32
    assert live.category_BC.dtype == torch.int64
    assert live.numeric_BF.shape == live.category_BC.shape == (len(messages), 2)
    assert torch.equal(live.numeric_BF, past.numeric_BF)
    assert torch.equal(live.category_BC, past.category_BC)


@given(st.lists(rows, min_size=1, max_size=8), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_row_is_encoded_alone_as_among_many(messages: list[dict[str, Any]], copies: int) -> None:
    """A prediction must not depend on its neighbours in the micro-batch."""
    encoder, read = Encoder(SPEC), ColumnReader(PIPELINE.features)
    many = encoder(read(served(messages * copies)))
    for position, message in enumerate(messages * copies):
        if position >= len(messages):
            position %= len(messages)  # noqa: PLW2901  # copies repeat
        alone = encoder(read(served([message])))
        assert torch.equal(alone.numeric_BF[0], many.numeric_BF[position])
        assert torch.equal(alone.category_BC[0], many.category_BC[position])


@pytest.mark.parametrize("copies", [1, DICT_WORDS_MAX])
def test_known_unknown_and_missing_words_have_the_documented_index(copies: int) -> None:
    """Index i + 1 for word i of the vocabulary, 0 for any other word, checked by hand."""
    messages = [
        {"speed_kn": 1.0, "flag": "NO", "port": "NO"},  # first of one, second of the other
        {"speed_kn": 2.0, "flag": "HAM", "port": "HAM"},  # a word of the other category only
        {"speed_kn": 3.0, "port": ""},  # flag is absent: it means "none"
        {"speed_kn": 4.0, "flag": None, "load_t": None, "port": "never seen"},
    ]
    found = encode(SPEC, columns(PIPELINE.features, served(messages * copies)))
    assert found.category_BC.tolist() == [[1, 2], [0, 1], [2, 3], [2, 0]] * copies
    assert found.numeric_BF.tolist() == [[1.0, 7.5], [2.0, 7.5], [3.0, 7.5], [4.0, 7.5]] * copies


def test_a_vocabulary_is_ordered_by_frequency_then_alphabet_and_cut() -> None:
    """Which words a model knows must not depend on the order of the rows."""
    flags = ["b"] * 2 + ["c"] * 3 + ["a"] * 2 + ["d"]
    messages = [{"speed_kn": 0.0, "flag": flag, "port": "x"} for flag in flags]
    for ordered in (messages, messages[::-1]):
        spec = learn_spec(PIPELINE.features, [from_table(PIPELINE.features, history(ordered))])
        assert spec.vocabularies == (("c", "a", "b"), ("x",))


@pytest.mark.parametrize("number", [3.5e38, -1e300])
def test_a_number_beyond_float32_is_refused(number: float) -> None:
    """It would reach the model as infinity and come out as a score that is no probability."""
    bad = {"speed_kn": number, "port": "x"}
    with pytest.raises(FeatureError, match="feature=speed_kn row=1 rows_bad=1"):
        columns(PIPELINE.features, served([{"speed_kn": 1.0, "port": "x"}, bad]))
    with pytest.raises(FeatureError, match="speed_kn"):
        from_table(PIPELINE.features, history([bad]))


def test_a_history_without_a_required_value_is_refused() -> None:
    """Training must not invent what serving would reject."""
    with pytest.raises(FeatureError, match="speed_kn is missing in 1 of 1 rows"):
        from_table(PIPELINE.features, history([{"port": "x"}]))


def test_a_model_is_served_with_its_own_features_in_its_own_order() -> None:
    """A pipeline may have gained features since the model was trained; it must not lose any."""
    found = columns(PIPELINE.features, served([{"speed_kn": 1.0, "flag": "DE", "port": "HAM"}]))
    old = FeatureSpec(
        numeric=SPEC.numeric[::-1], category=SPEC.category[1:], vocabularies=(("HAM",),)
    )
    x = encode(old, found)
    assert x.numeric_BF.tolist() == [[7.5, 1.0]]
    assert x.category_BC.tolist() == [[1]]
    gone = FeatureSpec(numeric=(Numeric(name="gone"),), category=(), vocabularies=())
    with pytest.raises(ModelError, match="gone"):
        encode(gone, found)


@given(st.lists(rows, max_size=40))
@settings(max_examples=40, deadline=None)
def test_list_columns_hold_the_features_in_declared_order(messages: list[dict[str, Any]]) -> None:
    """What lands in ClickHouse is what the model saw."""
    events = served(messages)
    numbers, texts = list_columns(columns(PIPELINE.features, events))
    assert numbers.type == pa.list_(pa.float32())
    assert texts.type == pa.list_(pa.utf8())
    assert numbers.to_pylist() == [[np.float32(e.speed_kn), np.float32(e.load_t)] for e in events]
    assert texts.to_pylist() == [[e.flag, e.port] for e in events]


@pytest.mark.parametrize(
    "features", [[numeric("x")], [category("w")], [numeric("x"), category("w")]]
)
def test_one_kind_of_feature_is_enough(features: list[Numeric | Category]) -> None:
    """A pipeline of numbers only or of words only is legal, and a single one is not a tuple."""
    pipeline = Pipeline(name="small", key="k", features=features, target=label("y"))
    value = b'{"event_id":"1","event_time_ms":1,"k":"k","x":2.0,"w":"abc"}'
    events = EventDecoder(pipeline).decode(SOURCE, [0, 1], [b"", b""], [value] * 2, now_ms=1).events
    found = columns(features, events)
    spec = learn_spec(features, [found])
    x = encode(spec, found)
    assert x.numeric_BF.shape == (2, len(spec.numeric))
    assert x.category_BC.tolist() == [[1] * len(spec.category)] * 2
    numbers, texts = list_columns(found)
    assert numbers.to_pylist() == [[2.0] * len(spec.numeric)] * 2
    assert texts.to_pylist() == [["abc"] * len(spec.category)] * 2
