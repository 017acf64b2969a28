"""Which version answers which key, and what may follow on `tidemill.models`."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import rollout
from models.signing import Keyring, load_keyring
from schemas.errors import ModelError, SignatureRefused
from schemas.manifest import Announcement, NamedVersion

OLD, NEW, OTHER = (NamedVersion(version=c * 12, digest=c * 64) for c in "abc")
KEYS = [f"customer-{i}" for i in range(20_000)]


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return load_keyring(tmp_path / "signing.pem")


def first() -> Announcement:
    return rollout.promote(None, "ships", OLD, at_ms=1)


def test_a_challenger_goes_from_shadow_to_champion_step_by_step() -> None:
    """And the champion before it is remembered, so that one record brings it back."""
    told = rollout.try_out(first(), NEW, at_ms=2)
    steps = [(told.stage, told.share)]
    for _ in range(3):
        told = rollout.widen(told, at_ms=3)
        steps.append((told.stage, told.share))
    assert steps == [("shadow", 0), ("canary", 1), ("canary", 10), ("canary", 50)]
    with pytest.raises(ModelError, match="next step is to promote"):
        rollout.widen(told, at_ms=4)
    told = rollout.promote(told, "ships", NEW, at_ms=5)
    assert (told.champion, told.previous, told.challenger, told.stage) == (NEW, OLD, None, "")
    back = rollout.roll_back(told, at_ms=6, reason="worse")
    assert (back.champion, back.previous, back.epoch) == (OLD, NEW, 7)
    assert back.reason == "worse"


def test_a_rollback_during_a_rollout_keeps_the_champion() -> None:
    """It takes back what was being tried, not what served all the time."""
    told = rollout.widen(rollout.try_out(first(), NEW, at_ms=2), at_ms=3)
    back = rollout.roll_back(told, at_ms=4)
    assert (back.champion, back.challenger, back.stage, back.share) == (OLD, None, "", 0)


def test_what_cannot_be_is_refused() -> None:
    """With a reason, before anything is announced."""
    trying = rollout.try_out(first(), NEW, at_ms=2)
    for wrong, why in (
        (lambda: rollout.try_out(first(), OLD, at_ms=2), "is the champion"),
        (lambda: rollout.try_out(trying, OTHER, at_ms=2), "is tried now"),
        (lambda: rollout.widen(first(), at_ms=2), "none runs"),
        (lambda: rollout.roll_back(first(), at_ms=2), "first champion"),
    ):
        with pytest.raises(ModelError, match=why):
            wrong()
    assert rollout.hold(trying, at_ms=3).held
    assert not rollout.release(rollout.hold(trying, at_ms=3), at_ms=4).held


def test_a_record_is_believed_as_it_was_signed_or_not_at_all(
    keyring: Keyring, tmp_path: Path
) -> None:
    """Whoever can write to the topic cannot choose the model."""
    value, signature = rollout.seal(keyring, first())
    assert rollout.unseal(keyring, value, signature) == first()
    stranger = load_keyring(tmp_path / "stranger.pem")
    other, its_signature = rollout.seal(keyring, rollout.hold(first(), at_ms=2))
    for bytes_, signed_by in (
        (value, None),
        (value, b"nonsense"),
        (value, its_signature),
        (value[:-1] + b" ", signature),
        (other, rollout.seal(stranger, first())[1]),
        (value, keyring.sign("model version", value)),
    ):
        with pytest.raises(SignatureRefused):
            rollout.unseal(keyring, bytes_, signed_by)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 0},
        {"stage": "canary", "share": 10},
        {"stage": "shadow", "share": 10, "challenger": NEW},
        {"stage": "canary", "share": 101, "challenger": NEW},
        {"challenger": NEW},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(keyring: Keyring, wrong: dict) -> None:
    """Signed nonsense is nonsense."""
    sealed = rollout.seal(keyring, msgspec.structs.replace(first(), **wrong))
    with pytest.raises(ModelError, match="contradict"):
        rollout.unseal(keyring, *sealed)


def test_a_key_stays_with_the_canary_when_its_share_grows() -> None:
    """And the share is what was asked for: within four standard deviations of 20,000 keys."""
    before = np.zeros(len(KEYS), np.bool_)
    for share in rollout.SHARES:
        now = rollout.in_canary(KEYS, salt="v1", share=share)
        assert not (before & ~now).any()
        p = share / 100
        assert abs(now.mean() - p) < 4 * (p * (1 - p) / len(KEYS)) ** 0.5
        before = now
    assert rollout.in_canary(KEYS, salt="v1", share=100).all()
    assert not rollout.in_canary(KEYS, salt="v1", share=0).any()


def test_keys_of_one_rollout_are_not_those_of_the_next() -> None:
    """Otherwise the same customers would meet every experiment. And buckets are for ever."""
    one, two = (rollout.in_canary(KEYS, salt=salt, share=10) for salt in ("v1", "v2"))
    assert 0.05 < (one & two).sum() / one.sum() < 0.15
    assert [rollout.bucket(key, salt="v1") for key in ("a", "b")] == [7696, 7693]
