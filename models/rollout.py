"""Champion, shadow, canary: which version answers which key, and how one record follows another.

| action | champion | challenger |
|---|---|---|
| promote | the named version; the one before becomes `previous` | none |
| try | stays | the named version, as a shadow |
| widen | stays | shadow -> 1 -> 10 -> 50 percent of the keys |
| rollback, during a rollout | stays | none |
| rollback, otherwise | `previous`; the one before becomes `previous` | none |
| hold, release | stays | stays; automation may not, or may again, change it |

All of it is pure: no clock, no broker. What a person may do and automation may not is in
`streams.rollout.promotion`.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from models.signing import Keyring
from schemas.errors import ModelError, SignatureRefused
from schemas.manifest import Announcement, NamedVersion
from schemas.undecodable import UNDECODABLE

SHARES = (1, 10, 50)
"""Percent of the keys that a canary answers, step by step; the next step is the promotion."""
BUCKETS = 10_000
_PURPOSE = "announcement"

Action = Literal["promote", "try", "widen", "rollback", "hold", "release"]


def promote(
    before: Announcement | None, pipeline: str, named: NamedVersion, *, at_ms: int, reason: str = ""
) -> Announcement:
    """``named`` is the champion from now on; a rollout that runs is over."""
    if before is None:
        return Announcement(
            pipeline=pipeline,
            version=named.version,
            digest=named.digest,
            epoch=1,
            announced_at_ms=at_ms,
            reason=reason,
        )
    previous = before.previous if before.champion == named else before.champion
    return msgspec.structs.replace(
        _after(before, "promote", at_ms=at_ms, reason=reason),
        version=named.version,
        digest=named.digest,
        previous=previous,
        challenger=None,
        stage="",
        share=0,
        tried_at_ms=0,
    )


def try_out(
    before: Announcement, named: NamedVersion, *, at_ms: int, reason: str = ""
) -> Announcement:
    """``named`` answers as a shadow from now on.

    Raises:
        ModelError: it serves already, or another rollout runs.
    """
    if before.challenger is not None:
        raise ModelError(
            f"could not try version={named.version} of {before.pipeline}: "
            f"version={before.challenger.version} is tried now. Roll that back first."
        )
    if before.champion == named:
        raise ModelError(
            f"could not try version={named.version} of {before.pipeline}: it is the champion"
        )
    return msgspec.structs.replace(
        _after(before, "try", at_ms=at_ms, reason=reason),
        challenger=named,
        stage="shadow",
        share=0,
        tried_at_ms=at_ms,
    )


def widen(before: Announcement, *, at_ms: int, reason: str = "") -> Announcement:
    """The challenger answers the next larger share of the keys.

    Raises:
        ModelError: there is no challenger, or it has the largest share: promote it.
    """
    if before.challenger is None:
        raise ModelError(f"could not widen a rollout of {before.pipeline}: none runs")
    larger = [share for share in SHARES if share > before.share]
    if not larger:
        raise ModelError(
            f"could not widen the rollout of version={before.challenger.version}: it answers "
            f"{before.share} % of the keys. The next step is to promote it."
        )
    return msgspec.structs.replace(
        _after(before, "widen", at_ms=at_ms, reason=reason), stage="canary", share=larger[0]
    )


def roll_back(before: Announcement, *, at_ms: int, reason: str = "") -> Announcement:
    """The challenger is gone; without one, the champion before serves again.

    Raises:
        ModelError: there is neither a challenger nor a champion before.
    """
    after = _after(before, "rollback", at_ms=at_ms, reason=reason)
    if before.challenger is not None:
        return msgspec.structs.replace(after, challenger=None, stage="", share=0, tried_at_ms=0)
    if before.previous is None:
        raise ModelError(
            f"could not roll {before.pipeline} back: version={before.version} is its first "
            "champion. Promote another version."
        )
    return msgspec.structs.replace(
        after,
        version=before.previous.version,
        digest=before.previous.digest,
        previous=before.champion,
    )


def hold(before: Announcement, *, at_ms: int, reason: str = "") -> Announcement:
    """Automation changes nothing from now on."""
    return msgspec.structs.replace(_after(before, "hold", at_ms=at_ms, reason=reason), held=True)


def release(before: Announcement, *, at_ms: int, reason: str = "") -> Announcement:
    """Automation may act again."""
    return msgspec.structs.replace(
        _after(before, "release", at_ms=at_ms, reason=reason), held=False
    )


def seal(keyring: Keyring, announcement: Announcement) -> tuple[bytes, bytes]:
    """The record's value, and the signature that goes with it as a header."""
    value = msgspec.json.encode(announcement)
    return value, keyring.sign(_PURPOSE, hashlib.sha256(value).digest())


def unseal(keyring: Keyring, value: bytes, signature: bytes | None) -> Announcement:
    """The announcement in ``value``.

    Raises:
        SignatureRefused: nobody who is trusted signed exactly these bytes.
        ModelError: they are no announcement, or one that contradicts itself.
    """
    if signature is None:
        raise SignatureRefused(
            "could not trust an announcement: it is not signed. `tidemill models promote` "
            "announces a version again."
        )
    if keyring.open(_PURPOSE, signature) != hashlib.sha256(value).digest():
        raise SignatureRefused(
            "could not trust an announcement: its signature is that of another one"
        )
    try:
        found = msgspec.json.decode(value, type=Announcement)
    except UNDECODABLE as cause:
        raise ModelError(f"could not decode an announcement: {cause}") from cause
    whole = {"": (0, 0), "shadow": (0, 0), "canary": (1, 100)}[found.stage]
    if (
        found.epoch < 1
        or not whole[0] <= found.share <= whole[1]
        or (found.challenger is None) != (found.stage == "")
    ):
        raise ModelError(
            f"could not use an announcement: epoch={found.epoch} stage={found.stage!r} "
            f"share={found.share} challenger={found.challenger} contradict each other"
        )
    return found


def in_canary(keys: Sequence[str], *, salt: str, share: int) -> npt.NDArray[np.bool_]:
    """Which of ``keys`` a canary with ``share`` percent answers, bool ``[B]``.

    It depends on key and salt alone: on every worker and after every restart it is the same, and a
    key that a small share answers stays with the canary when the share grows.
    """
    limit = share * BUCKETS // 100
    return np.fromiter((bucket(key, salt=salt) < limit for key in keys), np.bool_, len(keys))


def bucket(key: str, *, salt: str) -> int:
    """0 to `BUCKETS` - 1, evenly over keys: BLAKE2b keyed by the salt."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "little") % BUCKETS


def _after(before: Announcement, action: Action, *, at_ms: int, reason: str) -> Announcement:
    return msgspec.structs.replace(
        before, epoch=before.epoch + 1, announced_at_ms=at_ms, action=action, reason=reason
    )
