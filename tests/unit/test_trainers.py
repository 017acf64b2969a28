"""The first training: what it learns, what it may look at, and that it can be repeated."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from models.registry import Registry, open_registry
from schemas.errors import SetupError
from schemas.pipeline import Pipeline, category, label, numeric
from schemas.settings import Settings
from schemas.topics import DAY_MS
from schemas.training import Recipe
from trainers.__main__ import main
from trainers.dataset import split_history
from trainers.evaluate import auc, log_loss
from trainers.first import Published, train_first
from trainers.optimizer import AdamW, cosine

DAYS = 10
ROWS = 6_000
LABEL_DELAY_MS = 3_600_000
FEATURES = (numeric("heat"), category("plant"))


def history(*, rows: int = ROWS, days: int = 2 * DAYS, seed: int = 0) -> pa.Table:
    """Machines that fail when hot; plant B fails when cold. A line cannot say that."""
    random = np.random.default_rng(seed)
    heat = random.normal(size=rows)
    plant = random.choice(["A", "B"], rows)
    log_odds = 3.0 * heat * np.where(plant == "A", 1.0, -1.0)
    failed = random.random(rows) < 1.0 / (1.0 + np.exp(-log_odds))
    times = np.sort(random.integers(0, days * DAY_MS, rows))
    times[0] = 0
    return pa.table(
        {
            "event_time_ms": times,
            "heat": heat,
            "plant": plant,
            "label": failed.astype(float),
            "label_time_ms": times + LABEL_DELAY_MS,
        }
    )


def pipeline(*, prior_only: bool = False) -> Pipeline:
    return Pipeline(
        name="machines",
        key="machine_id",
        features=FEATURES,
        target=label("failed", prior=0.125),
        history=None if prior_only else history,
        first_training_days=DAYS,
    )


def registry_at(root: Path) -> Registry:
    return open_registry(Settings(home=root), str(root))


def publish(root: Path, *, seed: int = 0, prior_only: bool = False) -> Published:
    return train_first(
        pipeline(prior_only=prior_only),
        open_registry(Settings(home=root), str(root)),
        seed=seed,
        now_ms=lambda: 123,
        progress=lambda _line: None,
        recipe=Recipe(epochs_max=12),
    )


def test_a_known_signal_is_found(tmp_path: Path) -> None:
    """The model beats the line where no line can be right, and its figures are in the manifest."""
    published = publish(tmp_path)
    metrics = published.manifest.metrics
    # The best possible scorer of this world, its true probabilities, has an AUC of 0.90.
    assert metrics["model"].auc > 0.85
    assert metrics["logistic"].auc < 0.6
    assert metrics["no_skill"].auc == 0.5
    assert metrics["model"].log_loss < metrics["no_skill"].log_loss - 0.15
    assert published.manifest.trained_at_ms == 123
    assert published.manifest.data is not None
    assert published.manifest.data.event_time_ms_last < DAYS * DAY_MS
    registry_at(tmp_path).load("machines", published.version, digest=published.digest)


def test_the_same_seed_gives_the_same_version(tmp_path: Path) -> None:
    """Bit for bit: the name of a version is its content, and another seed is another version."""
    first = publish(tmp_path / "a")
    assert publish(tmp_path / "b").digest == first.digest
    assert publish(tmp_path / "c", seed=1).manifest.weights_sha256 != first.manifest.weights_sha256


def test_without_history_the_prior_answers(tmp_path: Path) -> None:
    """A pipeline can be served from its first event on."""
    published = publish(tmp_path, prior_only=True)
    _, module = registry_at(tmp_path).load("machines", published.version)
    assert module.state_dict()["probability"].item() == 0.125
    assert published.manifest.metrics == {}


def test_no_row_is_used_before_its_label_was_known() -> None:
    """A live training at the cut would not have seen these labels either."""
    table = history()
    split = split_history(FEATURES, table, days=DAYS)
    cut = DAYS * DAY_MS
    times = table["event_time_ms"].to_numpy()
    known = times + LABEL_DELAY_MS < cut
    stop = cut - 2 * DAY_MS  # a fifth of ten days
    assert len(split.training) == np.count_nonzero(known & (times < stop))
    assert len(split.validation) == np.count_nonzero(known & (times >= stop))
    assert len(split.evaluation) == np.count_nonzero(times >= cut)
    assert split.source.event_time_ms_last == times[known].max()


def test_rows_without_a_label_teach_nothing() -> None:
    """A null label is unknown, not a zero."""
    table = history()
    unlabelled = pa.array([None] * 3000 + table["label"].to_pylist()[3000:], pa.float64())
    position = table.schema.get_field_index("label")
    whole = split_history(FEATURES, table, days=DAYS)
    part = split_history(FEATURES, table.set_column(position, "label", unlabelled), days=2 * DAYS)
    assert len(part.training) + len(part.validation) < ROWS - 3000
    assert part.source.fingerprint != whole.source.fingerprint


def labelled(value: float) -> pa.Table:
    """A history in which one label is no label."""
    table = history()
    labels = table["label"].to_numpy(zero_copy_only=False).copy()
    labels[7] = value
    position = table.schema.get_field_index("label")
    return table.set_column(position, "label", pa.array(labels))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (history().slice(0, 0), "no rows"),
        (history().drop_columns(["label"]), "lacks the columns"),
        (history(rows=50), "training_rows"),
        (history().take(pa.array(range(ROWS - 1, -1, -1))), "not sorted"),
        (labelled(float("nan")), r"label=nan in row=7, .* null \(not NaN\)"),
        (labelled(2.0), r"label=2.0 in row=7"),
    ],
)
def test_a_history_that_cannot_teach_says_why(table: pa.Table, words: str) -> None:
    """A person must act, so the message names the fact."""
    with pytest.raises(SetupError, match=words):
        split_history(FEATURES, table, days=DAYS)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1)))
)
@settings(deadline=None)
def test_auc_and_log_loss_are_the_usual_ones(rows: list[tuple[bool, float]]) -> None:
    """Ours against scikit-learn's, ties included."""
    labels = np.array([float(truth) for truth, _ in rows])
    scores = np.array([score for _, score in rows])
    if len(set(labels)) < 2:
        assert auc(labels, scores) == 0.5
        return
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    assert log_loss(labels, scores) == pytest.approx(sklearn_log_loss(labels, clipped))


def test_auc_and_log_loss_by_hand() -> None:
    """Of the four pairs three are in order and one is a tie: 3.5 of 4."""
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    assert auc(labels, np.array([0.9, 0.5, 0.5, 0.1])) == 3.5 / 4
    assert log_loss(labels, np.full(4, 0.5)) == pytest.approx(math.log(2))


def test_our_adamw_takes_the_steps_of_torchs() -> None:
    """Ours saves seconds of imports; it must not be another optimizer."""
    random = torch.Generator().manual_seed(3)
    start = torch.randn(4, 5, generator=random)
    ours, theirs = start.clone(), torch.nn.Parameter(start.clone())
    optimizer = AdamW([ours], weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], weight_decay=0.1)
    for step in range(50):
        rate = cosine(step, epochs=50, highest=0.02)
        gradient = torch.randn(4, 5, generator=random) * 10.0 ** (step % 7 - 3)
        optimizer.step([gradient], learning_rate=rate)
        theirs.grad = gradient
        reference.param_groups[0]["lr"] = rate
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-7)
    assert cosine(0, epochs=50, highest=0.02) == pytest.approx(0.02)
    assert cosine(50, epochs=50, highest=0.02) == pytest.approx(0.002)


PIPELINE_FILE = """
from schemas.pipeline import Pipeline, label, numeric

machines = Pipeline(name="machines", key="machine_id", features=[numeric("heat")],
                    target=label("failed", prior=0.125))
"""


def test_the_command_publishes_a_users_own_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `tidemill up my_pipeline.py` starts as a child process, with JSON for it to read."""
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    file = tmp_path / "mine.py"
    file.write_text(PIPELINE_FILE)
    arguments = ["--pipeline", str(file), "--registry", str(tmp_path / "r")]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    files = {path.name for path in (tmp_path / "r" / "machines" / told["version"]).iterdir()}
    assert files == {"model.safetensors", "manifest.json", "manifest.sig"}


def test_the_command_fails_with_a_reason(tmp_path: Path) -> None:
    """Exit code 1 and one line; never a traceback for what a person can mend."""
    arguments = ["--pipeline", "nothing", "--registry", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "ready ones are" in result.stderr


def test_help_has_an_example() -> None:
    """Whoever types it first has something to copy."""
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "python -P -m trainers --pipeline flights" in " ".join(result.stdout.split())
