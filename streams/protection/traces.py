"""Where a key is in the topics of a pipeline: read from end to end, nothing believed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dead_letters import read_dead_letter
from schemas.errors import SchemaError
from schemas.examples import read_examples
from schemas.pipeline import Pipeline
from schemas.scored import read_scored
from schemas.undecodable import UNDECODABLE
from streams.books.committed import CommittedReader, Record

_decode = msgspec.json.Decoder(dict[str, object])

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(slots=True)
class Trace:
    """The records of one topic that are about the key.

    Attributes:
        places: Where they are.
        newest_ms: Broker's or producer's time stamp of the newest, by partition.
    """

    places: set[Place] = field(default_factory=set)
    newest_ms: dict[int, int] = field(default_factory=dict)

    def add(self, partition: int, record: Record) -> None:
        """Note one record."""
        self.places.add((partition, record.offset))
        newest = max(self.newest_ms.get(partition, 0), record.timestamp)
        self.newest_ms[partition] = newest

    def newest(self) -> dict[int, int]:
        """The highest offset of each partition."""
        found: dict[int, int] = {}
        for partition, offset in self.places:
            found[partition] = max(found.get(partition, -1), offset)
        return found


@dataclass(slots=True)
class Traces:
    """All of a key's traces in the topics.

    Attributes:
        event_ids: Ids of its events, as far as topics still have them.
        topics: The records of each topic, by its name.
        letters: Topic, partition and offset of the sources of its dead letters.
    """

    event_ids: set[str] = field(default_factory=set)
    topics: dict[str, Trace] = field(default_factory=dict)
    letters: set[tuple[str, int, int]] = field(default_factory=set)


async def find_traces(
    reader: CommittedReader, pipeline: Pipeline, key: str, *, event_ids: Iterable[str] = ()
) -> Traces:
    """Read every topic that may name the key. ``event_ids`` are known from elsewhere.

    Bounded by what the topics hold; nothing but the places found is kept in memory.

    Raises:
        KafkaUnavailable: a topic could not be read to its end.
        PreflightError: a topic does not exist, or may not be read.
    """
    found = Traces(event_ids=set(event_ids))
    topics = pipeline.topics
    for topic, mine in (
        (topics.events.name, _Json(key, found, pipeline.key)),
        (topics.predictions.name, _Json(key, found, "key")),
        (topics.scored.name, _Arrow(key, found, read_scored)),
        (topics.labels.name, _Labels(key, found)),
        (topics.examples.name, _Arrow(key, found, read_examples)),
        (topics.dead_letters.name, _Letters(key, found, pipeline.key)),
    ):
        trace = found.topics[topic] = Trace()
        async for partition, records in reader.read(topic, await reader.decided_spans(topic)):
            for record in records:
                if mine(record):
                    trace.add(partition, record)
    return found


class _Json:
    """Says of JSON records whether they are about the key, and remembers the ids in them."""

    def __init__(self, key: str, found: Traces, name: str) -> None:
        self._key, self._bytes, self._found, self._name = key, key.encode(), found, name

    def __call__(self, record: Record) -> bool:
        value = record.value or b""
        mine: bool = record.key == self._bytes
        if not mine and self._bytes not in value and b"\\" not in value:  # nor spelled in escapes
            return False
        content = _json(value)
        mine = mine or content.get(self._name) == self._key
        if mine and isinstance(event_id := content.get("event_id"), str):
            self._found.event_ids.add(event_id)
        return mine


class _Labels:
    """The same of labels, which name an event and no key."""

    def __init__(self, key: str, found: Traces) -> None:
        self._bytes, self._found = key.encode(), found

    def __call__(self, record: Record) -> bool:
        event_id = _json(record.value).get("event_id")
        return record.key == self._bytes or event_id in self._found.event_ids


class _Arrow:
    """The same of batches of rows, which have no Kafka key."""

    def __init__(self, key: str, found: Traces, read: Callable[[bytes], pa.RecordBatch]) -> None:
        self._key, self._bytes, self._found, self._read = key, key.encode(), found, read

    def __call__(self, record: Record) -> bool:
        value = record.value or b""
        if self._bytes not in value:  # our Arrow streams are not compressed
            return False
        try:
            batch = self._read(value)
        except SchemaError:
            return False
        mine = pc.equal(batch["key"], self._key)
        self._found.event_ids.update(batch["event_id"].filter(mine).to_pylist())
        return bool(pc.any(mine).as_py())


class _Letters(_Json):
    """The same of dead letters: by their bytes, or by the record that they were."""

    def __call__(self, record: Record) -> bool:
        letter = read_dead_letter(record.key, record.value, record.headers)
        source = self._found.topics.get(letter.topic)
        of_mine = source is not None and (letter.partition, letter.offset) in source.places
        mine = super().__call__(record) or of_mine
        if mine:
            self._found.letters.add((letter.topic, letter.partition, letter.offset))
        return mine


def _json(value: bytes | None) -> dict[str, object]:
    try:
        return _decode.decode(value or b"")
    except UNDECODABLE:
        return {}
