"""What the ledger of one pipeline waits for, and how much of it it may hold."""

from dataclasses import dataclass

import msgspec

ROW_BYTES = 180
"""What a prediction takes beside its texts and its features: times, scores, state, index. Measured:
315 bytes of memory for a row of 24 floats and 38 letters."""
CLOSED_BYTES = 40
"""What a closed id takes beside its text."""
SHARE = 4
"""Waiting labels and closed ids may each take one ``SHARE``-th of the bytes on top."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules under which a ledger decides. They are part of its snapshots.

    Attributes:
        horizon_ms: How long after the event its truth is waited for.
        silence: The label that is assumed then; None: none is.
        corrections_ms: How long after the horizon a truth still counts.
        rows_max: Predictions that are held with their features.
        bytes_max: Their bytes, as `ROW_BYTES` counts them.
        waiting_rows_max: Labels that wait for their prediction.
        label_bytes_max: Largest label that is decoded.
    """

    horizon_ms: int
    silence: float | None = None
    corrections_ms: int = 0
    rows_max: int = 1_000_000
    bytes_max: int = 400_000_000
    waiting_rows_max: int = 100_000
    label_bytes_max: int = 65_536


@dataclass(slots=True)
class Balance:
    """Where every prediction and every label of one partition is; totals since its beginning.

    Attributes:
        predictions: Predictions read.
        repeated: Predictions of an event id that the ledger knew already; nothing waits for them.
        labels: Labels read, without those that are dead letters.
        labelled: Predictions that got a label.
        joined: Labels that gave a prediction its truth, or another one.
        confirmed: Labels that said again, with a higher revision or after the horizon, what held.
        duplicates: Labels whose revision was known already, or a higher one.
        late: Labels for a prediction that takes no more corrections, or was evicted.
        orphans_expired: Labels whose prediction did not come within the horizon.
        orphans_evicted: Labels that could not wait because too many did.
        provisional: Examples sent because the horizon passed and silence means something.
        expired: Examples sent because it passed and silence means nothing.
        corrected: Examples sent because another truth came.
        evicted: Predictions given up before their time, because the ledger was full.
        forgotten: Closed ids given up before their time; a repeated event would count as new.
        closed: Predictions that take no more corrections, by their last state.
    """

    predictions: int = 0
    repeated: int = 0
    labels: int = 0
    labelled: int = 0
    joined: int = 0
    confirmed: int = 0
    duplicates: int = 0
    late: int = 0
    orphans_expired: int = 0
    orphans_evicted: int = 0
    provisional: int = 0
    expired: int = 0
    corrected: int = 0
    evicted: int = 0
    forgotten: int = 0
    closed: int = 0
