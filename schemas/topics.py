"""Every topic: name, key, partitions, retention, clean-up and the record it carries."""

from dataclasses import dataclass, field
from typing import Literal

MODELS = "tidemill.models"
"""Which model version answers for which pipeline; like `AUDIT` it belongs to no pipeline."""

AUDIT = "tidemill.audit"
"""Every control action, each entry chained to the one before; nothing is ever deleted from it."""

FOREVER_MS = -1
"""Kafka's word for a retention without an end."""

ALERTS = "tidemill.alerts"
"""What people were told about, of all pipelines."""

MESSAGE_BYTES_MAX = 8 << 20
"""Largest message on topics that carry batches or other people's rejected bytes (8 MiB)."""

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic as Tidemill creates it. An existing topic is never changed."""

    name: str
    record: str
    """What one message is."""
    key: str
    """What the Kafka key is."""
    partitions: int
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = 7 * DAY_MS
    message_bytes_max: int = 1 << 20
    segment_bytes: int | None = None
    """Size at which a log file is closed; only closed ones are compacted. None: the broker's."""

    def configuration(self) -> dict[str, str]:
        """The broker-side settings of this topic."""
        settings = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.message_bytes_max),
        }
        if self.cleanup == "delete":
            settings["retention.ms"] = str(self.retention_ms)
        if self.segment_bytes is not None:
            settings["segment.bytes"] = str(self.segment_bytes)
        return settings


@dataclass(frozen=True, slots=True)
class PipelineTopics:
    """The topics of one pipeline.

    Events, labels, predictions and scored rows have the same number of partitions, and what comes
    from partition p of the events goes to partition p of the others. So everything about one key
    stays on one partition number, which the join relies on. Examples, evaluations and alarms have
    one partition per learner: as many as the others, or with ``shards="single"`` one, whose log
    then fixes the order in which everything is learned.
    """

    pipeline: str
    partitions: int
    key: str
    shards: Literal["partition", "single"] = "partition"
    events: Topic = field(init=False)
    labels: Topic = field(init=False)
    predictions: Topic = field(init=False)
    scored: Topic = field(init=False)
    dead_letters: Topic = field(init=False)
    examples: Topic = field(init=False)
    evaluations: Topic = field(init=False)
    alarms: Topic = field(init=False)
    learners: Topic = field(init=False)

    def __post_init__(self) -> None:
        """Derive the topics from the pipeline's name, key and partition count."""

        def topic(suffix: str, record: str, key: str, **extra: int) -> Topic:
            return Topic(
                name=f"{self.pipeline}.{suffix}",
                record=record,
                key=key,
                partitions=self.partitions,
                **extra,  # type: ignore[arg-type]  # only integer fields are passed
            )

        put = object.__setattr__  # the class is frozen for everybody else
        put(self, "events", topic("events", "JSON event", self.key))
        put(self, "labels", topic("labels", "JSON label", self.key))
        put(self, "predictions", topic("predictions", "JSON prediction", self.key))
        put(
            self,
            "scored",
            topic("scored", "Arrow stream", "none", message_bytes_max=MESSAGE_BYTES_MAX),
        )
        put(
            self,
            "dead_letters",
            topic(
                "dead-letters",
                "the rejected bytes, the reason in headers",
                "the rejected record's key",
                message_bytes_max=MESSAGE_BYTES_MAX,
                retention_ms=30 * DAY_MS,
            ),
        )
        self._derive_learning_topics()

    def _derive_learning_topics(self) -> None:
        put = object.__setattr__
        count = 1 if self.shards == "single" else self.partitions
        for suffix, record in (
            ("examples", "Arrow stream"),
            ("evaluations", "Arrow stream"),
            ("alarms", "JSON alarm"),
        ):
            put(
                self,
                suffix,
                Topic(
                    name=f"{self.pipeline}.{suffix}",
                    record=record,
                    key="none",
                    partitions=count,
                    message_bytes_max=MESSAGE_BYTES_MAX,
                ),
            )
        put(
            self,
            "learners",
            Topic(
                name=f"{self.pipeline}.learners",
                record="signed learner snapshot",
                key="shard",
                partitions=1,
                cleanup="compact",
                message_bytes_max=MESSAGE_BYTES_MAX,
                # Snapshots come several times a second: a scorer that starts reads what is left.
                segment_bytes=2 * MESSAGE_BYTES_MAX,
            ),
        )

    @property
    def landed(self) -> tuple[Topic, ...]:
        """The topics whose records become rows."""
        return (
            self.scored,
            self.labels,
            self.examples,
            self.dead_letters,
            self.evaluations,
            self.alarms,
        )

    def all(self) -> tuple[Topic, ...]:
        """The topics in the order data passes them."""
        return (
            self.events,
            self.labels,
            self.predictions,
            self.scored,
            self.dead_letters,
            self.examples,
            self.evaluations,
            self.alarms,
            self.learners,
        )


def models_topic() -> Topic:
    """The compacted topic that says which version serves; keyed by pipeline name."""
    return Topic(
        name=MODELS,
        record="JSON announcement, signed in a header",
        key="pipeline",
        partitions=1,
        cleanup="compact",
    )


def audit_topic() -> Topic:
    """The topic of `AUDIT`: one partition, so that it has one order."""
    return Topic(
        name=AUDIT,
        record="JSON audit entry, signed in a header",
        key="number of the entry",
        partitions=1,
        retention_ms=FOREVER_MS,
    )


def alerts_topic() -> Topic:
    """Every notification of every pipeline; one partition, so they are read in their order."""
    return Topic(
        name=ALERTS,
        record="JSON notification",
        key="pipeline/rule",
        partitions=1,
        retention_ms=30 * DAY_MS,
    )


def control_topics() -> tuple[Topic, ...]:
    """The topics that all pipelines share."""
    return (models_topic(), audit_topic(), alerts_topic())
