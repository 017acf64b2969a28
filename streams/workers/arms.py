"""One drain, two arms: rows of a canary's keys are answered by the challenger, the others by the
champion, and what is sent lies in the order of the events again.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import structlog

from models.engine import Arms
from models.rollout import in_canary
from schemas.events import Decoded
from streams.transport.commit import Outgoing
from streams.transport.records import Run
from streams.workers.scored_rows import AnsweredRows, Item, ScoredRows, to_batches

log = structlog.get_logger()

CANARY_FAILURES_MAX = 5
CANARY_S_MAX = 0.05
CANARY_ROW_S_MAX = 50e-6
"""Seconds that one batch of a canary may take: a fixed part, and one per row. About what the whole
path of an event takes without it, so a canary beyond that is felt."""

Part = tuple[Run, Decoded]
"""A run and what became of its records."""


class Switches:
    """Writes down from which offset on a partition is answered by a new announcement.

    In the log, and in the counters as ``switched_at_<partition>``. The scored rows say the same for
    ever: the first ``source_offset`` of a ``model_version``.
    """

    def __init__(self, counters: defaultdict[str, float]) -> None:
        self._counters = counters
        self._epochs: dict[int, int] = {}

    def note(self, arms: Arms, parts: Sequence[Part]) -> None:
        """Compare ``arms`` with those of the last batch, partition by partition."""
        for run, decoded in parts:
            partition = run.tp.partition
            before = self._epochs.get(partition)
            if before == arms.epoch or not decoded.events:
                continue
            self._epochs[partition] = arms.epoch
            if before is not None:
                self._counters[f"switched_at_{partition}"] = run.first_offset
                log.info(
                    "partition switched",
                    partition=partition,
                    offset_first=run.first_offset,
                    model_version=arms.champion.version,
                    epoch=arms.epoch,
                )


class Breaker:
    """Stops asking a canary that fails or takes too long several times in a row.

    Until the next announcement the champion answers for it. A judge sees that in the examples: keys
    of the canary that the champion has answered.
    """

    def __init__(self) -> None:
        self._epoch = -1
        self._failures = 0

    def closed(self, arms: Arms) -> bool:
        """Whether the canary of ``arms`` may be asked."""
        if arms.epoch != self._epoch:
            self._epoch, self._failures = arms.epoch, 0
        return self._failures < CANARY_FAILURES_MAX

    def note(self, *, answered: bool, rows: int, seconds: float) -> None:
        """What became of a batch that the canary was asked for."""
        late = seconds > CANARY_S_MAX + rows * CANARY_ROW_S_MAX
        self._failures = 0 if answered and not late else self._failures + 1
        if self._failures == CANARY_FAILURES_MAX:
            log.error("canary is not asked any more", epoch=self._epoch, late=late)


def split_parts(parts: Sequence[Part], arms: Arms, *, key: str) -> tuple[list[Part], list[Part]]:
    """What the champion answers, and what the canary answers, each in order.

    What cannot be answered stays with the champion's part.
    """
    champion: list[Part] = []
    canary: list[Part] = []
    for run, decoded in parts:
        keys = [getattr(event, key) for event in decoded.events]
        mask = in_canary(keys, salt=arms.salt, share=arms.share)
        positions = decoded.pick(range(len(run)))
        for found, chosen, rejects in (
            (champion, np.flatnonzero(~mask).tolist(), decoded.rejects),
            (canary, np.flatnonzero(mask).tolist(), []),
        ):
            events = [decoded.events[i] for i in chosen]
            found.append((run, Decoded(events, [positions[i] for i in chosen], rejects)))
    return champion, canary


def interleave(items: Sequence[Item]) -> list[Item]:
    """The predictions and scored rows of both arms, in the order of their events in a partition.

    ``items`` are pairs of both for the same rows, as a scorer yields them; anything else (dead
    letters) must not be among them.
    """
    pairs: dict[int, list[tuple[Outgoing, AnsweredRows]]] = {}
    for sent, rows in zip(items[::2], items[1::2], strict=True):
        assert isinstance(sent, Outgoing)
        assert isinstance(rows, AnsweredRows)
        pairs.setdefault(rows.partition, []).append((sent, rows))
    done: list[Item] = []
    for partition, found in pairs.items():
        if len(found) == 1:
            done += found[0]
            continue
        [both] = to_batches([rows for _, rows in found])
        order = np.argsort(both.batch["source_offset"].to_numpy(), kind="stable")
        values = [value for sent, _ in found for value in sent.values]
        keys = [one for sent, _ in found for one in sent.keys or ()]
        done.append(
            Outgoing(
                found[0][0].topic, partition, [values[i] for i in order], [keys[i] for i in order]
            )
        )
        done.append(ScoredRows(partition, both.batch.take(pa.array(order))))
    return done
