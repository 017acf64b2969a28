"""Erases what is known of one key, and says what cannot be erased.

Kafka cannot delete one record. Records of a person leave a topic by its retention, or at once
together with everybody else's that are older: only where every step has done with them, so that
nothing is lost but history. The store can delete rows, and does; its parts are rewritten, and the
same question is asked again.

No topic of ours is compacted by a person's key, so there is nothing to send a tombstone to.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kafka import TopicPartition
from kafka.errors import KafkaError

from models.signing import Keyring, load_keyring
from schemas.errors import KafkaUnavailable, SignatureRefused, StoreUnavailable
from schemas.pipeline import Pipeline
from schemas.receipts import Receipt, SignedReceipt, TopicErasure, encode_receipt
from schemas.settings import Settings
from schemas.topics import DAY_MS, Topic
from streams.books.balance import join_group, learn_group, pointers
from streams.books.committed import CommittedReader, committed
from streams.books.reconcile import land_group, score_group
from streams.control.audit import append
from streams.control.writer import who
from streams.protection.traces import Traces, find_traces
from streams.store.client import connect
from streams.store.erasing import Wanted, check_count, erase_rows, known_event_ids, wanted_rows
from streams.transport.administration import administration, present_retention_ms

SEGMENT_MS = 7 * DAY_MS
"""A broker deletes whole files. One is closed after ``segment.ms``, a week by default, and goes
when its newest record is past the retention."""
_PURPOSE = "erasure receipt"

NOT_ERASED = (
    (
        "The label ledger: open predictions lie in its snapshots until their horizon and "
        "corrections are over ({ledger}), then they are overwritten."
    ),
    (
        "Models and online learners: they hold weights, vocabularies of frequent words and counts, "
        "no records. What they learned from the key stays in the weights until they are trained "
        "anew."
    ),
    "Sums: evaluations, alarms and metrics count events without naming them.",
    "Backups, and copies that other consumers made.",
    "The disks: brokers and store remove files some minutes after nobody can read them any more.",
)


@dataclass(frozen=True, slots=True)
class Offsets:
    """Up to where every step has done with the records of each topic and partition."""

    done: Mapping[tuple[str, int], int]
    landed: Mapping[tuple[str, int], int]


def erase(
    settings: Settings, pipeline: Pipeline, key: str, *, now_ms: int, delete_records: bool = False
) -> SignedReceipt:
    """Erase ``key``: rows at once, records by retention or, with ``delete_records``, at once too.

    Nothing of the key may be on its way: stop sending first. The order: everything is found, the
    rows are deleted, the records, then the audit entry. What breaks off is simply done again.

    Raises:
        StoreUnavailable: rows have not landed yet, or the store does not answer. Try again.
        KafkaUnavailable: no broker answered.
        SetupError: it is hardly a person's key, or a right is missing.
    """
    client = connect(settings)
    try:
        known = known_event_ids(client, pipeline.name, key)
        traces, offsets = asyncio.run(_look(settings, pipeline, key, known))
        check_count(len(traces.event_ids))
        _check_landed(pipeline, traces, offsets)
        salt = secrets.token_hex(16)
        tables = erase_rows(
            client,
            _wanted(pipeline, key, traces),
            receipt=salt,
            at_ms=now_ms,
            cluster=settings.clickhouse_cluster,
        )
    finally:
        client.close()
    topics = list(_topics(settings, pipeline, traces, offsets, delete=delete_records))
    if delete_records:
        _delete_records(settings, topics)
    receipt = Receipt(
        pipeline=pipeline.name,
        key=key,
        at_ms=now_ms,
        by=who(settings),
        salt=salt,
        topics=topics,
        tables=tables,
        not_erased=list(_not_erased(pipeline)),
    )
    signed = sign_receipt(load_keyring(settings.signing_key_file, settings.trusted_keys), receipt)
    append(
        settings,
        action="erase",
        subject=pipeline.name,
        at_ms=now_ms,
        before={"rows": sum(t.rows for t in tables), "records": sum(t.records for t in topics)},
        after={"rows": sum(t.left for t in tables), "receipt": signed.digest},
    )
    return signed


def sign_receipt(keyring: Keyring, receipt: Receipt) -> SignedReceipt:
    """The receipt with its digest and our signature."""
    digest = hashlib.sha256(encode_receipt(receipt)).hexdigest()
    signature = keyring.sign(_PURPOSE, digest.encode()).hex()
    return SignedReceipt(receipt=receipt, digest=digest, signature=signature)


def check_receipt(keyring: Keyring, signed: SignedReceipt) -> str:
    """The public key that signed it.

    Raises:
        SignatureRefused: it was changed, or nobody known here signed it.
    """
    digest = hashlib.sha256(encode_receipt(signed.receipt)).hexdigest()
    try:
        envelope = bytes.fromhex(signed.signature)
    except ValueError as cause:
        raise SignatureRefused(f"could not check a receipt: {cause}") from cause
    content, signer = keyring.open_history(_PURPOSE, envelope)
    if not content == digest.encode() == signed.digest.encode():
        raise SignatureRefused("could not trust a receipt: it was changed after it was signed")
    return signer


async def _look(
    settings: Settings, pipeline: Pipeline, key: str, known: set[str]
) -> tuple[Traces, Offsets]:
    offsets = await _offsets(settings, pipeline)
    async with CommittedReader(settings) as reader:
        return await find_traces(reader, pipeline, key, event_ids=known), offsets


async def _offsets(settings: Settings, pipeline: Pipeline) -> Offsets:
    from streams.workers.learn import snapshot_base

    topics, name = pipeline.topics, pipeline.name
    score, land, join, learn = [
        await committed(settings, group(name))
        for group in (score_group, land_group, join_group, learn_group)
    ]
    landed = {place: offset for place, (offset, _metadata) in land.items()}
    bases = pointers(topics.scored.name, join)
    done: dict[tuple[str, int], int] = {}
    for topic in _personal(pipeline):
        for p in range(topic.partitions):
            place = (topic.name, p)
            waits = []
            if topic in {topics.events, topics.labels}:
                waits.append(score.get(place, (0, ""))[0])
            if topic in topics.landed:
                waits.append(landed.get(place, 0))
            if topic == topics.scored:
                waits.append(bases[p].scored_offset if p in bases else 0)
            if topic == topics.labels:
                waits.append(bases[p].labels_offset if p in bases else 0)
            if topic == topics.examples:
                waits.append(snapshot_base(learn.get(place, (0, ""))[1]))
            done[place] = min(waits, default=1 << 62)
    return Offsets(done, landed)


def _personal(pipeline: Pipeline) -> tuple[Topic, ...]:
    """The topics whose records name a key or an event."""
    topics = pipeline.topics
    return (
        topics.events,
        topics.labels,
        topics.predictions,
        topics.scored,
        topics.examples,
        topics.dead_letters,
    )


def _check_landed(pipeline: Pipeline, traces: Traces, offsets: Offsets) -> None:
    """Rows that land after the tables were cleaned would stay."""
    for topic in pipeline.topics.landed:
        trace = traces.topics.get(topic.name)
        for partition, newest in (trace.newest() if trace else {}).items():
            committed_to = offsets.landed.get((topic.name, partition), 0)
            if committed_to <= newest:
                raise StoreUnavailable(
                    f"could not erase yet: {topic.name}/{partition} has a record of the key at "
                    f"offset={newest}, rows are there up to {committed_to}. Let the lander catch "
                    "up (`tidemill status`), then try again."
                )
    events = traces.topics[pipeline.topics.events.name]
    for partition, newest in events.newest().items():
        scored_to = offsets.done[pipeline.topics.events.name, partition]
        if scored_to <= newest:
            raise StoreUnavailable(
                f"could not erase yet: an event of the key at offset={newest} of partition "
                f"{partition} is not scored. Let the scorers catch up, then try again."
            )


def _wanted(pipeline: Pipeline, key: str, traces: Traces) -> list[Wanted]:
    topics = pipeline.topics
    names = {"events": topics.events, "labels": topics.labels, "examples": topics.examples}
    return wanted_rows(
        pipeline.name,
        key,
        traces.event_ids,
        topics={name: topic.name for name, topic in names.items()},
        label_places=traces.topics[topics.labels.name].places,
        letters=traces.letters,
    )


def _topics(
    settings: Settings, pipeline: Pipeline, traces: Traces, offsets: Offsets, *, delete: bool
) -> Iterator[TopicErasure]:
    kept_ms = present_retention_ms(settings, _personal(pipeline))
    for topic in _personal(pipeline):
        trace, kept = traces.topics[topic.name], kept_ms[topic.name]
        for partition, newest in sorted(trace.newest().items()):
            done = offsets.done[topic.name, partition]
            held_back = ""
            if delete and done <= newest:
                held_back = (
                    f"a restart would read again from offset {done}; it moves on with the next "
                    "snapshot. Try again then."
                )
            yield TopicErasure(
                topic=topic.name,
                partition=partition,
                records=sum(place[0] == partition for place in trace.places),
                newest_offset=newest,
                deleted=delete and not held_back,
                gone_by_ms=-1 if kept < 0 else trace.newest_ms[partition] + kept + SEGMENT_MS,
                held_back=held_back,
            )


def _delete_records(settings: Settings, topics: list[TopicErasure]) -> None:
    cut = {TopicPartition(t.topic, t.partition): t.newest_offset + 1 for t in topics if t.deleted}
    if not cut:
        return
    with administration(settings) as client:
        try:
            client.delete_records(cut)
        except KafkaError as cause:
            raise KafkaUnavailable(
                f"could not delete records: {cause!r}. The rows are deleted; try again for the "
                "topics. The user needs DELETE on them, as role operator has it."
            ) from cause
    asyncio.run(_check_deleted(settings, topics))


async def _check_deleted(settings: Settings, topics: list[TopicErasure]) -> None:
    async with CommittedReader(settings) as reader:
        for name in {t.topic for t in topics if t.deleted}:
            spans = await reader.spans(name)
            for t in topics:
                if t.topic == name and t.deleted and spans[t.partition].first <= t.newest_offset:
                    raise KafkaUnavailable(
                        f"could not delete records: {name}/{t.partition} still begins at "
                        f"{spans[t.partition].first}. Try again."
                    )


def _not_erased(pipeline: Pipeline) -> Iterator[str]:
    days = (pipeline.horizon_ms + pipeline.corrections_ms) / DAY_MS
    for sentence in NOT_ERASED:
        yield sentence.format(ledger=f"{days:g} days after the event")
