"""Journal rows of the ledger: what was held of a prediction, and what is known of its truth now."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.examples import EXAMPLES

_MOMENT = EXAMPLES.field("label_time").type


@dataclass(frozen=True, slots=True)
class Truths:
    """What is known of some predictions; all columns are equally long, None is null for all."""

    kind: pa.Array
    label: pa.Array
    previous: pa.Array
    label_time: pa.Array
    revision: pa.Array

    @classmethod
    def none(cls, kind: str, count: int) -> Self:
        """No truth: ``pending``, ``expired`` or ``evicted``."""
        return cls.assumed(kind, None, count)

    @classmethod
    def assumed(cls, kind: str, label: float | None, count: int) -> Self:
        """The same label for all, which nobody sent."""
        return cls(
            pa.repeat(kind, count),
            pa.repeat(pa.scalar(label, pa.float64()), count),
            pa.nulls(count, pa.float64()),
            pa.nulls(count, _MOMENT),
            pa.repeat(pa.scalar(0, pa.uint32()), count),
        )

    @classmethod
    def sent(
        cls,
        corrects: npt.NDArray[np.bool_],
        label: npt.NDArray[np.float64],
        previous: npt.NDArray[np.float64],
        label_time_ms: npt.NDArray[np.int64],
        revision: npt.NDArray[np.int64],
    ) -> Self:
        """Labels that came; ``previous`` is NaN where there was none."""
        return cls(
            pa.array(np.where(corrects, "corrected", "final").astype(object), pa.utf8()),
            pa.array(label),
            pa.array(np.nan_to_num(previous), mask=np.isnan(previous)),
            pa.array(label_time_ms).view(_MOMENT),
            pa.array(revision.astype(np.uint32)),
        )


def examples_of(held: pa.RecordBatch, truths: Truths) -> pa.RecordBatch:
    """One example per prediction in ``held``."""
    count = held.num_rows
    delay = pc.subtract(truths.label_time.view(pa.int64()), held["event_time"].view(pa.int64()))
    columns = {
        **dict(zip(held.schema.names, held.columns, strict=True)),
        "kind": truths.kind,
        "label": truths.label,
        "previous": truths.previous,
        "weight": pa.repeat(pa.scalar(1.0, pa.float32()), count),
        "label_time": truths.label_time,
        "revision": truths.revision,
        "delay_ms": delay,
    }
    return pa.RecordBatch.from_arrays([columns[f.name] for f in EXAMPLES], schema=EXAMPLES)
