"""Has anything changed? Error rate, loss and features of one shard, within a budget of alarms.

The budget of the declaration is for all detectors of a shard together: the error rate, which is the
quickest, gets nine tenths of it and the others share the rest. Error rate and loss are watched for
each model version apart, and a version that was never seen begins with the declared number of
examples in which it settles: its error level is another for good reason. After an alarm a detector
learns anew what is normal, so one change is one alarm and not a thousand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.adwin import CLOCK, Adwin
from models.error_rate import ErrorRate, strata
from models.sample import Sample, SampleContent, numeric_columns
from models.stability import stability, threshold
from schemas.alarms import Alarm
from schemas.drift import Drift

ERROR_RATE_SHARE: Final = 0.9
"""Of the budget, where the target is yes or no."""
VERSIONS_MAX: Final = 4
"""Model versions watched at the same time; the one that was idle longest goes."""
SCALE_ROWS: Final = 300
"""Values from which the scale of a number is learned before ADWIN sees it."""
_SPREADS: Final = 8.0
"""ADWIN sees the middle eight standard deviations as 0 to 1; what is outside counts as its edge."""
REFERENCE_ROWS_MAX: Final = 1_000
REFERENCE_MS_MIN: Final = 600_000
WINDOW_ROWS_MAX: Final = 500
WINDOW_ROWS_MIN: Final = 200
WINDOW_MS_MIN: Final = 60_000
"""Stability is looked at once a minute of event time, or less often until there are enough rows."""

Floats = npt.NDArray[np.float64]
Found = tuple[float, float, float, float, int, int]
"""Statistic, threshold, mean before, mean since, rows of each."""


@dataclass(frozen=True, slots=True)
class FeatureStability:
    """One look at one feature: rows from ``window_start_ms`` on against the reference."""

    feature: str
    window_start_ms: int
    model_version: str
    rows: int
    index: float


class ScaledAdwin:
    """ADWIN on any number: its scale is that of the first `SCALE_ROWS` values."""

    def __init__(self, delta: float) -> None:
        self._adwin = Adwin(delta)
        self._first: list[float] = []
        self._centre = 0.0
        self._unit = 0.0

    def update(self, value: float) -> Found | None:
        """Take one value; the change of its mean, if there is one. What is no number is ignored."""
        if not math.isfinite(value):
            return None
        if not self._unit:
            self._first.append(value)
            if len(self._first) == SCALE_ROWS:
                first = np.array(self._first)
                self._centre, spread = float(first.mean()), float(first.std())
                self._unit = _SPREADS * max(spread, 1e-3 * abs(self._centre), 1e-9)
                self._first = []
            return None
        cut = self._adwin.update(min(1.0, max(0.0, (value - self._centre) / self._unit + 0.5)))
        if cut is None:
            return None
        bound, before, since, rows_before, rows_since = cut
        means = [(mean - 0.5) * self._unit + self._centre for mean in (before, since)]
        moved = abs(means[1] - means[0])
        return moved, bound * self._unit, means[0], means[1], rows_before, rows_since

    def content(self) -> list[float]:
        """The state as numbers, in one canonical form."""
        first = [float(len(self._first)), *self._first]
        return [self._centre, self._unit, *first, *self._adwin.content()]

    def load(self, content: list[float]) -> None:
        """Continue from ``content``."""
        self._centre, self._unit = content[:2]
        end = 3 + int(content[2])
        self._first = content[3:end]
        self._adwin.load(content[end:])


class _OneVersion:
    """What watches the answers of one model version."""

    def __init__(self, every: float, delta: float) -> None:
        self.settled = 0
        self.errors = ErrorRate(every)
        self.loss = ScaledAdwin(delta)


class DriftContent(msgspec.Struct, array_like=True, frozen=True):
    """The state between two messages."""

    features: tuple[tuple[str, ...], tuple[str, ...]]
    versions: list[tuple[str, int, list[float], list[float]]]
    seen_versions: list[str]
    values: list[tuple[str, list[float]]]
    reference: SampleContent
    window: SampleContent


class DriftWatch:
    """Watches the examples of one shard. One call per message of the journal, in order."""

    def __init__(
        self,
        declared: Drift,
        *,
        binary: bool,
        numeric: Sequence[str],
        category: Sequence[str],
        shard: int = 0,
    ) -> None:
        self._declared, self._binary, self._shard = declared, binary, shard
        self._numeric, self._category = tuple(numeric), tuple(category)
        watched = [name for name in declared.features if name in self._numeric]
        others = 1 + len(watched) + len(declared.features)
        share = 1.0 - binary * ERROR_RATE_SHARE
        self._every_error = declared.false_alarm_every / ERROR_RATE_SHARE
        self._every_other = declared.false_alarm_every * others / share
        self._delta = CLOCK / self._every_other
        self._versions: dict[str, _OneVersion] = {}
        self._seen_versions: list[str] = []
        self._values = {name: ScaledAdwin(self._delta) for name in watched}
        self._reference, self._window = Sample(REFERENCE_ROWS_MAX), Sample(WINDOW_ROWS_MAX)

    def observe(self, examples: pa.RecordBatch) -> tuple[list[Alarm], list[FeatureStability]]:
        """Take one message; the alarms, and how stable each feature was if a look was due."""
        pending = self._of_our_features(examples.filter(pc.equal(examples["kind"], "pending")))
        alarms: list[Alarm] = []
        looks: list[FeatureStability] = []
        if pending.num_rows:
            self._notice_versions(pending)
            alarms += self._watch_values(pending)
            looks = self._look(pending, alarms)
        first = pc.and_(
            pc.is_in(examples["kind"], value_set=pa.array(["final", "provisional"])),
            pc.is_valid(examples["label"]),
        )
        return alarms + self._watch_answers(examples.filter(first)), looks

    def _of_our_features(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Without rows of another declaration, whose features are others."""
        counts = (("numeric", len(self._numeric)), ("category", len(self._category)))
        for column, count in counts:
            rows = rows.filter(pc.equal(pc.list_value_length(rows[column]), count))
        return rows

    # -- answers

    def _watch_answers(self, known: pa.RecordBatch) -> list[Alarm]:
        if not known.num_rows:
            return []
        truth = known["label"].to_numpy()
        score = known["score"].to_numpy().astype(np.float64)
        error = np.abs(score - truth)
        loss = (error**2 if self._binary else error).tolist()
        wrong = ((score > 0.5) != (truth > 0.5)).tolist()
        sure = strata(score) if self._binary else []
        alarms = []
        for i, version in enumerate(known["model_version"].to_pylist()):
            watch = self._of_version(version)
            watch.settled += 1
            quiet = watch.settled <= self._declared.settle_examples
            if self._binary:
                rise = watch.errors.update(wrong=wrong[i], stratum=sure[i])
                if rise is not None:
                    watch.errors = ErrorRate(self._every_error)
                    if not quiet:
                        found = (rise[0], self._every_error, *rise[1:])
                        alarms.append(self._alarm("error-rate", "served", found, known, i))
            moved = watch.loss.update(loss[i])
            if moved is not None and moved[3] > moved[2] and not quiet:
                alarms.append(self._alarm("adwin-loss", "served", moved, known, i))
        return alarms

    def _of_version(self, version: str) -> _OneVersion:
        watch = self._versions.pop(version, None) or _OneVersion(self._every_error, self._delta)
        self._versions[version] = watch  # the last one is the one used last
        while len(self._versions) > VERSIONS_MAX:
            del self._versions[next(iter(self._versions))]
        return watch

    # -- features

    def _notice_versions(self, pending: pa.RecordBatch) -> None:
        """A version never seen was trained on something newer: features have a new reference."""
        for version in pc.unique(pending["model_version"]).to_pylist():
            if version not in self._seen_versions:
                self._seen_versions = [*self._seen_versions, version][-VERSIONS_MAX:]
                self._reference = Sample(REFERENCE_ROWS_MAX)
                self._window = Sample(WINDOW_ROWS_MAX)
                self._values = {name: ScaledAdwin(self._delta) for name in self._values}

    def _watch_values(self, pending: pa.RecordBatch) -> list[Alarm]:
        if not self._values:
            return []
        columns = numeric_columns(pending)
        alarms = []
        for name, adwin in self._values.items():
            for i, value in enumerate(columns[:, self._numeric.index(name)].tolist()):
                found = adwin.update(value)
                if found is not None:
                    alarms.append(self._alarm("adwin-value", name, found, pending, i))
        return alarms

    def _look(self, pending: pa.RecordBatch, alarms: list[Alarm]) -> list[FeatureStability]:
        reference, window = self._reference, self._window
        span = reference.last_ms - reference.first_ms
        if reference.seen < REFERENCE_ROWS_MAX or span < REFERENCE_MS_MIN:
            reference.show(pending)
            return []
        window.show(pending)
        if window.seen < WINDOW_ROWS_MIN or window.last_ms - window.first_ms < WINDOW_MS_MIN:
            return []
        self._window = Sample(WINDOW_ROWS_MAX)
        last = pending.num_rows - 1
        version = pending["model_version"][last].as_py()
        looks = []
        for index, name in enumerate([*self._numeric, *self._category]):
            numeric = index < len(self._numeric)
            place = index if numeric else index - len(self._numeric)
            then, now = (
                sample.numeric(place) if numeric else sample.category(place)
                for sample in (reference, window)
            )
            found, bins = stability(then, now)
            looks.append(FeatureStability(name, window.first_ms, version, len(window), found))
            limit = threshold(len(reference), len(window), bins, window.seen / self._every_other)
            if name in self._declared.features and found >= limit:
                before, after = (
                    (float(np.mean(sample.numeric(place))) if numeric else float("nan"))
                    for sample in (reference, window)
                )
                evidence = (found, limit, before, after, len(reference), len(window))
                alarms.append(self._alarm("population-stability", name, evidence, pending, last))
                self._reference = Sample(REFERENCE_ROWS_MAX)
        return looks

    def _alarm(
        self, detector: str, subject: str, found: Found, rows: pa.RecordBatch, index: int
    ) -> Alarm:
        statistic, limit, before, after, rows_before, rows_after = found
        partition = rows["source_partition"][index].as_py()
        offset = rows["source_offset"][index].as_py()
        return Alarm(
            alarm_id=f"{detector}|{subject}|{partition}|{offset}",
            detector=detector,
            subject=subject,
            model_version=rows["model_version"][index].as_py(),
            event_time_ms=rows["event_time"][index].value,
            source_partition=partition,
            source_offset=offset,
            shard=self._shard,
            statistic=statistic,
            threshold=limit,
            before=None if np.isnan(before) else before,
            after=None if np.isnan(after) else after,
            rows_before=rows_before,
            rows_after=rows_after,
            false_alarm_every=self._declared.false_alarm_every,
        )

    # -- state

    def content(self) -> DriftContent:
        """The whole state, in one canonical form."""
        return DriftContent(
            (self._numeric, self._category),
            [
                (version, watch.settled, watch.errors.content(), watch.loss.content())
                for version, watch in self._versions.items()
            ],
            self._seen_versions,
            [(name, adwin.content()) for name, adwin in self._values.items()],
            self._reference.content(),
            self._window.content(),
        )

    def load(self, content: DriftContent) -> None:
        """Continue from ``content``; what is watched since, or is not what it was, begins anew."""
        self._versions = {}
        for version, settled, errors, loss in content.versions:
            watch = self._versions[version] = _OneVersion(self._every_error, self._delta)
            watch.settled = settled
            watch.errors.load(errors)
            watch.loss.load(loss)
        self._seen_versions = content.seen_versions
        if content.features != (self._numeric, self._category):
            return
        for name, state in content.values:
            if name in self._values:
                self._values[name].load(state)
        self._reference = Sample.of(content.reference, REFERENCE_ROWS_MAX)
        self._window = Sample.of(content.window, WINDOW_ROWS_MAX)
