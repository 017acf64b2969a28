"""A declaration reads well when right; when wrong it says file and line, the field, and the fix."""

import re
from pathlib import Path

import pytest

from schemas.errors import PipelineError, SetupError
from schemas.features import Category, Numeric
from schemas.loading import load_pipeline, ready_pipelines
from schemas.pipeline import Pipeline, label, numeric, online

README_EXAMPLE = '''
"""Is this payment fraud?"""

from schemas.pipeline import Pipeline, category, label, numeric

payments = Pipeline(
    name="payments",
    key="account_id",
    features=[
        numeric("amount_eur"),
        numeric("account_age_days", missing=0.0),
        category("country"),
        category("channel", missing="web", vocabulary_max=8),
    ],
    target=label("fraud", prior=0.02),
    partitions=8,
)
'''.strip()


def file(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def declaration(**changes: str) -> str:
    """A good file with changed arguments; the call is on line 3."""
    arguments = {
        "name": '"mine"',
        "key": '"user"',
        "features": '[numeric("price"), category("country")]',
        "target": 'label("bought")',
    } | changes
    called = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return (
        "from schemas.pipeline import Pipeline, Target, category, label, numeric, online\n\n"
        f"mine = Pipeline({called})\n"
    )


def test_an_own_pipeline_in_25_lines(tmp_path: Path) -> None:
    """What a newcomer writes is enough."""
    assert len(README_EXAMPLE.splitlines()) <= 25
    found = load_pipeline(file(tmp_path, README_EXAMPLE))
    assert (found.name, found.key, found.partitions) == ("payments", "account_id", 8)
    assert found.features == (
        Numeric(name="amount_eur"),
        Numeric(name="account_age_days", missing=0.0),
        Category(name="country"),
        Category(name="channel", missing="web", vocabulary_max=8),
    )
    assert (found.target.name, found.target.prior) == ("fraud", 0.02)
    assert found.history is None
    assert found.source == f"{tmp_path / 'mine.py'}:5"


def test_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed: `tidemill up mine.py`."""
    file(tmp_path, declaration())
    monkeypatch.chdir(tmp_path)
    assert load_pipeline("mine.py").name == "mine"


def test_helpers_may_lie_beside_the_declaration(tmp_path: Path) -> None:
    """A pipeline that the file only imports is not the one it declares."""
    text = declaration() + "from schemas.pipelines.flights import flights\n"
    assert load_pipeline(file(tmp_path, text)).name == "mine"


def test_a_file_may_choose_a_ready_pipeline(tmp_path: Path) -> None:
    """When it declares none of its own, the one it imports is meant."""
    text = "from schemas.pipelines.flights import flights\n"
    assert load_pipeline(file(tmp_path, text)).name == "flights"


def test_every_ready_pipeline_loads_by_its_name() -> None:
    """The name of the file, of the variable and of the pipeline are one."""
    assert "flights" in ready_pipelines()
    assert [load_pipeline(name).name for name in ready_pipelines()] == ready_pipelines()


MISTAKES = {
    "name in capitals": ({"name": '"Mine"'}, "name: 'Mine'", "lower-case"),
    "name with a dash": ({"name": '"my-shop"'}, "name: 'my-shop'", "lower-case"),
    "name with a line end": ({"name": r'"mine\n"'}, r"name: 'mine\n'", "lower-case"),
    "name is a word of Python": ({"name": '"class"'}, "name: 'class'", "lower-case"),
    "name too long": ({"name": '"a" * 49'}, "name: 'aaa", "48"),
    "name is a number": ({"name": "7"}, "name: 7", "quotes"),
    "key of the envelope": ({"key": '"event_id"'}, "key: 'event_id'", "another"),
    "key empty": ({"key": '""'}, "key: ''", "lower-case"),
    "key is a number": (
        {"key": '"price"'},
        "key: 'price' is a number",
        "category('price')",
    ),
    "no features": ({"features": "[]"}, "features", "Add numeric(...)"),
    "features not a list": ({"features": 'numeric("x")'}, "features", "Put them in a list"),
    "features is text": ({"features": '"price"'}, "features", "Put them in a list"),
    "feature as bare text": (
        {"features": '[numeric("a"), "price"]'},
        "features[1]: 'price'",
        "numeric('...')",
    ),
    "feature mistyped": ({"features": '[numeric("Price")]'}, "features[0]: 'Price'", "lower-case"),
    "feature without a name": ({"features": "[numeric([])]"}, "features[0]: []", "quotes"),
    "feature twice": (
        {"features": '[numeric("price"), category("price")]'},
        "features[1]: the name 'price' is taken",
        "another",
    ),
    "feature of the envelope": (
        {"features": '[numeric("event_time_ms")]'},
        "features[0]: 'event_time_ms'",
        "another",
    ),
    "feature that is the truth": (
        {"features": '[numeric("label")]'},
        "features[0]: 'label'",
        "another",
    ),
    "missing is NaN": (
        {"features": '[numeric("a", missing=float("nan"))]'},
        "features[0]: missing=nan",
        "float32",
    ),
    "missing beyond float32": (
        {"features": '[numeric("a", missing=1e39)]'},
        "features[0]: missing=1e+39",
        "float32",
    ),
    "missing is text": (
        {"features": '[numeric("a", missing="0")]'},
        "features[0]: missing='0'",
        "float32",
    ),
    "missing is a number": (
        {"features": '[category("a", missing=0)]'},
        "features[0]: missing=0",
        "quotes",
    ),
    "vocabulary of nothing": (
        {"features": '[category("a", vocabulary_max=0)]'},
        "features[0]: vocabulary_max=0",
        "1 to 30000",
    ),
    "vocabulary as text": (
        {"features": '[category("a", vocabulary_max="8")]'},
        "features[0]: vocabulary_max='8'",
        "1 to 30000",
    ),
    "target as text": ({"target": '"bought"'}, "target: 'bought'", "label('...')"),
    "target mistyped": ({"target": 'label("Bought")'}, "target: 'Bought'", "lower-case"),
    "prior of 1": ({"target": 'label("b", prior=1)'}, "target: prior=1", "between 0 and 1"),
    "prior as text": ({"target": 'label("b", prior="0.1")'}, "prior='0.1'", "between 0 and 1"),
    "no partitions": ({"partitions": "0"}, "partitions: 0", "1 to 1024"),
    "partitions as text": ({"partitions": '"4"'}, "partitions: '4'", "1 to 1024"),
    "partitions as bool": ({"partitions": "True"}, "partitions: True", "1 to 1024"),
    "history is no function": ({"history": "[1]"}, "history: [1]", "function"),
    "horizon without a unit": ({"horizon": '"24"'}, "horizon: '24'", "'24h'"),
    "horizon of nothing": ({"horizon": '"0h"'}, "horizon: '0h'", "3650d"),
    "corrections as a number": ({"corrections": "3"}, "corrections: 3", "'24h'"),
    "silence is half a yes": ({"silence": "0.5"}, "silence: 0.5", "0, 1 or None"),
    "kind of another world": (
        {"target": 'label("b", kind="word")'},
        "target: kind='word'",
        "'binary' or 'number'",
    ),
    "prior of a number is infinite": (
        {"target": 'label("b", kind="number", prior=float("inf"))'},
        "target: prior=inf",
        "finite",
    ),
    "champion without a learner": ({"champion": '"hybrid"'}, "champion: 'hybrid'", "online('...')"),
    "learner as text": ({"learner": '"tree"'}, "learner: 'tree'", "online('...')"),
    "window without a unit": ({"quality_window": '"60"'}, "quality_window: '60'", "'24h'"),
    "drift as a word": ({"drift": '"adwin"'}, "drift: 'adwin'", "drift(false_alarm_every="),
    "a false alarm every ten": (
        {"drift": "__import__('schemas.drift').drift.drift(false_alarm_every=10)"},
        "drift: false_alarm_every=10",
        "1000 to",
    ),
    "drift of no feature": (
        {"drift": "__import__('schemas.drift').drift.drift(features=['nowhere'])"},
        "drift: features[0]='nowhere'",
        "Take of: ",
    ),
    "drift of a text": (
        {"drift": "__import__('schemas.drift').drift.drift(features='nowhere')"},
        "drift: features='nowhere'",
        "must be a list",
    ),
    "settling for ever": (
        {"drift": "__import__('schemas.drift').drift.drift(settle_examples=-1)"},
        "drift: settle_examples=-1",
        "0 to",
    ),
    "no training days": ({"first_training_days": "0"}, "first_training_days: 0", "at least 1"),
}


@pytest.mark.parametrize(("changes", "field", "fix"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_names_file_and_line_the_field_and_the_fix(
    tmp_path: Path, changes: dict[str, str], field: str, fix: str
) -> None:
    """So that the person need not read our code to repair their own."""
    path = file(tmp_path, declaration(**changes))
    with pytest.raises(PipelineError) as caught:
        load_pipeline(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: pipeline ")
    assert field in message
    assert fix in message


FILES = {
    "syntax error": ("x = 1\nmine = Pipeline(name=\n", r"mine\.py:2: .*'\(' was never closed"),
    "mistyped helper": (
        "from schemas.pipeline import label\n\n\ny = lable('a')\n",
        r"mine\.py:4: NameError: name 'lable' is not defined",
    ),
    "mistyped argument": (
        declaration(feature="[]"),
        r"mine\.py:3: TypeError: .*unexpected keyword argument 'feature'",
    ),
    "import of nothing": ("import nonsense_xyz\n", r"mine\.py:1: ModuleNotFoundError"),
    "null byte": ("x = 1\x00", r"mine\.py: "),
    "no pipeline": ("x = 1\n", "exactly one Pipeline, found none.*top level"),
    "two pipelines": (
        declaration() + declaration(name='"other"').replace("mine =", "other ="),
        "exactly one Pipeline, found mine, other",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    """One line that names the place; the traceback would show our loader, not their mistake."""
    with pytest.raises(PipelineError) as caught:
        load_pipeline(file(tmp_path, text))
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_an_error_deep_in_the_file_names_the_files_own_line(tmp_path: Path) -> None:
    """Not the line of the library that noticed it."""
    text = "import json\n\ndata = json.loads('{')\n"
    with pytest.raises(PipelineError, match=r"mine\.py:3: JSONDecodeError"):
        load_pipeline(file(tmp_path, text))


def test_one_pipeline_under_two_names_is_one(tmp_path: Path) -> None:
    """An alias is no second declaration."""
    assert load_pipeline(file(tmp_path, declaration() + "again = mine\n")).name == "mine"


@pytest.mark.parametrize("reference", ["flight", "flights.pyc", "", "../flights", "_departures"])
def test_an_unknown_name_lists_the_ready_ones(reference: str) -> None:
    """And says how one's own is given."""
    with pytest.raises(PipelineError, match=r"ready ones are .*flights.*ends in \.py"):
        load_pipeline(reference)


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    """The most common slip of all."""
    with pytest.raises(SetupError, match="there is no such file"):
        load_pipeline(str(tmp_path / "nowhere.py"))


def test_a_mistake_in_a_program_is_found_where_it_stands() -> None:
    """Also without `load_pipeline`: the line of the call, not of the dataclass."""
    with pytest.raises(
        PipelineError, match=r"test_schemas_pipeline\.py:\d+: pipeline 'x': features"
    ):
        Pipeline(name="x", key="k", features=[], target=None)  # type: ignore[arg-type]


def test_what_a_learner_implies() -> None:
    """A learner helps the deep model unless said otherwise, and one owner has one log."""
    given = {"name": "x", "key": "k", "features": [numeric("a")], "target": label("y")}
    plain = Pipeline(**given)
    assert (plain.champion, plain.horizon_ms, plain.corrections_ms) == (
        "frozen",
        86_400_000,
        86_400_000,
    )
    learning = Pipeline(
        **given,
        horizon="1.5h",
        corrections="90s",
        silence=0,
        learner=online("logistic_regression", shards="single", rate=0.1, decay=True),
    )
    assert learning.champion == "hybrid"
    assert (learning.horizon_ms, learning.corrections_ms) == (5_400_000, 90_000)
    assert learning.learner is not None
    assert learning.learner.parameters == (("decay", True), ("rate", 0.1))
    assert (learning.topics.examples.partitions, learning.topics.scored.partitions) == (1, 4)
