"""Creates topics and asks about them. kafka-python does this well; it never touches data."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from schemas.errors import KafkaUnavailable, PreflightError
from schemas.settings import Settings
from schemas.topics import ALERTS, DAY_MS, FOREVER_MS, Topic

REQUEST_MS_MAX = 15_000
LOGIN_HINT = (
    "If it runs, it may not let us in: check TIDEMILL_KAFKA_SECURITY, TIDEMILL_KAFKA_USERNAME, "
    "TIDEMILL_KAFKA_PASSWORD and TIDEMILL_KAFKA_CA."
)


@contextlib.contextmanager
def administration(settings: Settings) -> Iterator[KafkaAdminClient]:
    """A client for administration, closed when left.

    Raises:
        KafkaUnavailable: no broker answered, or none let us in.
    """
    try:
        client = KafkaAdminClient(
            **settings.kafka_client_options(),
            request_timeout_ms=REQUEST_MS_MAX,
            bootstrap_timeout_ms=REQUEST_MS_MAX,
            client_id="tidemill-administration",
        )
    except KafkaError as cause:
        hint = "" if settings.kafka_security == "PLAINTEXT" else f". {LOGIN_HINT}"
        raise KafkaUnavailable(
            f"could not reach Kafka at {settings.kafka}: {cause!r}{hint}"
        ) from cause
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close()


def create_topics(settings: Settings, topics: Iterable[Topic]) -> list[str]:
    """Create the topics that do not exist yet and return their names; existing ones stay as they
    are.

    Raises:
        KafkaUnavailable: no broker answered.
        PreflightError: a topic exists with another number of partitions, or may not be created.
    """
    wanted = {topic.name: topic for topic in topics}
    with administration(settings) as client:
        try:
            existing = _partitions(client, wanted)
            missing = [topic for name, topic in wanted.items() if name not in existing]
            for topic in missing:
                _create(client, topic, settings)
        except KafkaError as cause:
            raise KafkaUnavailable(f"could not create topics: {cause!r}") from cause
    for name, count in existing.items():
        if count != wanted[name].partitions:
            raise PreflightError(
                f"could not use topic {name}: it has {count} partitions, the pipeline declares "
                f"{wanted[name].partitions}. Set partitions={count} in the declaration, or delete "
                "the topic."
            )
    return [topic.name for topic in missing]


def _create(client: KafkaAdminClient, topic: Topic, settings: Settings) -> None:
    configuration = topic.configuration()
    if (kept_ms := retention_ms(topic, settings)) is not None:
        configuration["retention.ms"] = str(kept_ms)
    wanted = {
        "num_partitions": topic.partitions,
        "replication_factor": settings.replication,
        "configs": configuration,
    }
    try:
        client.create_topics({topic.name: wanted}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return
    except KafkaError as cause:
        raise PreflightError(
            f"could not create topic {topic.name} partitions={topic.partitions} "
            f"replication={settings.replication}: {cause}. Create it yourself, or give the user "
            "CREATE."
        ) from cause


def retention_ms(topic: Topic, settings: Settings) -> int | None:
    """How long ``topic`` keeps records; `FOREVER_MS` without an end, None if it is compacted."""
    if topic.cleanup == "compact":
        return None
    if topic.retention_ms == FOREVER_MS:
        return FOREVER_MS
    if topic.name.endswith(".dead-letters") or topic.name == ALERTS:  # for people, later
        return settings.dead_letter_retention_days * DAY_MS
    return settings.topic_retention_days * DAY_MS


def present_retention_ms(settings: Settings, topics: Iterable[Topic]) -> dict[str, int]:
    """How long each topic keeps records now, by name; without those that do not exist.

    Raises:
        KafkaUnavailable: no broker answered.
        PreflightError: we may not ask.
    """
    names = [topic.name for topic in topics]
    with administration(settings) as client:
        try:
            existing = {item["name"] for item in client.describe_topics()}
            wanted = [
                ConfigResource(ConfigResourceType.TOPIC, name) for name in names if name in existing
            ]
            found = client.describe_configs(wanted, config_filter="all") if wanted else {}
        except KafkaError as cause:
            raise KafkaUnavailable(f"could not read the retention: {cause!r}") from cause
    answers = {name: item for kind in found.values() for name, item in kind.items()}
    if refused := [name for name, item in answers.items() if "retention.ms" not in item]:
        raise PreflightError(
            f"could not read the retention of {refused[0]}: this user may not. Grant "
            "ALTER_CONFIGS, as role operator has it (`tidemill acl`)."
        )
    return {name: int(item["retention.ms"]["value"]) for name, item in answers.items()}


def set_retention_ms(settings: Settings, wanted: Mapping[str, int]) -> None:
    """Let topics keep records so long from now on; brokers delete what is older within minutes.

    Raises:
        KafkaUnavailable: no broker answered.
        PreflightError: one was refused.
    """
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": str(kept_ms)})
        for name, kept_ms in wanted.items()
    ]
    with administration(settings) as client:
        try:
            answers = client.alter_configs(resources, raise_on_unknown=False)
        except KafkaError as cause:
            raise KafkaUnavailable(f"could not set the retention: {cause!r}") from cause
    for name, answer in answers.get("topic", {}).items():
        if answer != "OK":
            raise PreflightError(
                f"could not set the retention of {name}: {answer}. Grant ALTER_CONFIGS, as role "
                "operator has it (`tidemill acl`)."
            )


def _partitions(client: KafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    wanted = set(names)
    return {
        item["name"]: len(item["partitions"])
        for item in client.describe_topics()
        if item["name"] in wanted and item["partitions"]
    }
