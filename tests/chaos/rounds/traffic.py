"""Sends flights and their labels while everything breaks: in order and not, twice, late, corrected,
and mixed with records that nobody can read."""

import asyncio
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.replay import Encoder, Pace, Replay, history_slice

BEAT_S, CHUNK_RECORDS = 0.1, 128
"""Bursts: a trickle would make as many transactions as there are turns in a second, in every stage,
and keep the machine so busy that pauses say nothing about recovery."""
BROKEN = (
    None,
    b"",
    b"\xff\xfe\x00",
    b"{",
    b'{"event_id": 7}',
    b"[1, 2, 3]",
    b"null",
    b'{"event_id": "' + b"x" * 70_000 + b'"}',
)
"""What a broken record holds; the last is over `event_bytes_max`."""

BROKEN_SHARE, TWICE_SHARE, SHUFFLED_SHARE = 0.005, 0.01, 0.2
LATE_SHARE, CORRECTED_SHARE, HELD_RECORDS = 0.05, 0.03, 4_000
SEND_S_MAX = 120.0

Record = tuple[str, bytes | None, bytes | None, int]
"""Topic, key, value, partition."""


@dataclass
class Traffic:
    """Sends at ``rate`` events per second until stopped; what a broken producer loses, it loses
    before it is in a topic, so nothing here says how much there must be: the topics do."""

    pipeline: Pipeline
    settings: Settings
    seed: str
    rate: float
    events_max: int
    sent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _error: list[BaseException] = field(default_factory=list)
    _held: list[tuple[int, Record]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        table = history_slice(self.pipeline, events=self.events_max, skip=None, start_ms=None)
        self._table = table
        pace = Pace(events_per_second=self.rate)
        self._schedule = Replay(self.pipeline, self.settings, table, pace).schedule()
        self._encoder = Encoder(self.pipeline, table)
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._position = 0

    @property
    def lasts_s(self) -> float:
        """How long there is something to send."""
        return float(self._schedule.due_s[-1])

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self._error:
            raise self._error[0]

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, send what was held back, and wait for the acknowledgements."""
        self._stop.set()
        self._thread.join(SEND_S_MAX)
        assert not self._thread.is_alive(), "the producer of a round hangs"
        self.check()

    def more(self, events: int) -> None:
        """Send that many events, and what labels are due by then; returns when acknowledged."""
        asyncio.run(self._few(events))

    def _run(self) -> None:
        try:
            asyncio.run(self._flow())
        except BaseException as cause:
            self._error.append(cause)

    async def _few(self, events: int) -> None:
        async with self._producer() as producer:
            until = min(self._position + events, len(self._schedule.row))
            await self._send(producer, self._records(self._position, until))
            self._position = until

    def _producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self.settings.kafka_client_options(), acks="all", enable_idempotence=True,
            request_timeout_ms=5_000,
        )  # fmt: skip

    async def _flow(self) -> None:
        loop, began = asyncio.get_running_loop(), None
        while not self._stop.is_set():
            try:
                async with self._producer() as producer:
                    while not self._stop.is_set():
                        began = began or loop.time() - self._schedule.due_s[self._position]
                        due = self._schedule.due(self._position, loop.time() - began)
                        due = min(due, CHUNK_RECORDS)
                        await asyncio.sleep(BEAT_S)
                        if not due:
                            continue
                        assert self._position + due < len(self._schedule.row), "out of flights"
                        records = self._records(self._position, self._position + due)
                        self._position += due
                        await self._send(producer, records)
            except (KafkaError, TimeoutError):
                began = None  # an outage is not caught up with: the pace stays
                await asyncio.sleep(0.5)

    async def _send(self, producer: AIOKafkaProducer, records: list[Record]) -> None:
        acknowledged: list[Any] = [
            await producer.send(topic, value, key=key, partition=partition)
            for topic, key, value, partition in records
        ]
        await asyncio.wait_for(asyncio.gather(*acknowledged), 30.0)
        self.sent += len(records)

    def _records(self, first: int, end: int) -> list[Record]:
        """The records of these places in the schedule, and what else comes with them."""
        rows, labels = self._schedule.row[first:end], self._schedule.is_label[first:end]
        topics, dice = self.pipeline.topics, self._dice
        found: list[Record] = []
        for is_label, topic, encode in (
            (False, topics.events.name, self._encoder.events),
            (True, topics.labels.name, self._encoder.labels),
        ):
            chosen = rows[labels == is_label]
            for row, value in zip(chosen.tolist(), encode(np.asarray(chosen)), strict=True):
                place = self._encoder.key_of_row[row]
                key = self._encoder.keys[place]
                partition = int(self._encoder.partition_of_key[place])
                record = (topic, key, value, partition)
                if is_label and dice.random() < LATE_SHARE:
                    self._held.append((first + dice.randint(1, HELD_RECORDS), record))
                    continue
                found.append(record)
                if dice.random() < TWICE_SHARE:
                    found.append(record)
                if dice.random() < BROKEN_SHARE:
                    found.append((topic, key, dice.choice(BROKEN), partition))
                if is_label and dice.random() < CORRECTED_SHARE:
                    again = (topic, key, _corrected(value), partition)
                    self._held.append((first + dice.randint(1, HELD_RECORDS), again))
        due = [record for at, record in self._held if at <= first]
        self._held = [(at, record) for at, record in self._held if at > first]
        found += due
        if dice.random() < SHUFFLED_SHARE:
            dice.shuffle(found)
        return found


def _corrected(value: bytes) -> bytes:
    label = msgspec.json.decode(value)
    label |= {"value": 1 - label["value"], "revision": label.get("revision", 0) + 1}
    return msgspec.json.encode(label)
