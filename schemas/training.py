"""One retraining, as its folder and its rows in SQL describe it: the job, its progress, its end.

Whoever wants a model writes a `TrainingJob` into a folder and starts the trainer on it; how far it
is and how it ended are read from the same folder. So a job can run on this machine or elsewhere.
"""

from typing import Literal

import msgspec

from schemas.errors import SchemaError
from schemas.undecodable import UNDECODABLE

JOB = "job.json"
ROWS = "rows.arrow"
"""Raw rows of the set: as a history, features by name with ``label`` and ``label_time_ms``."""
SOURCE = "source.json"
PROGRESS = "progress.jsonl"
RESULT = "result.json"
"""Names of the files in the folder of a job."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. The defaults had the best validation loss of four tried on the flights.

    Attributes:
        batch_rows_max: Rows of one step over all ranks. A small set takes smaller ones.
        learning_rate: Adam's step at the start; it falls to a tenth along a cosine.
        weight_decay: Pull of every weight towards zero, decoupled from the loss (AdamW).
        epochs_max: Passes over the training rows at most.
        patience_epochs: Passes without a better validation loss after which the training ends.
        device_rows_max: Rows that one rank puts through the model at once; a larger share of a step
            is accumulated. Not used for a first model, nor is what follows.
        balanced: Weigh rows so that both labels count alike; calibration takes the bias out again.
        checkpoint_interval_s: Work that a killed rank may cost.
        layout: ``replicated`` (DDP): every rank holds the model. ``sharded`` (FSDP2): each holds a
            part of every weight, for models that do not fit one device.
    """

    batch_rows_max: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    epochs_max: int = 30
    patience_epochs: int = 5
    device_rows_max: int = 8192
    balanced: bool = False
    checkpoint_interval_s: float = 30.0
    layout: Literal["replicated", "sharded"] = "replicated"


class RowsSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rows of a set came from, so that the same set can be made again.

    Attributes:
        words: For a person.
        sql: The query, for rows out of the store.
        offsets: First and last offset read of every partition of the examples, both included.
        label_revision_max: Highest revision of a label among the rows.
    """

    words: str
    sql: str = ""
    offsets: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    label_revision_max: int = 0


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger must keep. Losses are log-losses in nats per row.

    Attributes:
        loss_margin: By how much the challenger may be worse than the champion on the judged rows,
            at the unfavourable end of the interval.
        confidence: Of all intervals, such as 0.95.
        calibration_error_max: Mean distance between what was said and what came true.
        errors_margin: By how much its share of wrong decisions may be higher, beyond doubt.
        slice_margin: By how much it may be worse on the rows of one word of a category; a slice
            fails only if it is worse by more beyond doubt, all slices taken together.
        slice_rows_min: Smaller slices are not judged.
        latency_ms_max: Median time for `LATENCY_ROWS` rows on the device that serves.
        size_bytes_max: Of the weights.
        rows_min: With fewer judged rows the verdict is no.
    """

    loss_margin: float = 0.002
    confidence: float = 0.95
    calibration_error_max: float = 0.05
    errors_margin: float = 0.005
    slice_margin: float = 0.02
    slice_rows_min: int = 200
    latency_ms_max: float = 50.0
    size_bytes_max: int = 1 << 30
    rows_min: int = 500


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be trained.

    Attributes:
        run: Names this run for ever.
        pipeline: Name of the pipeline.
        reference: How to load it: its name, or the path of its file.
        registry: fsspec address of the registry.
        as_of_ms: Nothing that became known from here on may be used. None: everything is known.
        days: Only events of so many days before ``as_of_ms``; None: all.
        seed: Of everything random.
        recipe: How to train.
        start: ``warm`` begins with the champion's weights, ``cold`` with random ones.
        champion: Version that serves now and is to be beaten; empty if none does.
        champion_digest: SHA-256 of its manifest.
        gate: Limits of the gate.
    """

    run: str
    pipeline: str
    reference: str
    registry: str
    as_of_ms: int | None = None
    days: int | None = None
    seed: int = 0
    recipe: Recipe = Recipe()
    start: Literal["cold", "warm"] = "cold"
    champion: str = ""
    champion_digest: str = ""
    gate: Gate = Gate()


LATENCY_ROWS = 256
"""Rows of the batch whose time the gate measures."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the gate looked at.

    Attributes:
        name: Which one.
        passed: Whether it is good enough.
        value: What was measured; the unit is in the name.
        limit: What it may be.
        why: For a person.
    """

    name: str
    passed: bool
    value: float
    limit: float
    why: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate said about a version, with every number it rests on.

    Attributes:
        pipeline: The pipeline.
        version: The challenger.
        digest: SHA-256 of its manifest.
        champion: What it was compared with; empty if nothing served.
        judged_at_ms: When.
        rows: Rows that both answered.
        event_time_ms_first: The oldest of them; later than every row the challenger learned from.
        event_time_ms_last: The youngest of them.
        checks: Everything that was looked at.
    """

    pipeline: str
    version: str
    digest: str
    champion: str
    judged_at_ms: int
    rows: int
    event_time_ms_first: int
    event_time_ms_last: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check is."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Which checks failed and why; for a passed one what it gained."""
        failed = [check for check in self.checks if not check.passed]
        shown = failed or [check for check in self.checks if check.name == "loss_excess"]
        return "; ".join(f"{check.name}: {check.why}" for check in shown)


State = Literal["preparing", "training", "judging", "done", "failed"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is; one line of `PROGRESS`.

    Attributes:
        run: Which one.
        pipeline: Of which pipeline.
        at_ms: When this was so.
        state: What it is doing.
        detail: More words.
        attempt: 0, and one more after each restart of the ranks.
        ranks: Processes that train together.
        epoch: Passes finished.
        epochs_max: Passes at most.
        step: Steps taken of all passes.
        steps_max: Steps of all passes at most.
        training_loss: Mean of this pass so far, nats per row.
        validation_loss: The best so far.
        examples_per_s: Over all ranks, since the last line.
        seconds_left: At most, as it looks now.
        learning_rate: Of the step that was taken last.
        gradient_norm: Length of the gradient of the mean loss over all weights, before the step:
            the mean of every eighth step since the last line.
        cpu_cores: Seconds of processor time a second over all ranks, since the last line.
        memory_bytes: Resident memory of all ranks together.
    """

    run: str
    pipeline: str
    at_ms: int
    state: State
    detail: str = ""
    attempt: int = 0
    ranks: int = 1
    epoch: int = 0
    epochs_max: int = 0
    step: int = 0
    steps_max: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    examples_per_s: float | None = None
    seconds_left: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    cpu_cores: float | None = None
    memory_bytes: int | None = None


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended.

    Attributes:
        run: Which one.
        version: The version in the registry; empty if there is none.
        digest: SHA-256 of its manifest.
        verdict: What the gate said; None without a version.
        error: Why there is none.
    """

    run: str
    version: str = ""
    digest: str = ""
    verdict: Verdict | None = None
    error: str = ""


def decode_job(text: bytes) -> TrainingJob:
    """Decode `JOB`.

    Raises:
        SchemaError: it is none that this release understands.
    """
    try:
        return msgspec.json.decode(text, type=TrainingJob)
    except UNDECODABLE as cause:
        raise SchemaError(f"could not decode the training job: {cause}") from cause


def decode_verdict(text: bytes) -> Verdict:
    """Decode a verdict.

    Raises:
        SchemaError: it is none that this release understands.
    """
    try:
        return msgspec.json.decode(text, type=Verdict)
    except UNDECODABLE as cause:
        raise SchemaError(f"could not decode the verdict: {cause}") from cause
