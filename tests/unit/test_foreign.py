"""Models that others made: what is taken, what is refused, and that it answers as it did there."""

import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from models.dense import EMBEDDING_MLP, build, mlp_parameters
from models.foreign import graph_of
from models.inference import checked_export
from models.protocol import ModelInput
from models.registry import open_registry
from schemas.errors import ModelError, SetupError
from schemas.features import FeatureSpec
from schemas.loading import load_pipeline
from schemas.settings import Settings
from schemas.training import TrainingJob
from trainers.importing import ABOUT, About, bring, check_answers, read_model, spec_of

pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx.helper")
ROWS = 3_000
DECLARATION = """
import numpy as np
import pyarrow as pa
from schemas.pipeline import Pipeline, category, label, numeric

def history():
    rows, dice = 3_000, np.random.default_rng(7)
    price = dice.random(rows)
    times = 1_700_000_000_000 + 60_000 * np.arange(rows)
    return pa.table({
        "event_id": [str(i) for i in range(rows)], "event_time_ms": times, "user": ["c"] * rows,
        "price": price, "country": ["FI"] * rows, "label": (dice.random(rows) < price).astype(float),
        "label_time_ms": times + 1,
    })

shop = Pipeline(
    name="shop", key="user", features=[numeric("price"), category("country")],
    target=label("bought"), history=history,
)
"""
ABOUT_US = About(source="risk team", vocabularies={"country": ["FI", "SE"]})


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    file = tmp_path / "shop.py"
    file.write_text(DECLARATION)
    (tmp_path / ABOUT).write_bytes(msgspec.json.encode(ABOUT_US))
    return TrainingJob(
        run="r", pipeline="shop", reference=str(file), registry=str(tmp_path / "registry")
    )


def spec(job: TrainingJob) -> FeatureSpec:
    return spec_of(load_pipeline(job.reference), ABOUT_US)


def graph(
    *nodes: tuple[str, list[str], list[str]], output: str = "answer", width: int = 1
) -> bytes:
    """A graph over ``numbers`` [rows, width] and ``words`` [rows, 1]."""
    floats, whole = 1, 7
    made = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "g",
        [
            helper.make_tensor_value_info("numbers", floats, ["rows", width]),
            helper.make_tensor_value_info("words", whole, ["rows", 1]),
        ],
        [helper.make_tensor_value_info(output, floats, None)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


SIGMOID = graph(("Sigmoid", ["numbers"], ["answer"]))


def test_a_graph_answers_here_what_it_answers_there(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published, judged, loaded with its signature checked, and says the same."""
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(SIGMOID)
    result = bring(job, tmp_path, now_ms=5)
    assert result.verdict is not None
    assert result.verdict.rows == 600
    checks = {check.name: check for check in result.verdict.checks}
    assert checks["features"].passed
    assert not checks["calibration_error"].passed  # a sigmoid of the price says too much
    registry = open_registry(Settings.from_environment(), job.registry)
    manifest, module = registry.load("shop", result.version, digest=result.digest)
    assert manifest.created_by.startswith("risk team (imported by")
    numbers = torch.linspace(-3, 3, 7).reshape(7, 1)
    said = module(numbers, torch.zeros(7, 1, dtype=torch.int64))
    assert said.numpy() == pytest.approx(1 / (1 + np.exp(-numbers.numpy().ravel())), abs=1e-6)


def test_what_is_exported_comes_back_the_same(job: TrainingJob, tmp_path: Path) -> None:
    own = spec(job)
    torch.manual_seed(1)
    module = build(EMBEDDING_MLP, mlp_parameters(own)).eval()
    content = checked_export(module, num_numeric=1, num_category=1)
    (tmp_path / "model.onnx").write_bytes(content)
    again, architecture, _ = read_model(tmp_path, ABOUT_US, own)
    assert architecture == "onnx"
    batch = ModelInput(torch.rand(9, 1), torch.tensor([[0], [1], [2]] * 3))
    with torch.inference_mode():
        assert again(*batch).numpy() == pytest.approx(module(*batch).numpy(), abs=1e-5)


def test_safetensors_of_a_known_architecture_fit_or_say_why(
    job: TrainingJob, tmp_path: Path
) -> None:
    own = spec(job)
    parameters = mlp_parameters(own)
    state = build(EMBEDDING_MLP, parameters).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    about = msgspec.structs.replace(ABOUT_US, architecture=EMBEDDING_MLP, parameters=parameters)
    module, _, _ = read_model(tmp_path, about, own)
    check_answers(module, own)
    wide = {**parameters, "hidden": 32}
    with pytest.raises(ModelError, match="size mismatch"):
        read_model(tmp_path, msgspec.structs.replace(about, parameters=wide), own)
    for content in (b"", struct.pack("<Q", 1 << 40) + b"{}", b"\x80\x04K\x01."):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"could not read model\.safetensors"):
            read_model(tmp_path, about, own)


def external() -> bytes:
    """A graph whose weights lie in a file of this machine."""
    tensor = helper.make_tensor("w", 1, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    model_graph = helper.make_graph(
        [helper.make_node("Mul", ["numbers", "w"], ["answer"])], "g",
        [helper.make_tensor_value_info("numbers", 1, ["rows", 1])],
        [helper.make_tensor_value_info("answer", 1, None)], initializer=[tensor],
    )  # fmt: skip
    model = helper.make_model(
        model_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "could not load the graph"),
    (b"\x80\x04K\x01.", "could not load the graph"),
    (SIGMOID[:40], "could not load the graph|could not use"),
    (graph(("NoSuchOperator", ["numbers"], ["answer"])), "could not load the graph"),
    (graph(("Sigmoid", ["numbers"], ["answer"]), width=3), r"input 'numbers': .* Wanted are float"),
    (external(), "could not load the graph"),
])  # fmt: skip
def test_a_file_that_is_no_graph_for_these_features_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        graph_of(content, num_numeric=1, num_category=1)


@pytest.mark.parametrize(("content", "words"), [
    (graph(("Identity", ["numbers"], ["answer"])), "one probability per row is needed"),
    (graph(("ReduceMean", ["numbers"], ["answer"])), "one float per row is needed"),
    (graph(("Softmax", ["numbers"], ["p"]), ("Concat", ["p", "p"], ["answer"])), "could not"),
    (graph(("Sigmoid", ["numbers"], ["s"]), ("ReduceMean", ["s"], ["m"]),
           ("Mul", ["s", "m"], ["answer"])), "differs by .* with the rows beside it"),
])  # fmt: skip
def test_answers_that_cannot_be_served_are_refused(
    content: bytes, words: str, job: TrainingJob, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    def take() -> None:
        module, _, _ = read_model(tmp_path, ABOUT_US, spec(job))
        check_answers(module, spec(job))

    with pytest.raises(ModelError, match=words):
        take()


@pytest.mark.parametrize(("vocabularies", "words"), [
    ({}, "there are vocabularies of"),
    ({"country": ["FI"], "city": ["Oulu"]}, "there are vocabularies of"),
    ({"country": ["FI", "FI"]}, "has a word twice"),
])  # fmt: skip
def test_vocabularies_must_be_those_of_the_categories(
    vocabularies: dict[str, list[str]], words: str, job: TrainingJob
) -> None:
    about = About(source="x", vocabularies=vocabularies)
    with pytest.raises(SetupError, match=words):
        spec_of(load_pipeline(job.reference), about)
