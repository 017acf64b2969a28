"""Scored rows on their way from a drain to messages.

A record batch costs 0.2 ms however few rows it has. So the rows of a small drain stay plain columns
until its transaction is filled, and one batch is made of all that it holds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.features import list_columns
from models.protocol import FeatureColumns
from schemas.arrow import write_batches
from schemas.scored import SCORED
from streams.transport.commit import Outgoing

SCORED_BYTES_MAX = 4 << 20
"""Bytes of one Arrow message, half of what the topic allows."""
STAMP = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Scored rows of one partition that are not a message yet: those of several drains in one
    transaction become one.
    """

    partition: int
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredRows:
    """Answers to the events of one partition in one drain, before they are columns of Arrow.

    The first five are the same for all rows; the others have one entry per row.
    """

    partition: int
    model_version: str
    model_age_ms: int
    predicted_at_ms: int
    learner_position: int
    ids: Sequence[str]
    keys: Sequence[str]
    times_ms: Sequence[int]
    produced_ms: Sequence[int]
    offsets: Sequence[int]
    served: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    features: FeatureColumns

    def __len__(self) -> int:
        return len(self.ids)


Item = Outgoing | ScoredRows | AnsweredRows
"""What a scorer hands to the transaction: messages, and rows that become some."""


def to_batches(parts: Sequence[AnsweredRows]) -> list[ScoredRows]:
    """``parts`` as record batches, each cut out of one that is made for all of them.

    Those of one partition that follow each other become one.
    """
    if not parts:
        return []
    batch = _batch(parts)
    done, start = [], 0
    for partition, group in groupby(parts, key=lambda part: part.partition):
        rows = sum(map(len, group))
        done.append(ScoredRows(partition, batch.slice(start, rows)))
        start += rows
    return done


def _batch(parts: Sequence[AnsweredRows]) -> pa.RecordBatch:
    """All rows one after the other, in the order of ``parts``."""
    counts = [len(part) for part in parts]
    rows = sum(counts)
    numeric, category = list_columns(_features([part.features for part in parts]))

    def of_part(values: Iterable[int], kind: type[np.integer]) -> pa.Array:
        return pa.array(np.repeat(np.fromiter(values, kind, len(parts)), counts))

    def of_row(values: Iterable[Sequence[int]]) -> pa.Array:
        return pa.array(np.fromiter(chain.from_iterable(values), np.int64, rows))

    versions = [part.model_version for part in parts]
    found = {
        "event_id": pa.array(list(chain.from_iterable(p.ids for p in parts)), pa.utf8()),
        "key": pa.array(list(chain.from_iterable(p.keys for p in parts)), pa.utf8()),
        "event_time": of_row(p.times_ms for p in parts).view(STAMP),
        "produced_at": of_row(p.produced_ms for p in parts).view(STAMP),
        "predicted_at": of_part((p.predicted_at_ms for p in parts), np.int64).view(STAMP),
        "score": pa.array(np.concatenate([p.served for p in parts])),
        "model_version": (
            pa.repeat(versions[0], rows)
            if len({*versions}) == 1
            else pa.array(np.repeat(versions, counts).tolist(), pa.utf8())
        ),
        "model_age_ms": of_part((p.model_age_ms for p in parts), np.int64),
        "source_partition": of_part((p.partition for p in parts), np.int32),
        "source_offset": of_row(p.offsets for p in parts),
        "numeric": numeric,
        "category": category,
        "model_score": pa.array(np.concatenate([p.scores for p in parts])),
        "learner_position": of_part((p.learner_position for p in parts), np.int64),
    }
    return pa.RecordBatch.from_arrays([found[name] for name in SCORED.names], schema=SCORED)


def _features(parts: Sequence[FeatureColumns]) -> FeatureColumns:
    if len(parts) == 1:
        return parts[0]
    return FeatureColumns(
        parts[0].numeric,
        parts[0].category,
        np.concatenate([part.numeric_BF for part in parts]),
        pa.concat_arrays([part.words for part in parts]),
    )


def to_columns(items: Sequence[Item]) -> list[Item]:
    """The same with all answers as record batches; dear, so for many rows and off the loop."""
    done: list[Item] = [item for item in items if not isinstance(item, AnsweredRows)]
    done += to_batches([item for item in items if isinstance(item, AnsweredRows)])
    return done


def to_messages(items: Iterable[Item], *, topic: str) -> list[Outgoing]:
    """What one transaction sends: of rows one message per partition, however many drains.

    The rows of a partition keep their order.
    """
    done: list[Outgoing] = []
    rows: dict[int, list[ScoredRows | AnsweredRows]] = {}
    for item in items:
        if isinstance(item, Outgoing):
            done.append(item)
        else:
            rows.setdefault(item.partition, []).append(item)
    answered = [r for found in rows.values() for r in found if isinstance(r, AnsweredRows)]
    made, start = _batch(answered) if answered else None, 0
    for partition, found in rows.items():
        batches: list[pa.RecordBatch] = []
        for kind, group in groupby(found, key=type):
            if kind is ScoredRows:
                batches += [r.batch for r in group if isinstance(r, ScoredRows)]
            else:
                assert made is not None
                count = sum(len(r) for r in group if isinstance(r, AnsweredRows))
                batches.append(made.slice(start, count))
                start += count
        batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        done.append(Outgoing(topic, partition, write_batches(batch, bytes_max=SCORED_BYTES_MAX)))
    return done
