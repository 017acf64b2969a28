"""What watches the journal of examples beside the learner: quality of every score, and drift.

The owner of a shard of ``<pipeline>.examples`` calls `Observer.observe` once for each message, in
the order of the log, and sends what it returns in the same transaction. The observer has no clock
and no randomness of its own: the same messages give the same rows, the same alarms and the same
snapshot, byte for byte.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.drift import DriftContent, DriftWatch
from models.quality import Quality, QualityContent
from schemas.alarms import Alarm
from schemas.errors import SchemaError
from schemas.features import split
from schemas.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Observed:
    """What one message of the journal gave.

    Attributes:
        evaluations: Rows as `schemas.evaluations.EVALUATIONS`, for one message of that topic; None
            if there are none.
        alarms: One message each on the alarms topic.
    """

    evaluations: pa.RecordBatch | None = None
    alarms: list[Alarm] = field(default_factory=list)


class Observer(Protocol):
    """Watches one shard of a pipeline's examples. Calls come one at a time."""

    def observe(
        self, examples: pa.RecordBatch, scores: Mapping[str, npt.NDArray[np.float64]]
    ) -> Observed:
        """Take one message of the journal, in order.

        Args:
            examples: The batch as `schemas.examples.read_examples` returned it.
            scores: By name, scores that the batch does not carry: ``online`` is the learner's,
                ``hybrid`` that of the learner and the deep model together. One value per row: what
                was said *at that row's place in the journal*, before anything was learned from this
                or a later row. Of a ``pending`` row it is what counts once the truth is known, so
                that a late label judges the prediction as it was when the question was asked. Of
                other rows it is used only if the ``pending`` row was never seen or is forgotten,
                and may be NaN. NaN: not scored, not counted.

        A replay must hand over the same messages with the same cuts.
        """

    def snapshot(self) -> bytes:
        """The whole state, in one canonical form: equal states give equal bytes."""

    def restore(self, content: bytes) -> None:
        """Continue where the observer was that wrote ``content``.

        Raises:
            SchemaError: these bytes are not a snapshot of an observer of this pipeline.
        """


class _Content(msgspec.Struct, array_like=True, frozen=True):
    release: int
    quality: QualityContent
    drift: DriftContent


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Content).decode
_RELEASE: Final = 1


class PipelineObserver:
    """The `Observer` of one shard of a pipeline: quality of every score, and drift."""

    def __init__(self, pipeline: Pipeline, shard: int = 0) -> None:
        numeric, category = split(pipeline.features)
        binary = pipeline.target.kind == "binary"
        self.counts: Counter[str] = Counter()
        """Totals since this object was made, for reports: ``alarms``, and what was forgotten."""
        self._name = pipeline.name
        self._window_ms = pipeline.quality_window_ms
        self._quality = Quality(
            binary=binary,
            prior=pipeline.target.prior,
            window_ms=self._window_ms,
            # Until the ledger closes it, and as long again as that takes corrections.
            memory_ms_max=pipeline.horizon_ms + 2 * pipeline.corrections_ms,
        )
        self._drift = DriftWatch(
            pipeline.drift,
            binary=binary,
            numeric=[feature.name for feature in numeric],
            category=[feature.name for feature in category],
            shard=shard,
        )

    def observe(
        self, examples: pa.RecordBatch, scores: Mapping[str, npt.NDArray[np.float64]]
    ) -> Observed:
        """See `Observer.observe`."""
        added = self._quality.observe(examples, scores)
        if added is None:
            return Observed()
        alarms, looks = self._drift.observe(examples)
        for look in looks:
            added.add_feature(
                look.feature,
                window_start_ms=look.window_start_ms,
                version=look.model_version,
                rows=look.rows,
                stability=look.index,
            )
        self.counts["alarms"] += len(alarms)
        self.counts["predictions_evicted"] = self._quality.evicted
        self.counts["truths_unjudged"] = self._quality.forgotten
        return Observed(added.to_batch(), alarms)

    def snapshot(self) -> bytes:
        """See `Observer.snapshot`."""
        return _encode(_Content(_RELEASE, self._quality.content(), self._drift.content()))

    def restore(self, content: bytes) -> None:
        """See `Observer.restore`."""
        try:
            found = _decode(content)
            if found.release != _RELEASE:
                raise ValueError(f"release={found.release}, expected {_RELEASE}")
            self._quality.load(found.quality)
            self._drift.load(found.drift)
        except (msgspec.MsgspecError, ValueError) as cause:
            raise SchemaError(
                f"could not restore the observer of pipeline {self._name!r}: {cause}; "
                f"content_bytes={len(content)}. Another declaration or release wrote it."
            ) from cause
