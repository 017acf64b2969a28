"""Who needs which rights on the brokers: the least that each role works with.

A *principal* is what a broker knows a client by: ``User:`` and the SASL name. One principal per
role, so that a stolen password of one opens nothing of another.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from schemas.pipeline import Pipeline
from schemas.topics import ALERTS, AUDIT, MODELS, Topic

Operation = Literal["READ", "WRITE", "CREATE", "DELETE", "DESCRIBE", "ALTER_CONFIGS"]
"""READ, WRITE and DELETE bring DESCRIBE of the same resource; ALTER_CONFIGS brings reading them."""

ROLES: Final[Mapping[str, str]] = {
    "producer": "sends events and labels",
    "score": "scorers",
    "join": "joiners",
    "learn": "learners",
    "land": "landers, which also need a user of the store that may write",
    "deliver": "`tidemill deliver`, `models judge`, and people who promote, hold or roll back",
    "trainer": "`tidemill train`: asks which version serves, writes down what it registered",
    "dashboard": "`dashboard`, `metrics`, `status`, `tail`, `reconcile`: changes nothing",
    "alerts": "`tidemill alerts run`: reads everything, writes notices",
    "reader": "reads predictions, in groups named <pipeline>.reader...",
    "operator": "creates topics, sets their retention, erases, and writes the audit log",
}
"""What each role is for."""

CONTROL_ID = "tidemill-control"
"""The transactional id of whoever announces or audits: the newest such writer fences the others."""


class Right(msgspec.Struct, frozen=True, order=True):
    """One access control entry: ``principal`` may do ``operation``, from any host.

    Attributes:
        principal: ``User:name``.
        resource: Kind of what it is about.
        name: Its name, or with ``prefixed`` the beginning of names.
        prefixed: Whether it is about every name that begins so.
        operation: What may be done.
    """

    principal: str
    resource: Literal["TOPIC", "GROUP", "TRANSACTIONAL_ID", "CLUSTER"]
    name: str
    prefixed: bool
    operation: Operation


def principal_of(pipeline: str, role: str) -> str:
    """The principal that a role has unless another one is named."""
    return f"User:{pipeline}-{role}"


def rights(pipeline: Pipeline, role: str, *, principal: str = "") -> list[Right]:
    """The rights of ``role`` for ``pipeline``, sorted.

    Names of workers must begin with ``<pipeline>-<role>-``, as `tidemill up` and workers without a
    ``--name`` have them: their transactional ids begin so.
    """
    assert role in ROLES, role
    book = _Book(principal or principal_of(pipeline.name, role))
    topics, name = pipeline.topics, pipeline.name
    if role == "producer":
        book.topics("WRITE", topics.events, topics.labels)
    elif role == "score":
        book.worker(name, role, topics.events, topics.labels)
        book.topics("READ", topics.learners)
        book.add("TOPIC", MODELS, "READ")
        book.topics("WRITE", topics.predictions, topics.scored, topics.dead_letters)
    elif role == "join":
        book.worker(name, role, topics.scored, topics.labels)
        book.topics("WRITE", topics.examples)
    elif role == "learn":
        book.worker(name, role, topics.examples)
        book.topics("READ", topics.learners)
        written = (topics.evaluations, topics.alarms, topics.learners, topics.dead_letters)
        book.topics("WRITE", *written)
    elif role == "land":
        book.topics("READ", *topics.landed)
        book.add("GROUP", f"tidemill.{name}.land", "READ")
    elif role == "deliver":
        book.topics("READ", topics.examples)
        book.control()
    elif role == "trainer":
        book.add("TOPIC", MODELS, "READ")
        book.audited()
    elif role == "dashboard":
        book.add("TOPIC", f"{name}.", "READ", prefixed=True)
        for topic in (MODELS, AUDIT):
            book.add("TOPIC", topic, "READ")
        book.add("GROUP", f"tidemill.{name}.", "DESCRIBE", prefixed=True)
    elif role == "alerts":
        book.add("TOPIC", f"{name}.", "READ", prefixed=True)
        book.add("TOPIC", ALERTS, "WRITE")
        book.add("GROUP", f"tidemill.{name}.", "DESCRIBE", prefixed=True)
    elif role == "reader":
        book.topics("READ", topics.predictions)
        book.add("GROUP", f"{name}.reader", "READ", prefixed=True)
    else:
        book.operator(name)
    return sorted(book.found)


class _Book:
    """Collects the rights of one principal."""

    def __init__(self, principal: str) -> None:
        self._principal = principal
        self.found: set[Right] = set()

    def add(
        self,
        resource: Literal["TOPIC", "GROUP", "TRANSACTIONAL_ID", "CLUSTER"],
        name: str,
        *operations: Operation,
        prefixed: bool = False,
    ) -> None:
        for operation in operations:
            self.found.add(Right(self._principal, resource, name, prefixed, operation))

    def topics(self, operation: Operation, *topics: Topic) -> None:
        for topic in topics:
            self.add("TOPIC", topic.name, operation)

    def worker(self, pipeline: str, role: str, *read: Topic) -> None:
        """What every worker with transactions needs: its topics, its group, its ids."""
        self.topics("READ", *read)
        self.add("GROUP", f"tidemill.{pipeline}.{role}", "READ")
        ids = f"tidemill-{pipeline}-{role}-"
        self.add("TRANSACTIONAL_ID", ids, "WRITE", prefixed=True)

    def control(self) -> None:
        """To announce, and to write down that it was announced."""
        self.add("TOPIC", MODELS, "READ", "WRITE")
        self.audited()

    def audited(self) -> None:
        """To write down what was done."""
        self.add("TOPIC", AUDIT, "READ", "WRITE")
        self.add("TRANSACTIONAL_ID", CONTROL_ID, "WRITE")

    def operator(self, pipeline: str) -> None:
        wide: tuple[Operation, ...] = ("READ", "CREATE", "DELETE", "ALTER_CONFIGS")
        self.add("TOPIC", f"{pipeline}.", *wide, prefixed=True)
        for topic in (MODELS, AUDIT, ALERTS):
            self.add("TOPIC", topic, "CREATE", "DESCRIBE", "ALTER_CONFIGS")
        self.add("GROUP", f"tidemill.{pipeline}.", "DESCRIBE", prefixed=True)
        self.control()
