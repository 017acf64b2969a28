"""The set of a retraining: what may be used when, and files that say the same as the rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.features import Encoder, from_table
from schemas.errors import SetupError
from schemas.topics import DAY_MS
from schemas.training import RowsSource
from tests.unit.training_jobs import FEATURES, LABEL_DELAY_MS, history
from trainers import windows
from trainers.windows import (
    ENCODED,
    JUDGED,
    EncodedRows,
    borders,
    prepare,
    read_plan,
    read_rows,
)

SOURCE = RowsSource(words="made up", sql="SELECT 1", offsets={"0": (3, 9)}, label_revision_max=2)


def test_windows_of_a_year_and_of_ten_days() -> None:
    """A week each and two to judge; of a shorter time 10, 10 and 20 percent."""
    year = borders(0, 365 * DAY_MS)
    days = [value / DAY_MS for value in (year.stop, year.calibrate, year.judge, year.as_of)]
    assert days == [337, 344, 351, 365]
    short = borders(0, 10 * DAY_MS)
    assert [v / DAY_MS for v in (short.stop, short.calibrate, short.judge)] == [6, 7, 8]


def test_nothing_is_used_before_it_was_known(tmp_path: Path) -> None:
    """What is learned was known before the judged rows began, and all of it before ``as of``."""
    table, as_of = history(), 15 * DAY_MS
    plan = prepare(FEATURES, table, SOURCE, tmp_path, as_of_ms=as_of, days=10)
    times = table["event_time_ms"].to_numpy()
    w = plan.windows
    young = times >= 5 * DAY_MS
    known = times + LABEL_DELAY_MS < w.judge
    expected = [
        np.count_nonzero(young & known & (times >= first) & (times < last))
        for first, last in ((0, w.stop), (w.stop, w.calibrate), (w.calibrate, w.judge))
    ]
    judged = np.count_nonzero((times >= w.judge) & (times + LABEL_DELAY_MS < as_of))
    assert list(plan.rows) == [*expected, judged]
    assert read_rows(tmp_path / JUDGED)["event_time_ms"].to_numpy().min() >= w.judge
    assert plan.data.as_of_ms == as_of
    assert (plan.data.sql, plan.data.offsets) == ("SELECT 1", {"0": (3, 9)})
    assert plan.data.label_revision_max == 2
    assert read_plan(tmp_path) == plan


def test_the_file_holds_what_the_encoder_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows gathered by number, over the borders of parts, are the rows of the table."""
    monkeypatch.setattr(windows, "PART_ROWS", 500)
    table = history(rows=3000)
    plan = prepare(FEATURES, table, SOURCE, tmp_path, as_of_ms=None, days=None)
    rows = EncodedRows(tmp_path / ENCODED, plan.spec)
    # With one delay for all labels, the first rows of the table are the first rows of the file.
    numbers = np.array([1700, 3, 499, 500, 999, 3, 0])
    part = table.take(pa.array(numbers))
    expected = Encoder(plan.spec)(from_table(FEATURES, part))
    found = rows.gather(numbers)
    assert torch.equal(found.x.numeric_BF, expected.numeric_BF)
    assert torch.equal(found.x.category_BC, expected.category_BC)
    assert found.y_B.tolist() == part["label"].to_pylist()
    assert len(rows.gather(numbers[:0])) == 0
    assert rows.labels(498, 502).tolist() == table["label"].to_pylist()[498:502]


def test_the_fingerprint_knows_every_label(tmp_path: Path) -> None:
    """The same rows have the same, one other label has another."""

    def fingerprint(name: str, table: pa.Table) -> str:
        (tmp_path / name).mkdir()
        arguments = {"as_of_ms": None, "days": None}
        return prepare(FEATURES, table, SOURCE, tmp_path / name, **arguments).data.fingerprint

    table = history()
    labels = table["label"].to_numpy().copy()
    labels[100] = 1.0 - labels[100]
    position = table.schema.get_field_index("label")
    assert fingerprint("a", table) == fingerprint("b", table)
    other = table.set_column(position, "label", pa.array(labels))
    assert fingerprint("c", other) != fingerprint("a2", table)


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
        (history().slice(0, 0), "no label was known"),
        (history().drop_columns(["label"]), "lack the columns"),
        (history(rows=300), "training_rows|validation_rows"),
        (history().take(pa.array(range(5999, -1, -1))), "not sorted"),
        (labelled(float("nan")), r"label=nan in row=7, .* null \(not NaN\)"),
        (labelled(2.0), r"label=2.0 in row=7"),
    ],
)
def test_rows_that_cannot_teach_say_why(tmp_path: Path, table: pa.Table, words: str) -> None:
    """A person must act, so the message names the fact."""
    with pytest.raises(SetupError, match=words):
        prepare(FEATURES, table, SOURCE, tmp_path, as_of_ms=None, days=None)
