"""Rows about trainings and about what was decided on models: tables ``runs`` and ``decisions``."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import pyarrow as pa

from schemas.training import Progress, Verdict
from streams.store.client import Client, insert_rows

_MOMENT = pa.timestamp("ms", tz="UTC")

RUNS = pa.schema(
    [
        pa.field("pipeline", pa.utf8(), nullable=False),
        pa.field("run", pa.utf8(), nullable=False),
        pa.field("at", _MOMENT, nullable=False),
        pa.field("state", pa.utf8(), nullable=False),
        pa.field("detail", pa.utf8(), nullable=False),
        pa.field("attempt", pa.uint32(), nullable=False),
        pa.field("ranks", pa.uint32(), nullable=False),
        pa.field("epoch", pa.uint32(), nullable=False),
        pa.field("epochs_max", pa.uint32(), nullable=False),
        pa.field("step", pa.uint64(), nullable=False),
        pa.field("steps_max", pa.uint64(), nullable=False),
        pa.field("training_loss", pa.float64()),
        pa.field("validation_loss", pa.float64()),
        pa.field("examples_per_s", pa.float64()),
        pa.field("seconds_left", pa.float64()),
        pa.field("learning_rate", pa.float64()),
        pa.field("gradient_norm", pa.float64()),
        pa.field("cpu_cores", pa.float64()),
        pa.field("memory_bytes", pa.uint64()),
    ]
)
"""Fields as in `schemas.training.Progress`."""

DECISIONS = pa.schema(
    [
        pa.field("pipeline", pa.utf8(), nullable=False),
        pa.field("at", _MOMENT, nullable=False),
        pa.field("kind", pa.utf8(), nullable=False),
        pa.field("version", pa.utf8(), nullable=False),
        pa.field("champion", pa.utf8(), nullable=False),
        pa.field("decision", pa.utf8(), nullable=False),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("numbers", pa.utf8(), nullable=False),
    ]
)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``decisions``.

    Attributes:
        pipeline: About whose models.
        at_ms: When.
        kind: What was asked.
        version: About which version: of a rollback, the one that was taken back; empty if there
            is none yet.
        champion: What served then; empty if nothing did.
        decision: ``passed`` or ``failed`` of the gate; ``promoted`` or ``forced``; ``train`` or
            ``wait`` of a trigger; of a rollout, what was announced: see `models.rollout`.
        reason: For a person.
        numbers: Whatever it rests on.
    """

    pipeline: str
    at_ms: int
    kind: Literal["trigger", "gate", "promotion", "rollout"]
    decision: Literal[
        "passed", "failed", "promoted", "forced", "train", "wait",
        "try", "widen", "rollback", "hold", "release",
    ]  # fmt: skip
    version: str = ""
    champion: str = ""
    reason: str = ""
    numbers: object = None


def of_verdict(verdict: Verdict) -> Decision:
    """The row of what the gate said."""
    return Decision(
        pipeline=verdict.pipeline,
        at_ms=verdict.judged_at_ms,
        kind="gate",
        decision="passed" if verdict.passed else "failed",
        version=verdict.version,
        champion=verdict.champion,
        reason=verdict.reason,
        numbers=verdict,
    )


def insert_progress(client: Client, lines: Sequence[Progress]) -> None:
    """Insert lines of one run; repeating it changes nothing.

    Raises:
        StoreUnavailable: not known whether they were inserted.
    """
    rows = [{**msgspec.to_builtins(line), "at": line.at_ms} for line in lines]
    if rows:
        token = f"runs|{lines[0].run}|{lines[0].at_ms}|{lines[-1].at_ms}|{len(lines)}"
        insert_rows(client, "runs", pa.Table.from_pylist(rows, schema=RUNS), token=token)


def insert_decision(client: Client, decision: Decision) -> None:
    """Insert one decision; repeating it changes nothing.

    Raises:
        StoreUnavailable: not known whether it was inserted.
    """
    row = {
        **msgspec.to_builtins(decision),
        "at": decision.at_ms,
        "numbers": msgspec.json.encode(decision.numbers).decode(),
    }
    token = f"{decision.kind}|{decision.pipeline}|{decision.version}|{decision.at_ms}"
    insert_rows(client, "decisions", pa.Table.from_pylist([row], schema=DECISIONS), token=token)
