"""What each role may do, as the broker's own authorizer answers, and what happens who tries more."""

import json

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.errors import KafkaUnavailable, PreflightError
from streams.control.announce import announce
from streams.control.rights import ROLES, rights
from streams.transport.administration import administration, create_topics
from streams.transport.authorization import present_rights, set_rights
from tests.doors.conftest import NAME, STRANGER, Vault
from tests.doors.secured import ADMIN

PIPELINE = frozenset(
    [
        "events",
        "labels",
        "predictions",
        "scored",
        "dead-letters",
        "examples",
        "evaluations",
        "alarms",
        "learners",
    ]
)
SHARED = frozenset({"tidemill.models", "tidemill.audit"})
READS = {
    "producer": "",
    "score": "events labels learners tidemill.models",
    "join": "scored labels",
    "learn": "examples learners",
    "land": "scored labels examples dead-letters evaluations alarms",
    "deliver": "examples tidemill.models tidemill.audit",
    "trainer": "tidemill.models tidemill.audit",
    "alerts": " ".join(PIPELINE),
    "dashboard": " ".join(PIPELINE | SHARED),
    "reader": "predictions",
    "operator": " ".join(PIPELINE | SHARED),
    STRANGER: "",
}
WRITES = {
    "producer": "events labels",
    "score": "predictions scored dead-letters",
    "join": "examples",
    "learn": "evaluations alarms learners dead-letters",
    "deliver": "tidemill.models tidemill.audit",
    "operator": "tidemill.models tidemill.audit",
    "alerts": "tidemill.alerts",
    "trainer": "tidemill.audit",
}
"""Written down by hand, from docs/security.md; the code under test does not say it twice."""


def full(names: str) -> set[str]:
    return {name if name.startswith("tidemill") else f"{NAME}.{name}" for name in names.split()}


@pytest.mark.parametrize("role", [*ROLES, STRANGER])
def test_a_role_may_read_and_write_its_topics_and_no_other(vault: Vault, role: str) -> None:
    """Asked of the broker: for each topic that the user may see at all, what he may do with it."""
    with administration(vault.as_(role)) as client:
        found = {t["name"]: set(t["authorized_operations"]) for t in client.describe_topics()}
        cluster = set(client.describe_cluster()["authorized_operations"])
    assert {name for name, may in found.items() if "READ" in may} == full(READS[role])
    assert {name for name, may in found.items() if "WRITE" in may} == full(WRITES.get(role, ""))
    changing = {"CREATE", "DELETE", "ALTER_CONFIGS"}
    changed = {name for name, may in found.items() if changing & may}
    made = full(READS["operator"]) | {"tidemill.alerts"}
    assert changed == (made if role == "operator" else set())
    assert cluster == set(), "nobody but an administrator has rights on the cluster"


def write(vault: Vault, role: str, topic: str, **options: object) -> KafkaError | None:
    """The broker's answer to one record."""
    answers: list[KafkaError | None] = []
    producer = Producer(vault.client(role, **{"message.timeout.ms": 20_000, **options}))
    producer.produce(
        topic, b"{}", key=b"k", partition=0, on_delivery=lambda e, _: answers.append(e)
    )
    producer.flush(30)
    return answers[0]


@pytest.mark.parametrize(
    ("role", "topic"),
    [
        ("producer", f"{NAME}.predictions"),
        ("producer", "tidemill.models"),
        ("score", f"{NAME}.events"),
        ("land", f"{NAME}.scored"),
        ("reader", f"{NAME}.predictions"),
        ("dashboard", "tidemill.models"),
        ("trainer", "tidemill.models"),
        (STRANGER, f"{NAME}.events"),
    ],
)
def test_a_write_with_the_wrong_role_is_refused(vault: Vault, role: str, topic: str) -> None:
    error = write(vault, role, topic)
    assert error is not None
    refusals = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
    assert error.code() in refusals, error


@pytest.mark.parametrize(
    ("role", "topic", "group"),
    [
        ("producer", f"{NAME}.events", f"{NAME}.reader.x"),
        ("reader", f"{NAME}.scored", f"{NAME}.reader.x"),
        ("reader", f"{NAME}.predictions", f"tidemill.{NAME}.score"),
        ("land", f"{NAME}.events", f"tidemill.{NAME}.land"),
        ("join", f"{NAME}.scored", f"tidemill.{NAME}.land"),
    ],
)
def test_a_read_with_the_wrong_role_or_in_a_foreign_group_is_refused(
    vault: Vault, role: str, topic: str, group: str
) -> None:
    options = {"group.id": group, "enable.auto.commit": False}
    consumer = Consumer(vault.client(role, **options))
    try:
        consumer.subscribe([topic])
        message = consumer.poll(30)
        assert message is not None
        assert message.error() is not None, message.value()
        assert message.error().code() in {
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
        }
    finally:
        consumer.close()


def test_a_foreign_transactional_id_is_refused(vault: Vault) -> None:
    """Else one role could fence another's workers, again and again."""
    foreign = {"transactional.id": f"tidemill-{NAME}-score-0", "transaction.timeout.ms": 5000}
    producer = Producer(vault.client("join", **foreign))
    with pytest.raises(KafkaException) as caught:
        producer.init_transactions(20)
    assert caught.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    with pytest.raises(KafkaUnavailable, match="TransactionalIdAuthorizationFailed"):
        announce(vault.as_("score"), pipeline=NAME, version="0" * 12, digest="", now_ms=1)


def test_only_an_operator_creates_topics_and_only_an_administrator_sets_rights(
    vault: Vault,
) -> None:
    topic = next(t for t in vault.pipeline.topics.all() if t.name.endswith(".events"))
    with pytest.raises(PreflightError, match="give the user CREATE"):
        create_topics(
            vault.as_("deliver"), [type(topic)(**{**_fields(topic), "name": f"{NAME}.more"})]
        )
    with pytest.raises(PreflightError, match="ALTER and DESCRIBE on the cluster"):
        present_rights(vault.as_("operator"), [f"User:{NAME}-score"])
    with pytest.raises(PreflightError, match="ALTER and DESCRIBE on the cluster"):
        set_rights(vault.as_("score"), grant=rights(vault.pipeline, "operator"), revoke=[])


def _fields(topic: object) -> dict[str, object]:
    return {name: getattr(topic, name) for name in topic.__slots__}


@pytest.mark.slow
def test_the_command_sets_what_is_missing_and_takes_back_what_is_beyond(vault: Vault) -> None:
    """What it prints is what holds afterwards; the second time there is nothing to do."""
    principal = "User:anna"
    beyond = rights(vault.pipeline, "producer", principal=principal)
    set_rights(vault.as_(ADMIN), grant=beyond, revoke=[])
    line = ["acl", vault.named.reference, "--role", "reader", "--principal", principal, "--json"]
    printed = json.loads(vault.tidemill(STRANGER, *line).stdout)
    first = json.loads(vault.tidemill(ADMIN, *line, "--apply").stdout)
    assert (len(first["granted"]), len(first["beyond"])) == (2, len(beyond))
    again = json.loads(vault.tidemill(ADMIN, *line, "--apply", "--revoke-others").stdout)
    assert (again["granted"], len(again["revoked"])) == ([], len(beyond))
    held = [
        [r.resource, r.name, r.operation] for r in present_rights(vault.as_(ADMIN), [principal])
    ]
    assert held == [[r["resource"], r["name"], r["operation"]] for r in printed["rights"]]
    refused = vault.tidemill("operator", *line, "--apply")
    assert (refused.returncode, "cluster" in refused.stderr) == (2, True), refused.stderr


def test_a_broker_without_an_authorizer_is_named(kafka: str, vault: Vault) -> None:
    """There the rights would be set nowhere."""
    with pytest.raises(PreflightError, match="StandardAuthorizer"):
        present_rights(type(vault.base)(kafka=kafka), ["User:anna"])


def test_nothing_is_read_without_a_right(vault: Vault) -> None:
    """Not even how many records there are."""
    options = {"group.id": f"{NAME}.reader.y", "enable.auto.commit": False}
    consumer = Consumer(vault.client(STRANGER, **options))
    with pytest.raises(KafkaException):
        consumer.get_watermark_offsets(TopicPartition(f"{NAME}.events", 0), timeout=20)
    consumer.close()
