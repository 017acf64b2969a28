"""The label ledger once more, one record at a time with dicts and lists: slow, and plain to read."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from streams.ledger.rules import CLOSED_BYTES, ROW_BYTES, SHARE, Rules
from streams.ledger.waiting import WAITING_BYTES


@dataclass
class Entry:
    """A prediction that is not forgotten."""

    event_id: str
    num_bytes: int
    entered_ms: int
    state: str = "pending"
    label: float = 0.0
    revision: int = -1
    closed: bool = False


class NaiveLedger:
    """What `streams.ledger.core.Ledger` promises."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.clock_ms = 0
        self.predicted_ms = 0
        self.entries: dict[str, Entry] = {}
        self.waiting: list[tuple[str, float, int, int, int]] = []
        self.balance: Counter[str] = Counter()

    def turn(self, predictions: list[dict[str, Any]], labels: list[tuple]) -> list[tuple]:
        """The examples as (id, kind, label, previous, revision)."""
        out, opened = [], []
        for row in predictions:
            self.balance["predictions"] += 1
            known_ms = min(row["event_time"], row["produced_at"])
            self.clock_ms = max(self.clock_ms, known_ms)
            self.predicted_ms = max(self.predicted_ms, known_ms)
            if row["event_id"] in self.entries:
                self.balance["repeated"] += 1
                continue
            self.entries[row["event_id"]] = Entry(row["event_id"], size(row), self.clock_ms)
            opened.append(row["event_id"])
            out.append((row["event_id"], "pending", None, None, 0))
        for _id, _value, time_ms, _revision, record_ms in labels:
            self.clock_ms = max(self.clock_ms, min(time_ms, record_ms))
        self.balance["labels"] += len(labels)
        released = [one for event_id in opened for one in self.waiting if one[0] == event_id]
        self.waiting = [one for one in self.waiting if one[0] not in opened]
        for event_id, value, time_ms, revision, _ in [*released, *labels]:
            out += self.label(event_id, value, time_ms, revision)
        out += self.pass_horizon()
        out += self.evict()
        self.leave()
        return out

    def label(self, event_id: str, value: float, time_ms: int, revision: int) -> list[tuple]:
        entry = self.entries.get(event_id)
        if entry is None:
            self.waiting.append((event_id, value, time_ms, revision, self.clock_ms))
            return []
        if entry.closed:
            self.balance["late"] += 1
            return []
        if revision <= entry.revision:
            self.balance["duplicates"] += 1
            return []
        self.balance["labelled"] += entry.revision < 0
        known, previous = entry.state in {"provisional", "final", "corrected"}, entry.label
        entry.label, entry.revision = value, revision
        if known and value == previous:
            self.balance["confirmed"] += 1
            entry.state = "corrected" if entry.state == "corrected" else "final"
            return []
        self.balance["joined"] += 1
        corrects = known or entry.state == "expired"
        self.balance["corrected"] += corrects
        entry.state = "corrected" if corrects else "final"
        return [(event_id, entry.state, value, previous if known else None, revision)]

    def pass_horizon(self) -> list[tuple]:
        out = []
        for entry in self.entries.values():
            passed = entry.entered_ms + self.rules.horizon_ms <= self.clock_ms
            if passed and entry.state == "pending" and not entry.closed:
                silent = self.rules.silence
                entry.state = "expired" if silent is None else "provisional"
                entry.label = silent or 0.0
                self.balance[entry.state] += 1
                out.append((entry.event_id, entry.state, silent, None, 0))
        return out

    def evict(self) -> list[tuple]:
        out = []
        while True:
            held = [entry for entry in self.entries.values() if not entry.closed]
            if len(held) <= self.rules.rows_max and (
                sum(entry.num_bytes for entry in held) <= self.rules.bytes_max
            ):
                return out
            held[0].closed = True
            self.balance["evicted"] += 1
            if held[0].state == "pending":
                out.append((held[0].event_id, "evicted", None, None, 0))

    def leave(self) -> None:
        rules = self.rules
        open_ms = rules.horizon_ms + rules.corrections_ms
        for entry in self.entries.values():
            if not entry.closed and entry.entered_ms + open_ms <= self.clock_ms:
                entry.closed = True
                self.balance["closed"] += 1
        known_ms = open_ms + rules.corrections_ms
        for entry in list(self.entries.values()):
            if entry.closed and entry.entered_ms + known_ms <= self.clock_ms:
                del self.entries[entry.event_id]
        while True:
            closed = [entry for entry in self.entries.values() if entry.closed]
            held = sum(len(entry.event_id.encode()) + CLOSED_BYTES for entry in closed)
            if len(closed) <= rules.rows_max and held <= rules.bytes_max // SHARE:
                break
            del self.entries[closed[0].event_id]
            self.balance["forgotten"] += 1
        kept = [one for one in self.waiting if one[4] + rules.horizon_ms > self.predicted_ms]
        self.balance["orphans_expired"] += len(self.waiting) - len(kept)
        while len(kept) > rules.waiting_rows_max or (
            sum(WAITING_BYTES + len(one[0]) for one in kept) > rules.bytes_max // SHARE
        ):
            kept.pop(0)
            self.balance["orphans_evicted"] += 1
        self.waiting = kept

    def counts(self) -> dict[str, int]:
        """As the ledger's own, without those that are 0."""
        held = Counter(f"open_{e.state}" for e in self.entries.values() if not e.closed)
        found = {**self.balance, **held, "waiting": len(self.waiting), "clock_ms": self.clock_ms}
        return {name: number for name, number in found.items() if number}


def size(row: dict[str, Any]) -> int:
    """What a prediction counts for."""
    texts = [row["event_id"], row["key"], row["model_version"], *row["category"]]
    words = sum(len(text.encode()) for text in texts)
    return ROW_BYTES + words + 4 * len(row["numeric"]) + 4 * len(row["category"])
