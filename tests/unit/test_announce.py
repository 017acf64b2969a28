"""Which announcement counts."""

from pathlib import Path
from types import SimpleNamespace

from models.rollout import seal
from models.signing import Keyring, load_keyring
from schemas.manifest import Announcement
from streams.control.announce import newest


def told(
    keyring: Keyring, name: str, epoch: int, *, signed: bool = True, key: str = ""
) -> SimpleNamespace:
    """A record as aiokafka gives it."""
    value, signature = seal(
        keyring,
        Announcement(pipeline=name, version="v", digest="d", epoch=epoch, announced_at_ms=1),
    )
    headers = (("signature", signature),) if signed else ()
    return SimpleNamespace(key=(key or name).encode(), value=value, headers=headers)


def test_the_highest_trusted_epoch_of_the_pipeline_counts(tmp_path: Path) -> None:
    """The topic may hold other pipelines, tombstones, what we cannot read and what nobody signed."""
    keyring, stranger = load_keyring(tmp_path / "a"), load_keyring(tmp_path / "b")
    assert newest([], "a", keyring) is None
    records = [
        told(keyring, "a", 3),
        SimpleNamespace(key=b"a", value=None, headers=()),
        SimpleNamespace(key=b"a", value=b"{", headers=()),
        told(keyring, "b", 9),
        told(keyring, "a", 8, signed=False),
        told(stranger, "a", 7),
        told(keyring, "a", 6, key="b"),
        told(keyring, "a", 2),
    ]
    found = newest(records, "a", keyring)
    assert found is not None
    assert found.epoch == 3
