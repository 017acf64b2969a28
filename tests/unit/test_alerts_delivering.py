"""Pauses, attempts and what is given up: on a clock of its own, with channels that fail as told."""

import asyncio
import smtplib
from dataclasses import dataclass, field

import pytest

from schemas.errors import PermanentError, TransientError
from schemas.notices import Notice, decode_notice, encode_notice
from schemas.settings import Settings
from streams.alerts.channels import EmailChannel, channels, mail, signature
from streams.alerts.core import AlertState, Key
from streams.alerts.delivering import ATTEMPTS_MAX, PAUSE_S_MAX, Outlet, notice_of, pause_s


@dataclass
class Book:
    """States in a dictionary."""

    kept: dict[Key, AlertState] = field(default_factory=dict)

    def states(self) -> dict[Key, AlertState]:
        return self.kept

    def put(self, state: AlertState) -> None:
        self.kept[state.key] = state


@dataclass
class Failing:
    """Raises what is in ``errors``, in turn; then it works."""

    errors: list[Exception] = field(default_factory=list)
    name: str = "failing"
    took: list[str] = field(default_factory=list)

    async def send(self, notice: Notice) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.took.append(notice.id)

    async def close(self) -> None:
        return


def firing(rule: str, *, noticed_ms: int = 0) -> AlertState:
    return AlertState(
        pipeline="flights", rule=rule, state="firing", told=True, notices=1, noticed_ms=noticed_ms
    )


class World:
    """Two firing alerts and one outlet."""

    def __init__(self, *errors: Exception) -> None:
        self.now_s = 0.0
        self.channel = Failing(list(errors))
        self.outlet = Outlet(self.channel, clock=lambda: self.now_s)
        states = firing("a", noticed_ms=1), firing("b", noticed_ms=2)
        self.book = Book({state.key: state for state in states})

    def deliver(self) -> float:
        return asyncio.run(self.outlet.deliver(self.book, lambda _: "look", now_ms=0))


A, B = "flights/a/0/1", "flights/b/0/1"


def test_pauses_double_up_to_their_bound() -> None:
    """Ten attempts take about a quarter of an hour."""
    pauses = [pause_s(attempts) for attempts in range(1, ATTEMPTS_MAX)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert max(pauses) <= PAUSE_S_MAX == pause_s(1000)
    assert 500 < sum(pauses) < 1000


def test_what_was_delivered_is_not_delivered_again() -> None:
    """In the order in which it was to be told."""
    world = World()
    world.deliver()
    world.deliver()
    assert world.channel.took == [A, B]
    assert (world.outlet.sent, world.outlet.failing_since_s) == (2, None)
    assert {state.delivered["failing"] for state in world.book.kept.values()} == {1}


def test_a_failure_makes_the_channel_wait_and_loses_nothing() -> None:
    """Nobody asks it meanwhile; then everything is there."""
    world = World(TransientError("down"), TransientError("down"))
    assert world.deliver() == 1.0
    assert (world.outlet.failing_since_s, world.outlet.error) == (0.0, "down")
    world.now_s = 0.9
    assert world.deliver() == pytest.approx(0.1)
    assert len(world.channel.errors) == 1, "it was not tried"
    world.now_s = 1.0
    assert world.deliver() == 2.0
    world.now_s = 3.0
    world.deliver()
    assert world.channel.took == [A, B]
    assert (world.outlet.attempts, world.outlet.failing_since_s, world.outlet.failed) == (
        0,
        None,
        2,
    )


def test_a_notice_that_will_never_be_taken_stops_no_other() -> None:
    """A webhook that answers 400 to one is asked about the next at once."""
    world = World(PermanentError("status 400"))
    world.deliver()
    assert world.channel.took == [B]
    assert world.outlet.given_up == 1


def test_after_ten_attempts_it_is_given_up() -> None:
    """Bounded, and the channel is tried with the next one."""
    world = World(*(TransientError("down") for _ in range(ATTEMPTS_MAX)))
    for _ in range(ATTEMPTS_MAX):
        world.deliver()
        world.now_s += PAUSE_S_MAX
    assert (world.channel.took, world.outlet.given_up) == ([B], 1)


def test_a_mistake_in_a_channel_is_a_failure_and_tells_no_secret() -> None:
    """It ends neither the runner nor the others, and its text may hold anything."""
    world = World(ValueError("password=hush"))
    world.deliver()
    assert world.outlet.error == "could not deliver: ValueError"


def test_what_changed_while_it_was_sent_is_kept() -> None:
    """Only the mark is added to what is there by then."""
    world = World()

    class Slow(Failing):
        async def send(self, notice: Notice) -> None:
            if notice.rule != "a":
                return
            world.book.put(
                AlertState(pipeline="flights", rule="a", state="resolved", notices=2, noticed_ms=9)
            )

    world.outlet.channel = Slow()
    world.deliver()
    state = world.book.kept["flights", "a"]
    assert (state.state, state.notices, state.delivered) == ("resolved", 2, {"failing": 1})


def test_a_signature_a_receiver_can_check() -> None:
    """Written down by hand: printf '17.{}' | openssl dgst -sha256 -hmac key."""
    assert signature("key", 17, b"{}") == (
        "sha256=e66392eac42eafc68c35a01c712811e016386c12456975fc3af80c9268568e3a"
    )


def test_a_mail_is_one_thread_and_holds_no_foreign_header() -> None:
    """Names come from files of users; a line break in a summary must not become a header."""
    notice = notice_of(firing("a"), "tidemill status")
    message = mail(notice, sender="t@example.org", receivers=["a@example.org", "b@example.org"])
    assert message["Subject"] == "[firing] flights: a"
    assert message["To"] == "a@example.org, b@example.org"
    assert message["References"] == "<flights.a.0@tidemill>"
    assert "tidemill status" in message.get_content()
    assert decode_notice(encode_notice(notice)) == notice


def test_a_refused_address_is_for_good_and_a_busy_server_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who can act decides the class; the password is in neither."""
    settings = Settings(
        alert_smtp="127.0.0.1:9", alert_email_from="t@example.org", alert_email_to="a@example.org",
        alert_smtp_password="hush",
    )  # fmt: skip
    channel = channels(settings)[-1]
    assert isinstance(channel, EmailChannel)
    notice = notice_of(firing("a"), "")
    for raised, expected in (
        (smtplib.SMTPRecipientsRefused({"a@example.org": (550, b"no")}), PermanentError),
        (smtplib.SMTPDataError(451, b"later"), TransientError),
        (smtplib.SMTPAuthenticationError(535, b"hush is wrong"), TransientError),
        (OSError("unreachable"), TransientError),
    ):

        def fail(_self: object, raised: Exception = raised) -> smtplib.SMTP:
            raise raised

        monkeypatch.setattr(EmailChannel, "_connected", fail)
        with pytest.raises(expected) as told:
            asyncio.run(channel.send(notice))
        assert "hush" not in str(told.value)
