"""What the permanent check of the books keeps of a round: see `streams.books.permanent_check`."""

from typing import Literal

import msgspec

from streams.books.sources import Finding

Kind = Literal["events", "labels", "examples"]


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A piece in which something was found.

    Attributes:
        kind: Of which topic.
        partition: Its partition.
        first: First offset.
        end: The one after the last.
        start: Of a piece of events: where its predictions begin.
        missing: Records that were missing when it was last looked at.
        doubled: Records that were there twice, or came from nowhere.
    """

    kind: Kind
    partition: int
    first: int
    end: int
    start: int = 0
    missing: int = 0
    doubled: int = 0


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where everything was looked at, by partition, and what was found.

    Attributes:
        events: Next offset of the events.
        predictions: Where the predictions of those events begin.
        labels: Next offset of the labels.
        examples: Next offset of the examples.
        suspects: What to look at again.
    """

    events: dict[int, int] = msgspec.field(default_factory=dict)
    predictions: dict[int, int] = msgspec.field(default_factory=dict)
    labels: dict[int, int] = msgspec.field(default_factory=dict)
    examples: dict[int, int] = msgspec.field(default_factory=dict)
    suspects: tuple[Suspect, ...] = ()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One round, as it is kept.

    Attributes:
        pipeline: Whose books.
        at_ms: When it ended.
        exact: Nothing is wrong in all that was ever looked at and still is there.
        exact_at_ms: When it last was so; None: never yet.
        events: Events that this round looked at for the first time.
        labels: Labels likewise.
        missing: Records that are missing now.
        doubled: Records that are there twice now, or came from nowhere.
        unchecked: Offsets of events that the scorers have behind them and this check before it.
        took_ms: How long the round took.
        findings: What this round found, new or again.
        cursor: Where the next one begins.
    """

    pipeline: str
    at_ms: int
    exact: bool
    exact_at_ms: int | None
    events: int = 0
    labels: int = 0
    missing: int = 0
    doubled: int = 0
    unchecked: int = 0
    took_ms: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)
    cursor: Cursor = msgspec.field(default_factory=Cursor)
