"""Events in, predictions out. Read this file first: the rest of `workers` serves it or follows it.

One micro-batch is everything that one fetch turn yields over the worker's partitions. Its
predictions, its scored rows, its dead letters and its source offsets commit in one Kafka
transaction, so a reader with ``read_committed`` sees all of them once or none of them, however
often the worker dies. With ``delivery="at-least-once"`` predictions leave at once, before that
transaction and outside of it; everything else stays as it is. Order holds within a partition.
Nothing here retries: a failed transaction ends the process.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import structlog

from models.champion import Champion
from models.engine import Arms, Engine, Loaded
from models.features import ColumnReader
from models.protocol import FeatureColumns
from schemas.dead_letters import DeadLetter, Reason
from schemas.errors import FeatureError, ModelError
from schemas.events import Decoded, Event, EventDecoder, Source
from schemas.labels import decode_labels
from schemas.pipeline import Pipeline
from schemas.predictions import encode_predictions
from schemas.settings import Settings
from streams.telemetry import Reporter
from streams.tracing import UNTRACED, Tracer
from streams.transport.commit import Outgoing
from streams.transport.records import Run
from streams.workers.aging import PRIOR, Aging
from streams.workers.arms import Breaker, Part, Switches, interleave, split_parts
from streams.workers.scored_rows import AnsweredRows, Item, to_columns, to_messages
from streams.workers.shadow import Shadow

log = structlog.get_logger()

FEW_ROWS_MAX = 256
"""Rows of a drain that stay plain until their transaction is filled, on the event loop; those of
larger drains become columns of Arrow here, in the thread that computes."""
POISON_ROWS_MAX = 16
"""Rows in a row on which the model alone may fail. More is a broken model, not broken rows: then
the worker stops, and the events wait in Kafka instead of all becoming dead letters."""


class Scorer:
    """Turns runs of events into what is sent for them. Knows Kafka only as bytes and offsets."""

    def __init__(
        self,
        pipeline: Pipeline,
        engine: Engine,
        settings: Settings,
        reporter: Reporter,
        *,
        champion: Champion | None = None,
        tracer: Tracer = UNTRACED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._champion = champion
        self._tracer = tracer
        self._topics = pipeline.topics
        self._key = pipeline.key
        self._target_kind = pipeline.target.kind
        self._engine = engine
        self._clock = clock
        self._counters = reporter.counters
        self._columns = ColumnReader(pipeline.features)
        self._decoder = EventDecoder(
            pipeline,
            bytes_max=settings.event_bytes_max,
            time_ahead_ms_max=settings.event_time_ahead_ms_max,
        )
        self._bytes_max = settings.event_bytes_max
        self._poison_rows = 0
        self._shadow = Shadow(self._counters)
        self._switches = Switches(self._counters)
        self._breaker = Breaker()
        self._aging = Aging(pipeline, self._counters)

    def __call__(self, run: Run) -> list[Outgoing]:
        """Messages for one run of events or labels: `compute` and `finish` in one.

        Raises:
            ModelError: the model fails on everything; the caller must stop.
        """
        return self.finish(self.compute([run]))

    def compute(self, runs: Sequence[Run]) -> list[Item]:
        """Everything that is sent for the runs of one drain.

        All of them are scored in one call of the model: with few events the fixed costs of a call,
        and not the rows, are what a drain costs.

        Raises:
            ModelError: the model fails on everything; the caller must stop.
        """
        now_ms = int(self._clock() * 1000)
        done: list[Item] = []
        parts: list[Part] = []
        with self._tracer.step("decode"):
            for run in runs:
                if run.tp.topic == self._topics.labels.name:
                    done += self._check_labels(run)
                else:
                    self._counters["events"] += len(run)
                    parts.append((run, self._decode(run, now_ms=now_ms)))
        if any(decoded.events for _, decoded in parts):
            arms = self._aging.allowed(
                self._engine.arms,  # once: all of these runs are answered by these versions
                rows=sum(len(decoded.events) for _, decoded in parts),
                now_ms=now_ms,
            )
            self._switches.note(arms, parts)
            if arms.canary is None:
                parts, answers = self._answered(parts, arms.champion, arms.shadow, now_ms=now_ms)
            else:
                parts, answers = self._both(parts, arms, arms.canary, now_ms=now_ms)
            many = sum(len(decoded.events) for _, decoded in parts) > FEW_ROWS_MAX
            with self._tracer.step("encode"):
                done += to_columns(answers) if many else answers
        for run, decoded in parts:
            self._counters["predictions"] += len(decoded.events)
            done += self._dead_letters(run, decoded.rejects)
        return done

    def finish(self, items: Iterable[Item]) -> list[Outgoing]:
        """Make messages of what `compute` left as rows: one per partition, however many drains."""
        return to_messages(items, topic=self._topics.scored.name)

    def close(self) -> None:
        """End what runs beside it."""
        self._shadow.stop()

    def _answered(
        self, parts: list[Part], loaded: Loaded, shadow: Loaded | None, *, now_ms: int
    ) -> tuple[list[Part], list[Item]]:
        """All parts answered by one version; those without what it failed on, and the answers."""
        parts, columns = self._features(parts, now_ms=now_ms)
        scores = self._score(loaded, columns)
        if scores is not None:
            self._poison_rows = 0
            if shadow is not None:
                self._shadow.offer(shadow, columns, scores)
            with self._tracer.step("encode"):
                return parts, list(self._answers(parts, columns, scores, loaded, now_ms=now_ms))
        done: list[Item] = []
        parts = list(parts)
        for place, (run, decoded) in enumerate(parts):
            kept, kept_columns, kept_scores = self._bisect(loaded, run, decoded)
            parts[place] = (run, kept)
            done += self._answers([parts[place]], kept_columns, kept_scores, loaded, now_ms=now_ms)
        return parts, done

    def _both(
        self, parts: list[Part], arms: Arms, canary: Loaded, *, now_ms: int
    ) -> tuple[list[Part], list[Item]]:
        """The canary's keys answered by the canary, all others by the champion.

        Where the canary fails, the champion answers for it: its faults cost no event anything.
        """
        parts, _ = self._features(parts, now_ms=now_ms)
        own, tried = split_parts(parts, arms, key=self._key)
        events = _events(tried)
        if not events:
            return self._answered(parts, arms.champion, None, now_ms=now_ms)
        columns, scores = self._columns(events), None
        if self._breaker.closed(arms):
            started, scores = time.perf_counter(), self._score(canary, columns)
            seconds = time.perf_counter() - started
            self._breaker.note(answered=scores is not None, rows=len(events), seconds=seconds)
        if scores is None:
            self._counters["canary_errors"] += len(events)
            return self._answered(parts, arms.champion, None, now_ms=now_ms)
        self._counters["canary_rows"] += len(events)
        answers: list[Item] = list(self._answers(tried, columns, scores, canary, now_ms=now_ms))
        if any(decoded.events for _, decoded in own):
            own, more = self._answered(own, arms.champion, None, now_ms=now_ms)
            answers = interleave([*more, *answers])
        return [*own, *tried], answers

    def _decode(self, run: Run, *, now_ms: int, one_by_one: bool = False) -> Decoded:
        arguments = (Source(run.tp.topic, run.tp.partition), run.offsets, run.keys, run.values)
        if one_by_one:
            return self._decoder.decode_one_by_one(*arguments, now_ms=now_ms)
        return self._decoder.decode(*arguments, now_ms=now_ms)

    def _features(self, parts: list[Part], *, now_ms: int) -> tuple[list[Part], FeatureColumns]:
        try:
            with self._tracer.step("features"):
                return parts, self._columns(_events(parts))
        except FeatureError:  # a number that no float32 holds: find whose it is
            parts = [(run, self._decode(run, now_ms=now_ms, one_by_one=True)) for run, _ in parts]
            return parts, self._columns(_events(parts))

    def _score(self, loaded: Loaded, columns: FeatureColumns) -> npt.NDArray[np.float32] | None:
        """Scores, or None when the model raised an error on this batch."""
        try:
            with self._tracer.step("score", rows=columns.num_rows, model_version=loaded.version):
                return loaded.score(columns)
        except Exception as error:  # a module is other people's code
            log.warning("model failed on a batch", rows=columns.num_rows, error=repr(error))
            return None

    def _bisect(
        self, loaded: Loaded, run: Run, decoded: Decoded
    ) -> tuple[Decoded, FeatureColumns, npt.NDArray[np.float32]]:
        """Split until each record on which the model fails stands alone, and reject those."""
        good: list[int] = []
        scores: list[npt.NDArray[np.float32]] = []
        bad: list[int] = []

        def split(first: int, last: int) -> None:
            answer = self._score(loaded, self._columns(decoded.events[first:last]))
            if answer is not None:
                self._poison_rows = 0
                good.extend(range(first, last))
                scores.append(answer)
            elif last - first == 1:
                self._poison_rows += 1
                if self._poison_rows > POISON_ROWS_MAX:
                    raise ModelError(
                        f"could not score: version={loaded.version} failed on "
                        f"{self._poison_rows} records in a row. Announce another version."
                    )
                bad.append(first)
            else:
                middle = (first + last) // 2
                split(first, middle)
                split(middle, last)

        split(0, len(decoded.events))
        positions = decoded.pick(range(len(run)))
        rejects = [
            DeadLetter(
                reason=Reason.MODEL,
                detail=f"model {loaded.version} failed on this record alone",
                topic=run.tp.topic,
                partition=run.tp.partition,
                offset=run.offsets[positions[i]],
                key=run.keys[positions[i]],
                value=run.values[positions[i]],
            )
            for i in bad
        ]
        kept = Decoded(
            [decoded.events[i] for i in good],
            [positions[i] for i in good],
            decoded.rejects + rejects,
        )
        joined = np.concatenate(scores) if scores else np.empty(0, np.float32)
        return kept, self._columns(kept.events), joined

    def _answers(
        self,
        parts: Sequence[Part],
        columns: FeatureColumns,
        scores: npt.NDArray[np.float32],
        loaded: Loaded,
        *,
        now_ms: int,
    ) -> Iterator[Outgoing | AnsweredRows]:
        """Predictions for consumers, and the same with features for the stages that follow."""
        age_ms = max(0, now_ms - loaded.trained_at_ms)
        served, positions = scores, [-1] * len(parts)
        if self._champion is not None and loaded.version != PRIOR:
            counts = [(run.tp.partition, len(decoded.events)) for run, decoded in parts]
            served, positions = self._champion.answer(counts, columns, scores, loaded.version)
        rounded = np.round(served.astype(np.float64), 6).tolist()
        start = 0
        for (run, decoded), position in zip(parts, positions, strict=True):
            events = decoded.events
            stop = start + len(events)
            if not events:
                continue
            rows = AnsweredRows(
                partition=run.tp.partition,
                model_version=loaded.version,
                model_age_ms=age_ms,
                predicted_at_ms=now_ms,
                learner_position=position,
                ids=[event.event_id for event in events],
                keys=[getattr(event, self._key) for event in events],
                times_ms=[event.event_time_ms for event in events],
                produced_ms=decoded.pick(run.timestamps_ms),
                offsets=decoded.pick(run.offsets),
                served=served[start:stop],
                scores=scores[start:stop],
                features=columns.slice(start, stop),
            )
            predictions = encode_predictions(
                zip(
                    rows.ids,
                    rows.keys,
                    rounded[start:stop],
                    rows.times_ms,
                    rows.offsets,
                    strict=True,
                ),
                source_partition=rows.partition,
                model_version=loaded.version,
                model_age_ms=age_ms,
                predicted_at_ms=now_ms,
                learner_position=position,
            )
            keys = _keys(decoded.pick(run.keys), events, self._key)
            yield Outgoing(self._topics.predictions.name, rows.partition, predictions, keys)
            yield rows
            start = stop

    def _check_labels(self, run: Run) -> list[Outgoing]:
        source = Source(run.tp.topic, run.tp.partition)
        labels, _positions, rejects = decode_labels(
            source,
            run.offsets,
            run.keys,
            run.values,
            now_ms=run.timestamps_ms,
            bytes_max=self._bytes_max,
            kind=self._target_kind,
        )
        self._counters["labels"] += len(labels)
        return self._dead_letters(run, rejects)

    def _dead_letters(self, run: Run, rejects: Sequence[DeadLetter]) -> list[Outgoing]:
        if not rejects:
            return []
        self._counters["dead_letters"] += len(rejects)
        for reject in rejects:
            self._counters[f"dead_letters_{reject.reason}"] += 1
        return [
            Outgoing(
                self._topics.dead_letters.name,
                run.tp.partition,
                [reject.value for reject in rejects],
                [reject.key for reject in rejects],
                [reject.headers() for reject in rejects],
            )
        ]


def _events(parts: Sequence[Part]) -> list[Event]:
    """The events of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0][1].events
    return [event for _, decoded in parts for event in decoded.events]


def _keys(
    keys: Sequence[bytes | None], events: Sequence[Event], field: str
) -> Sequence[bytes | None]:
    """The Kafka keys of the events; one without a key gets that of its key field."""
    if None not in keys:
        return keys
    return [
        getattr(event, field).encode() if key is None else key
        for key, event in zip(keys, events, strict=True)
    ]
