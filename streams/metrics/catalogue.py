"""Every metric by name: what it means, who has it and which counter it comes from.

Workers count into `streams.telemetry.Reporter`, once per batch; a metric is read from there when
Prometheus asks, so the hot path knows nothing of it. A counter with one of `values` behind its name
and an underscore is one series of a metric with a label.
"""

# ruff: noqa: E501  # a table: one metric a line is easier to read than one in five

from dataclasses import dataclass
from typing import Literal, get_args

from schemas.alarms import DETECTORS
from schemas.dead_letters import Reason
from streams.telemetry import State

Kind = Literal["counter", "gauge", "histogram"]

_PATH = ("score", "join", "learn", "land")
_SENDING = ("score", "join", "learn")
_ALL = (*_PATH, "deliver", "judge", "alerts", "dashboard", "metrics")
_TABLES = ("scored", "labels", "examples", "dead_letters", "evaluations", "alarms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric, without the labels ``pipeline`` and ``role`` that all of them have.

    Attributes:
        name: As Prometheus shows it; those of histograms get ``_bucket``, ``_sum`` and ``_count``.
        kind: Its type.
        about: What it means, with its unit where the name has none.
        roles: The processes that have it.
        source: The counter or the histogram of the reporter; empty for what is computed.
        label: What tells its series apart, if there are several; two names with a blank between.
        values: The values of the label that are there from the start.
    """

    name: str
    kind: Kind
    about: str
    roles: tuple[str, ...]
    source: str = ""
    label: str = ""
    values: tuple[str, ...] = ()


def _count(
    name: str, source: str, roles: tuple[str, ...], about: str, *, label: str = "",
    values: tuple[str, ...] = (),
) -> Metric:  # fmt: skip
    return Metric(
        name=f"tidemill_{name}_total", kind="counter", about=about, roles=roles, source=source,
        label=label, values=values,
    )  # fmt: skip


def _gauge(
    name: str, roles: tuple[str, ...], about: str, *, source: str = "", label: str = "",
    values: tuple[str, ...] = (),
) -> Metric:  # fmt: skip
    return Metric(
        name=f"tidemill_{name}", kind="gauge", about=about, roles=roles, source=source,
        label=label, values=values,
    )  # fmt: skip


def _histogram(name: str, source: str, roles: tuple[str, ...], about: str) -> Metric:
    return Metric(
        name=f"tidemill_{name}", kind="histogram", about=about, roles=roles, source=source
    )


PROCESS = (
    _gauge("worker_info", _ALL, "Always 1; which process this is.", label="worker"),
    _gauge(
        "worker_state", _ALL, "1 for the state the process is in, 0 for the others.",
        label="state", values=get_args(State),
    ),
    _gauge("worker_state_timestamp_seconds", _ALL, "Since when it is in that state, Unix time."),
)  # fmt: skip

BATCHES = (
    _count("records", "records", _PATH, "Records worked on: committed ones, where it commits."),
    _count("received_bytes", "received_bytes", _PATH, "Bytes of the values of records received."),
    _count("sent_bytes", "sent_bytes", _SENDING, "Bytes of records sent, before compression."),
    _count("transactions", "transactions", _SENDING, "Kafka transactions committed."),
    _gauge(
        "commit_timestamp_seconds", _PATH, source="committed_at_s",
        about="When offsets were committed last, Unix time; 0 before the first time.",
    ),
    _histogram("batch_rows", "batch_rows", _PATH, "Records of one batch; where it lands, of one insert."),
    _histogram("batch_seconds", "batch_s", _SENDING, "Decoding, scoring and encoding one batch."),
    _histogram(
        "transaction_seconds", "transaction_s", _SENDING,
        "Sending one transaction and committing it; where it joins or learns, computing it as well.",
    ),
    _histogram(
        "batch_age_seconds", "batch_age_s", _PATH,
        "Age of the oldest record of a batch, by the broker's time stamp, once its effects are "
        "committed or in the store.",
    ),
)  # fmt: skip

_SCORE = ("score",)
SCORING = (
    _count("events", "events", _SCORE, "Events read."),
    _count("predictions", "predictions", _SCORE, "Events answered."),
    _count("labels", "labels", _SCORE, "Labels read and found good; the broken ones are rejected."),
    _count(
        "dead_letters", "dead_letters", ("score", "learn"),
        "Records rejected, with their bytes kept, by reason.",
        label="reason", values=tuple(reason.value for reason in Reason),
    ),
    _gauge("model_info", _SCORE, "Always 1; the version of each model that has work: of champion, canary, shadow.", label="version arm"),
    _gauge("model_age_seconds", _SCORE, "Time since the end of the training of each of them.", label="arm"),
    _gauge("model_epoch", _SCORE, "The announcement that is followed.", source="model_epoch"),
    _count("swaps", "swaps", _SCORE, "Changes of the versions that have work, after the first."),
    _count("models_refused", "models_refused", _SCORE, "Versions that could not be loaded, warmed or trusted."),
    _count("announcements_refused", "announcements_refused", _SCORE, "Announcements that were old, broken or unsigned."),
    _count("model_too_old_predictions", "model_too_old_rows", _SCORE, "Events that came while the champion was older than declared."),
    _count("canary_predictions", "canary_rows", _SCORE, "Events that a canary answered."),
    _count("canary_failures", "canary_errors", _SCORE, "Events of a canary's keys that the champion had to answer."),
    _count("shadow_predictions", "shadow_rows", _SCORE, "Events that a shadow answered for itself."),
    _count("shadow_dropped", "shadow_dropped", _SCORE, "Events that a shadow had no time for."),
    _count("shadow_failures", "shadow_errors", _SCORE, "Events that a shadow failed on."),
    _count("shadow_difference", "shadow_difference", _SCORE, "Sum of the absolute differences between a shadow's scores and the champion's."),
    _count("learner_swaps", "learner_swaps", _SCORE, "Newer states of the online learner that were taken over."),
    _count("learners_refused", "learners_refused", _SCORE, "States of learners that were not trusted or could not be loaded."),
    _gauge("learner_rows", _SCORE, "Examples that the learner in use has learned.", source="learner_rows"),
)  # fmt: skip

_LEARN = ("learn",)
TRUTH = (
    _count("examples", "examples", ("join",), "Examples sent: predictions with what became of them, step by step."),
    _count("messages_rejected", "scored_rejected", ("join", "land"), "Messages between our own stages that none of us wrote."),
    _count("examples_learned", "examples_learned", _LEARN, "Examples that taught the learner something."),
    _count("drift_alarms", "alarms", _LEARN, "Changes that were detected, by detector.", label="detector", values=DETECTORS),
    _count("snapshots", "snapshots", _LEARN, "Whole states of learners that were published."),
    _count("snapshot_seconds", "snapshot_s", _LEARN, "Time spent on them."),
    _count("offers", "offers", _LEARN, "Learners that were offered to scorers between whole states."),
    _count("learners_reset", "learners_reset", _LEARN, "Learners that began anew, because their declaration changed."),
    _count("served_predictions", "served_predictions", _LEARN, "Predictions whose quality is watched; each is counted when it is seen."),
    _count("served_labels", "served_labels", _LEARN, "Labels that joined them; by predictions it is the label coverage so far."),
    _count("served_correct", "served_correct", _LEARN, "Labelled predictions on the right side of one half."),
    _count("served_log_loss", "served_log_loss", _LEARN, "Sum of their log losses, in nats; by labels it is the mean."),
    _count("served_squared_error", "served_squared_error", _LEARN, "Sum of their squared errors; by labels it is the Brier score."),
    _count("served_expired", "served_expired", _LEARN, "Predictions that never got a label."),
    _count("served_evicted", "served_evicted", _LEARN, "Predictions given up because too many waited."),
)  # fmt: skip

_LAND = ("land",)
LANDING = (
    _count("landed_rows", "rows", _LAND, "Rows inserted, by table.", label="table", values=_TABLES),
    _count("inserts", "inserts", _LAND, "Inserts done."),
    _count("inserted_bytes", "inserted_bytes", _LAND, "Bytes of the rows inserted, as Arrow columns."),
    _histogram("insert_seconds", "insert_s", _LAND, "One insert, with its repetitions while the store is away."),
    _count("store_failures", "store_failures", _LAND, "Calls that the store did not answer; they are repeated."),
    _gauge("land_waiting_rows", _LAND, "Rows that wait for their insert, as of the last one.", source="waiting_rows"),
)  # fmt: skip

DELIVERING = (
    _count("trainings", "trainings", ("deliver",), "Trainings that ended, by what the gate said of them.", label="outcome", values=("passed", "refused", "failed")),
    _count("judge_rows", "judged_rows", ("judge",), "Rows with a truth that the judge of a rollout has seen."),
    _count("judge_looks", "looks", ("judge",), "Times it has decided on them, mostly to wait."),
    _count("rollout_steps", "steps", ("judge",), "Steps of rollouts that it has decided on.", label="step", values=("widen", "promote", "rollback")),
)  # fmt: skip

WORKERS: tuple[Metric, ...] = (*PROCESS, *BATCHES, *SCORING, *TRUTH, *LANDING, *DELIVERING)
"""What workers say of themselves."""

_OUTSIDE = ("metrics",)
OUTSIDE = (
    _gauge("kafka_up", _OUTSIDE, "1 while Kafka answers."),
    _gauge("lag_records", _OUTSIDE, "Records that a step has still before it; `role` is the step.", label="topic partition"),
    _gauge("end_offset", _OUTSIDE, "The next offset that will be written; its rate is what arrives.", label="topic partition"),
    _gauge("commit_age_seconds", _OUTSIDE, "For how long the step has not moved although records wait; 0 if none do.", label="topic partition"),
    _gauge("ledger_records", _OUTSIDE, "The balance of the label ledgers: predictions and labels by what became of them.", label="count"),
    _gauge("label_coverage_ratio", _OUTSIDE, "Share of the predictions past their horizon, or labelled before it, that got a label."),
    _gauge("announced_info", _OUTSIDE, "Always 1; what the last announcement names.", label="version part"),
    _gauge("announced_epoch", _OUTSIDE, "Its number; workers follow within a second."),
    _gauge("announced_timestamp_seconds", _OUTSIDE, "When it was made, Unix time."),
    _gauge("rollout_share_ratio", _OUTSIDE, "Share of the keys that a canary is to answer."),
    _gauge("rollout_held", _OUTSIDE, "1 while a person keeps versions as they are."),
    _gauge("process_up", _OUTSIDE, "1 for each process of this home that says it is running; servers, too.", label="process"),
    _gauge("process_memory_bytes", _OUTSIDE, "Resident memory of each of them.", label="process"),
    _gauge("books_missing", _OUTSIDE, "Records that the permanent check of the books found missing, of this home.", source="books_missing"),
    _gauge("books_doubled", _OUTSIDE, "Records that it found twice.", source="books_doubled"),
    _gauge("books_unchecked", _OUTSIDE, "Records that it has still to look at.", source="books_unchecked"),
    _gauge("books_exact_age_seconds", _OUTSIDE, "Since its last round that found nothing wrong.", source="books_exact_check_age_s"),
    _gauge("alerts_firing", _OUTSIDE, "Alerts of Tidemill's own that fire, of this home.", source="alerts_firing"),
)  # fmt: skip
"""What `tidemill metrics` sees: only gauges, for what was seen last."""


def metrics_of(role: str) -> list[Metric]:
    """What a process of ``role`` says of itself."""
    return [metric for metric in WORKERS if role in metric.roles]
