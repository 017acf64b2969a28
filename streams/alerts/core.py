"""From rules, readings and the clock to states and notices: pure, so that every case is a test.

    ok -> pending -> firing -> resolved -> (pending again, or forgotten)

A condition must hold for `lasting` without a break before anybody is told, and be over for
`clearing` before it counts as over. A reading that could not be had changes nothing: what fires
goes on firing, and what is pending begins anew, because nobody saw that it lasted.

A *notice* is one thing that people are told: that it began, that it lasts (every `repeat`), that it
is over. Notices are counted in the state, which is kept; so a runner that starts again knows what
was said, and to whom.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from schemas.alerts import AlertRule, Severity

STACK = "_stack"
"""In the place of a pipeline's name, whose first character is a letter: what is about all of it."""
GONE = "the rule is gone"

Key = tuple[str, str]
"""Pipeline and rule."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One number, as it was when it was asked for.

    Attributes:
        value: None: there is nothing to say yet, which breaches nothing.
        detail: Evidence for a person.
        error: Why it could not be had; empty if it could.
    """

    value: float | None = None
    detail: str = ""
    error: str = ""


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. Moments are Unix milliseconds; 0 where it has not come to that.

    Attributes:
        pipeline: Whose; `STACK` for what is of none.
        rule: The name of its rule.
        state: ``ok``, ``pending`` (it holds, not long enough yet), ``firing`` or ``resolved``.
        since_ms: In this state since.
        started_ms: Since when the condition holds, or held when it last fired.
        over_ms: Since when it is over while it still counts as firing.
        severity: As in its rule.
        value: The newest number.
        bound: The condition, in words.
        detail: The newest evidence.
        summary: What it means.
        notices: What people were told, ever: a number that only grows.
        noticed_ms: When they were last told.
        told: Whether they were told that it fires, this time.
        delivered: By channel, up to which notice was delivered or given up.
        sequence: Grows with every change of this record.
    """

    pipeline: str
    rule: str
    state: Literal["ok", "pending", "firing", "resolved"] = "ok"
    since_ms: int = 0
    started_ms: int = 0
    over_ms: int = 0
    severity: Severity = "warning"
    value: float | None = None
    bound: str = ""
    detail: str = ""
    summary: str = ""
    notices: int = 0
    noticed_ms: int = 0
    told: bool = False
    delivered: dict[str, int] = msgspec.field(default_factory=dict)
    sequence: int = 0

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.pipeline, self.rule


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """A wish not to be told for a while; what fires is still shown.

    Attributes:
        id: Short, for `tidemill alerts silence --end`.
        pipeline: About which pipeline; ``*`` for any.
        rule: About which rule; ``*`` for any.
        at_ms: When it was asked for.
        until_ms: When it ends.
        reason: Why.
        author: Who.
    """

    id: str
    pipeline: str
    rule: str
    at_ms: int
    until_ms: int
    reason: str
    author: str

    def covers(self, key: Key, now_ms: int) -> bool:
        """Whether it holds now and is about ``key``."""
        pipeline, rule = key
        about = self.pipeline in {"*", pipeline} and self.rule in {"*", rule}
        return about and self.at_ms <= now_ms < self.until_ms


@dataclass(frozen=True, slots=True)
class Asked:
    """A rule of one pipeline."""

    pipeline: str
    rule: AlertRule

    @property
    def key(self) -> Key:
        """What its alert is found by."""
        return self.pipeline, self.rule.name


def advance(
    asked: Iterable[Asked],
    states: Mapping[Key, AlertState],
    readings: Mapping[Key, Reading],
    silences: Iterable[Silence],
    *,
    now_ms: int,
) -> dict[Key, AlertState]:
    """Every alert after one look, those without a new reading unchanged.

    What changed in more than its newest number has a higher ``sequence``; what people must be told
    has one notice more. An alert whose rule is gone is over.
    """
    silent = list(silences)
    after = dict(states)
    known = set()
    for one in asked:
        known.add(one.key)
        before = states.get(one.key) or AlertState(pipeline=one.pipeline, rule=one.rule.name)
        reading = readings.get(one.key)
        if reading is None:
            continue
        quiet = any(silence.covers(one.key, now_ms) for silence in silent)
        state = step(one.rule, before, reading, silenced=quiet, now_ms=now_ms)
        after[one.key] = _counted(before, state)
    for key, before in states.items():
        if key not in known and before.state in {"pending", "firing"}:
            after[key] = _counted(before, _over(before, now_ms, detail=GONE))
    return after


def step(
    rule: AlertRule, before: AlertState, reading: Reading, *, silenced: bool, now_ms: int
) -> AlertState:
    """One alert after one reading."""
    fixed = msgspec.structs.replace(
        before,
        severity=rule.severity,
        bound=rule.bound,
        summary=rule.summary,
        # A clock that was set back must not make anything last for ever.
        since_ms=min(before.since_ms, now_ms),
        started_ms=min(before.started_ms, now_ms),
        over_ms=min(before.over_ms, now_ms),
        noticed_ms=min(before.noticed_ms, now_ms),
    )
    if reading.error:
        unseen = before.state == "pending"
        return msgspec.structs.replace(fixed, state="ok", since_ms=now_ms) if unseen else fixed
    state = msgspec.structs.replace(fixed, value=reading.value, detail=reading.detail)
    if reading.value is not None and rule.breached(reading.value):
        return _holds(rule, state, silenced=silenced, now_ms=now_ms)
    return _holds_not(rule, state, now_ms=now_ms)


def _holds(rule: AlertRule, state: AlertState, *, silenced: bool, now_ms: int) -> AlertState:
    if state.state in {"ok", "resolved"}:
        state = msgspec.structs.replace(
            state, state="pending", since_ms=now_ms, started_ms=now_ms, over_ms=0, told=False
        )
    if state.state == "pending":
        if now_ms - state.started_ms < rule.lasting_ms:
            return state
        state = msgspec.structs.replace(state, state="firing", since_ms=now_ms)
    state = msgspec.structs.replace(state, over_ms=0)
    due = not state.told or now_ms - state.noticed_ms >= rule.repeat_ms
    if due and not silenced:
        return msgspec.structs.replace(
            state, told=True, notices=state.notices + 1, noticed_ms=now_ms
        )
    return state


def _holds_not(rule: AlertRule, state: AlertState, *, now_ms: int) -> AlertState:
    if state.state == "pending":
        return msgspec.structs.replace(state, state="ok", since_ms=now_ms)
    if state.state != "firing":
        return state
    over_ms = state.over_ms or now_ms
    if now_ms - over_ms >= rule.clearing_ms:
        return _over(state, now_ms, detail=state.detail)
    return msgspec.structs.replace(state, over_ms=over_ms)


def _over(state: AlertState, now_ms: int, *, detail: str) -> AlertState:
    """Who was told that it burns is told that it does not, also during a silence."""
    over = msgspec.structs.replace(
        state, state="resolved", since_ms=now_ms, over_ms=0, detail=detail
    )
    if state.state == "pending":
        return msgspec.structs.replace(over, state="ok")
    if not state.told:
        return over
    return msgspec.structs.replace(over, told=False, notices=state.notices + 1, noticed_ms=now_ms)


def _counted(before: AlertState, after: AlertState) -> AlertState:
    """With a higher ``sequence`` if there is something to keep."""
    volatile = {"value": None, "detail": "", "sequence": 0}
    one, two = (msgspec.structs.replace(state, **volatile) for state in (before, after))
    return after if one == two else msgspec.structs.replace(after, sequence=before.sequence + 1)


def owed(
    states: Mapping[Key, AlertState], channel: str, *, now_ms: int, age_ms_max: int
) -> list[AlertState]:
    """What ``channel`` has still to deliver: of each alert the newest notice only, oldest first.

    What is over is not told once it is older than ``age_ms_max``: a channel that is new, or was
    away for long, has no use for yesterday. What still fires is always told.
    """
    found = [
        state
        for state in states.values()
        if state.notices > state.delivered.get(channel, 0)
        and (state.told or now_ms - state.noticed_ms <= age_ms_max)
    ]
    return sorted(found, key=lambda state: (state.noticed_ms, state.key))


def delivered(state: AlertState, channel: str, notice: int) -> AlertState:
    """``state``, with ``notice`` off the list of ``channel``; nothing is ever put back on it."""
    if state.delivered.get(channel, 0) >= notice:
        return state
    done = {**state.delivered, channel: notice}
    return msgspec.structs.replace(state, delivered=done, sequence=state.sequence + 1)
