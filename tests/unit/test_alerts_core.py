"""When people are told, second by second: no clock, no server."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.alerts import AlertRule, alert
from streams.alerts.core import (
    AlertState,
    Asked,
    Reading,
    Silence,
    advance,
    delivered,
    owed,
    step,
)
from streams.alerts.delivering import notice_of
from streams.alerts.keeping import merged

KEY = ("flights", "lag")
RULE = alert("lag", figure="lag", above=10, lasting="60s", clearing="30s", repeat="1h")


def silence(pipeline: str = "*", rule: str = "*", until_ms: int = 10**9) -> Silence:
    return Silence(
        id="1", pipeline=pipeline, rule=rule, at_ms=0, until_ms=until_ms, reason="r", author="a"
    )


class World:
    """One rule, looked at when the test says so; what was told, as (second, status)."""

    def __init__(self, rule: AlertRule = RULE) -> None:
        self.rule = rule
        self.states: dict[tuple[str, str], AlertState] = {}
        self.told: list[tuple[float, str]] = []
        self.silences: list[Silence] = []

    @property
    def state(self) -> AlertState:
        return self.states[KEY]

    def look(self, second: float, value: float | None = None, error: str = "") -> str:
        now_ms = int(second * 1000) + 1_000_000
        before = self.states.get(KEY)
        reading = Reading(value=value, error=error)
        self.states = advance(
            [Asked("flights", self.rule)], self.states, {KEY: reading}, self.silences, now_ms=now_ms
        )
        if self.state.notices > (before.notices if before else 0):
            self.told.append((second, notice_of(self.state, "").status))
        return self.state.state


def test_it_is_told_once_it_lasted_and_told_when_it_is_over() -> None:
    """The ordinary course, with every state at its moment."""
    world = World()
    assert world.look(0, 10) == "ok", "the bound itself is not beyond it"
    assert [world.look(s, 11) for s in (5, 30, 64.9)] == ["pending"] * 3
    assert world.look(65, 11) == "firing"
    assert [world.look(s, 12) for s in (100, 1000)] == ["firing"] * 2
    assert [world.look(s, 3) for s in (1005, 1034)] == ["firing"] * 2
    assert world.look(1035, 3) == "resolved"
    assert world.told == [(65, "firing"), (1035, "resolved")]
    assert (world.state.started_ms, world.state.value) == (1_005_000, 3)


def test_a_short_peak_is_told_to_nobody() -> None:
    """59 seconds of 60; and the next peak begins anew."""
    world = World()
    assert [world.look(0, 11), world.look(59, 11), world.look(59.5, 1)] == [
        "pending",
        "pending",
        "ok",
    ]
    assert [world.look(60, 11), world.look(119, 11)] == ["pending", "pending"]
    assert world.told == []


def test_what_comes_back_before_it_cleared_goes_on() -> None:
    """Flapping around the bound is one alert, not ten."""
    world = World()
    world.look(0, 11)
    for second in range(60, 400, 20):
        world.look(second, 11 if second % 40 else 1)
    assert world.told == [(60, "firing")]
    assert world.state.state == "firing"


def test_it_is_said_again_while_it_lasts() -> None:
    """Once in `repeat`, however often it is looked at."""
    world = World()
    for second in range(0, 8000, 15):
        world.look(second, 11)
    assert world.told == [(60, "firing"), (3660, "firing"), (7260, "firing")]


def test_a_number_that_could_not_be_had_changes_nothing() -> None:
    """A store that is down neither raises nor resolves; and nobody saw that it lasted."""
    world = World()
    world.look(0, 11)
    assert world.look(30, error="down") == "ok"
    assert [world.look(60, 11), world.look(119, 11)] == ["pending", "pending"]
    assert world.look(120, 11) == "firing"
    assert world.look(500, error="down") == "firing"
    assert world.told == [(120, "firing")]


def test_no_number_is_nothing_to_say() -> None:
    """An empty window neither fires nor keeps firing."""
    world = World()
    assert world.look(0, None) == "ok"
    world.look(10, 11)
    world.look(70, 11)
    assert [world.look(80, None), world.look(110, None)] == ["firing", "resolved"]


def test_a_silence_is_kept_and_ends() -> None:
    """What fires meanwhile is shown, told when the silence ends, and not told if it is over by then."""
    world = World()
    world.silences = [silence("flights", "lag", until_ms=1_000_000 + 500_000)]
    world.look(0, 11)
    assert [world.look(60, 11), world.look(499, 11)] == ["firing", "firing"]
    assert world.told == []
    world.look(500, 11)
    assert world.told == [(500, "firing")]
    world.silences = [silence()]
    world.look(5000, 11)
    world.look(5010, 1)
    assert world.look(5040, 1) == "resolved"
    assert world.told == [(500, "firing"), (5040, "resolved")], "who was told hears of the end"
    world.look(5050, 11)
    world.look(5110, 11)
    world.look(5120, 1)
    assert world.look(5150, 1) == "resolved"
    assert len(world.told) == 2


def test_a_silence_is_about_what_it_names() -> None:
    """And holds from its moment to its end, which is not in it."""
    one = silence("flights", "*", until_ms=100)
    assert one.covers(("flights", "lag"), 99)
    assert not one.covers(("flights", "lag"), 100)
    assert not one.covers(("ships", "lag"), 50)
    assert not silence("*", "drift").covers(("flights", "lag"), 50)
    assert not msgspec.structs.replace(one, at_ms=60).covers(("flights", "lag"), 50)


def test_a_rule_that_is_gone_is_over() -> None:
    """Otherwise it would fire for ever on the page."""
    world = World()
    world.look(0, 11)
    world.look(60, 11)
    after = advance([], world.states, {}, [], now_ms=2_000_000)
    assert (after[KEY].state, after[KEY].notices) == ("resolved", 2)
    assert advance([], after, {}, [], now_ms=3_000_000) == after


def test_a_clock_that_is_set_back_delays_and_does_not_stop() -> None:
    """An hour back: it lasts again from there, instead of for ever."""
    world = World()
    world.look(7200, 11)
    assert [world.look(3600, 11), world.look(3659, 11), world.look(3660, 11)] == [
        "pending", "pending", "firing",
    ]  # fmt: skip


def test_each_channel_is_owed_the_newest_notice_only() -> None:
    """A channel that was away hears how it is, not how it was."""
    world = World()
    world.look(0, 11)
    world.look(60, 11)
    [state] = owed(world.states, "email", now_ms=0, age_ms_max=0)
    assert notice_of(state, "").status == "firing"
    world.states[KEY] = delivered(state, "webhook", state.notices)
    assert owed(world.states, "webhook", now_ms=0, age_ms_max=0) == []
    world.look(70, 1)
    world.look(100, 1)
    now_ms = 1_100_000
    for channel in ("email", "webhook"):
        [state] = owed(world.states, channel, now_ms=now_ms, age_ms_max=1000)
        assert notice_of(state, "").status == "resolved"
    assert owed(world.states, "new", now_ms=now_ms + 1001, age_ms_max=1000) == []


def test_a_late_receipt_takes_nothing_back() -> None:
    """Deliveries of one channel may be written down after a newer one."""
    state = delivered(AlertState(pipeline="p", rule="r"), "log", 3)
    assert delivered(state, "log", 2) is state
    assert (state.delivered, state.sequence) == ({"log": 3}, 1)


def test_what_was_seen_while_the_store_was_down_goes_on_from_what_was_kept() -> None:
    """Nothing that was told is told again, and no number of a notice is used twice."""
    old = AlertState(pipeline="p", rule="old", notices=3, sequence=7)
    kept = AlertState(
        pipeline="p", rule="r", state="resolved", notices=4, delivered={"log": 4, "email": 3},
        sequence=9,
    )  # fmt: skip
    own = AlertState(
        pipeline="p", rule="r", state="firing", told=True, notices=1, delivered={"log": 1},
        sequence=2,
    )  # fmt: skip
    new = AlertState(pipeline="p", rule="new", state="pending", sequence=1)
    found = merged({old.key: old, kept.key: kept}, {own.key: own, new.key: new})
    assert (found[old.key], found[new.key]) == (old, new)
    one = found[own.key]
    assert (one.state, one.told, one.notices, one.sequence) == ("firing", True, 5, 12)
    assert one.delivered == {"log": 5, "email": 3}
    assert owed({one.key: one}, "email", now_ms=0, age_ms_max=0) == [one]
    assert owed({one.key: one}, "log", now_ms=0, age_ms_max=0) == []


LOOKS = st.lists(
    st.tuples(
        st.integers(1, 200),
        st.sampled_from([5.0, 15.0, None, "error"]),
        st.booleans(),
    ),
    max_size=80,
)


@given(LOOKS, st.sampled_from(["0s", "30s", "3m"]), st.sampled_from(["0s", "1m"]))
def test_notices_alternate_and_are_earned(
    looks: list[tuple[int, float | str | None, bool]], lasting: str, clearing: str
) -> None:
    """
    Goal: whatever the readings, gaps, silences and restarts: nobody hears of an end without a
    beginning, none is repeated sooner than `repeat`, and whatever is told firing had lasted.

    Method: random looks; after each, the state goes through its stored form, as in a restart.
    """
    rule = alert("lag", figure="lag", above=10, lasting=lasting, clearing=clearing, repeat="5m")
    state = AlertState(pipeline="flights", rule="lag")
    now_ms, breached_since, last = 1_000_000, None, None
    for gap_s, value, silenced in looks:
        now_ms += gap_s * 1000
        reading = Reading(error="x") if value == "error" else Reading(value=value)  # type: ignore[arg-type]
        after = step(rule, state, reading, silenced=silenced, now_ms=now_ms)
        if value == 15.0:
            breached_since = now_ms if breached_since is None else breached_since
        elif state.state != "firing":
            breached_since = None
        told = after.notices - state.notices
        assert told in {0, 1}
        status = notice_of(after, "").status
        if told and status == "firing":
            assert not silenced
            assert value == 15.0
            assert breached_since is not None
            assert now_ms - breached_since >= rule.lasting_ms
            assert last is None or last[0] == "resolved" or now_ms - last[1] >= rule.repeat_ms
        if told and status == "resolved":
            assert last is not None
            assert last[0] == "firing"
            assert value in {5.0, None}
        if told:
            last = (status, now_ms)
        if after.state != "firing" and value != 15.0:
            breached_since = None
        state = msgspec.json.decode(msgspec.json.encode(after), type=AlertState)
        assert state == after
