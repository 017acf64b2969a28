"""What one turn of the ledger takes of the labels topic, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from schemas.labels import Label


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """Labels of one partition in the order of their offsets; all columns are equally long."""

    event_id: list[str]
    value: npt.NDArray[np.float64]
    label_time_ms: npt.NDArray[np.int64]
    revision: npt.NDArray[np.uint32]
    record_time_ms: npt.NDArray[np.int64]
    """The broker's time stamps: what a label says of its own time may lie ahead of them."""

    @classmethod
    def of(cls, labels: Sequence[Label], record_times_ms: Sequence[int]) -> Self:
        """The columns of decoded labels and of the time stamps of their records."""
        count = len(labels)
        if len(record_times_ms) != count:
            raise ValueError(
                f"could not make columns: labels={count}, times={len(record_times_ms)}"
            )
        return cls(
            [label.event_id for label in labels],
            np.fromiter((float(label.value) for label in labels), np.float64, count),
            np.fromiter((label.label_time_ms for label in labels), np.int64, count),
            np.fromiter((label.revision for label in labels), np.uint32, count),
            np.fromiter(record_times_ms, np.int64, count),
        )

    def __len__(self) -> int:
        return len(self.event_id)


NO_LABELS = LabelColumns.of([], [])
