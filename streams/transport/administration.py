"""Creates topics and asks about them. kafka-python does this well; it never touches data."""

import contextlib
from collections.abc import Iterable, Iterator

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from schemas.errors import KafkaUnavailable, PreflightError
from schemas.settings import Settings
from schemas.topics import Topic

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
                _create(client, topic, replication=settings.replication)
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
