"""What River says of labels that come late, and its order as the label ledger's journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa

from schemas.arrow import write_batch
from schemas.labels import Label
from schemas.scored import SCORED
from streams.ledger.columns import LabelColumns
from streams.ledger.core import Ledger
from streams.ledger.rules import Rules

DAY_MS: Final = 86_400_000
EPOCH_DAY: Final = 719_163
"""1970-01-01 as Python counts days."""
MESSAGE_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class Anchor:
    """One published-style figure.

    Attributes:
        dataset: River's, bundled with it.
        delay: How late labels are: in events (Phishing) or days (TrumpApproval); None: not at all.
        expected: Accuracy in percent, or mean absolute error.
        tolerance: How far a measured figure may be off.
    """

    dataset: str
    delay: int | None
    expected: float
    tolerance: float

    @property
    def name(self) -> str:
        """Of its pipeline."""
        return f"{self.dataset.lower()}_{self.delay or 0}"

    @property
    def binary(self) -> bool:
        """Whether the target is yes or no."""
        return self.dataset == "Phishing"

    @property
    def moment(self) -> str | None:
        """The feature that is the time; without one the events are counted."""
        return None if self.binary or self.delay is None else "ordinal_date"


ANCHORS: Final = (
    Anchor("Phishing", None, 89.28, 0.1),
    Anchor("Phishing", 10, 88.56, 0.1),
    Anchor("Phishing", 100, 85.92, 0.1),
    Anchor("Phishing", 500, 76.64, 0.1),
    Anchor("TrumpApproval", None, 1.315, 0.001),
    Anchor("TrumpApproval", 1, 1.315, 0.001),
    Anchor("TrumpApproval", 7, 2.568, 0.001),
    Anchor("TrumpApproval", 30, 8.269, 0.001),
)


def rows_of(anchor: Anchor) -> list[tuple[dict[str, float], float]]:
    """The data set: features and truth."""
    return _data_set(anchor.dataset)


@cache
def _data_set(name: str) -> list[tuple[dict[str, float], float]]:
    from river import datasets

    found = getattr(datasets, name)()
    return [({name: float(v) for name, v in x.items()}, float(y)) for x, y in found]


def by_river(anchor: Anchor) -> float:
    """What River itself gives for this anchor, here and now."""
    from river import datasets, evaluate, linear_model, metrics, preprocessing

    data: Any = getattr(datasets, anchor.dataset)()
    library: Any = linear_model
    last = library.LogisticRegression() if anchor.binary else library.LinearRegression()
    judges: Any = metrics
    metric = judges.Accuracy() if anchor.binary else judges.MAE()
    late = {"moment": anchor.moment, "delay": anchor.delay}
    score: Any = evaluate.progressive_val_score
    found = float(score(data, preprocessing.StandardScaler() | last, metric, **late).get())
    return 100 * found if anchor.binary else found


def journal(anchor: Anchor) -> pa.RecordBatch:
    """The examples as the label ledger writes them, questions and answers in River's order."""
    from river import stream

    rows = rows_of(anchor)
    asking: Any = stream.simulate_qa
    order = asking(rows, anchor.moment, anchor.delay)
    ledger = Ledger(Rules(horizon_ms=3650 * DAY_MS, corrections_ms=DAY_MS))
    found: list[pa.RecordBatch] = []
    asked: list[int] = []
    answered: list[int] = []

    def turn() -> None:
        if asked or answered:  # a turn takes questions before answers
            questions = [_scored(anchor, rows, asked)] if asked else []
            found.append(ledger.turn(questions, _labels(anchor, rows, answered)))
        asked.clear()
        answered.clear()

    for number, _x, y in order:
        if y is None:
            if answered:
                turn()
            asked.append(number)
        else:
            answered.append(number)
    turn()
    together = pa.concat_batches(found)
    assert together.num_rows == 2 * len(rows), (together.num_rows, len(rows))
    return together


def _time_ms(anchor: Anchor, rows: Sequence[tuple[dict[str, float], float]], number: int) -> int:
    if anchor.moment is None:
        return 1000 * number
    return (int(rows[number][0][anchor.moment]) - EPOCH_DAY) * DAY_MS


def _scored(
    anchor: Anchor, rows: Sequence[tuple[dict[str, float], float]], numbers: Sequence[int]
) -> pa.RecordBatch:
    prior = 0.5 if anchor.binary else 0.0
    return pa.RecordBatch.from_pylist(
        [
            {
                "event_id": str(number),
                "key": "k",
                "event_time": (at_ms := _time_ms(anchor, rows, number)),
                "produced_at": at_ms,
                "predicted_at": at_ms,
                "score": prior,
                "model_version": "none",
                "model_age_ms": 0,
                "source_partition": 0,
                "source_offset": number,
                "numeric": list(rows[number][0].values()),
                "category": [],
                "model_score": prior,
                "learner_position": -1,
            }
            for number in numbers
        ],
        schema=SCORED,
    )


def _labels(
    anchor: Anchor, rows: Sequence[tuple[dict[str, float], float]], numbers: Sequence[int]
) -> LabelColumns:
    delay_ms = (anchor.delay or 0) * (1000 if anchor.moment is None else DAY_MS)
    labels = [
        Label(
            event_id=str(number),
            value=rows[number][1],
            label_time_ms=_time_ms(anchor, rows, number) + delay_ms,
        )
        for number in numbers
    ]
    return LabelColumns.of(labels, [label.label_time_ms for label in labels])


def messages_of(examples: pa.RecordBatch) -> list[bytes]:
    """The journal cut into messages, as a joiner that is behind would send it."""
    return [
        write_batch(examples.slice(first, MESSAGE_ROWS))
        for first in range(0, examples.num_rows, MESSAGE_ROWS)
    ]
