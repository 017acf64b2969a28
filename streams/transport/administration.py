"""Creates topics and asks about them. kafka-python does this well; it never touches data."""

import contextlib
from collections.abc import Iterable

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from schemas.errors import KafkaUnavailable, PreflightError
from schemas.settings import Settings
from schemas.topics import Topic

REQUEST_MS_MAX = 15_000


def _client(settings: Settings) -> KafkaAdminClient:
    try:
        return KafkaAdminClient(
            **settings.kafka_client_options(),
            request_timeout_ms=REQUEST_MS_MAX,
            client_id="tidemill-administration",
        )
    except KafkaError as cause:
        raise KafkaUnavailable(f"could not reach Kafka at {settings.kafka}: {cause!r}") from cause


def create_topics(settings: Settings, topics: Iterable[Topic]) -> list[str]:
    """Create the topics that do not exist yet and return their names; existing ones stay as they
    are.

    Raises:
        KafkaUnavailable: no broker answered.
        PreflightError: a topic exists with another number of partitions, or may not be created.
    """
    wanted = {topic.name: topic for topic in topics}
    client = _client(settings)
    try:
        existing = _partitions(client, wanted)
        missing = [topic for name, topic in wanted.items() if name not in existing]
        for topic in missing:
            _create(client, topic, replication=settings.replication)
    except KafkaError as cause:
        raise KafkaUnavailable(f"could not create topics: {cause!r}") from cause
    finally:
        with contextlib.suppress(Exception):
            client.close()
    for name, count in existing.items():
        if count != wanted[name].partitions:
            raise PreflightError(
                f"could not use topic {name}: it has {count} partitions, the pipeline declares "
                f"{wanted[name].partitions}. Set partitions={count} in the declaration, or delete "
                "the topic."
            )
    return [topic.name for topic in missing]


def _create(client: KafkaAdminClient, topic: Topic, *, replication: int) -> None:
    wanted = {
        "num_partitions": topic.partitions,
        "replication_factor": replication,
        "configs": topic.configuration(),
    }
    try:
        client.create_topics({topic.name: wanted}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return
    except KafkaError as cause:
        raise PreflightError(
            f"could not create topic {topic.name} partitions={topic.partitions} "
            f"replication={replication}: {cause}. Create it yourself, or give the user CREATE."
        ) from cause


def _partitions(client: KafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    wanted = set(names)
    return {
        item["name"]: len(item["partitions"])
        for item in client.describe_topics()
        if item["name"] in wanted and item["partitions"]
    }
