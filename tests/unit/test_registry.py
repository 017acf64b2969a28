"""The registry: a name means one content for ever, and half a version is none."""

from pathlib import Path

import msgspec
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.dense import CONSTANT, EMBEDDING_MLP, build
from models.registry import VERDICT, Registry, load_serving
from models.signing import Keyring
from schemas.errors import ChecksumMismatch, ModelError, SignatureRefused
from schemas.features import FeatureSpec, Numeric
from schemas.manifest import MANIFEST, SIGNATURE, WEIGHTS, Announcement, Manifest
from schemas.training import Check, Verdict

SPEC = FeatureSpec(numeric=(Numeric(name="x"),), category=(), vocabularies=())


def manifest(*, trained_at_ms: int = 1, architecture: str = CONSTANT) -> Manifest:
    parameters = (
        {"probability": 0.25}
        if architecture == CONSTANT
        else {"num_numeric": 1, "vocabulary_sizes": []}
    )
    return Manifest(
        pipeline="ships",
        architecture=architecture,
        parameters=parameters,
        features=SPEC,
        weights_sha256="",
        trained_at_ms=trained_at_ms,
        seed=0,
    )


KEYS = Keyring(Ed25519PrivateKey.generate())


def registry_at(root: str, keys: Keyring = KEYS) -> Registry:
    return Registry(root, keys)


def publish(registry: Registry, described: Manifest) -> tuple[str, str]:
    module = build(described.architecture, described.parameters)
    return registry.publish(described, module.state_dict())


def test_what_was_published_is_what_is_loaded(tmp_path: Path) -> None:
    """Weights bit for bit, for every architecture, in evaluation mode."""
    registry = registry_at(str(tmp_path))
    for architecture in (CONSTANT, EMBEDDING_MLP):
        described = manifest(architecture=architecture)
        module = build(architecture, described.parameters)
        version, digest = registry.publish(described, module.state_dict())
        found, loaded = registry.load("ships", version, digest=digest)
        assert msgspec.structs.replace(found, weights_sha256="") == described
        assert not loaded.training
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name])


def test_the_same_content_has_the_same_name_and_another_has_another(tmp_path: Path) -> None:
    """Publishing twice is harmless; a version never changes its meaning."""
    registry = registry_at(str(tmp_path))
    first = publish(registry, manifest())
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert publish(registry, manifest()) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == written
    second = publish(registry, manifest(trained_at_ms=2))
    assert second != first
    assert registry.versions("ships") == [first[0], second[0]]


def test_half_an_upload_is_no_version_and_can_be_completed(tmp_path: Path) -> None:
    """The manifest comes last, so what broke off before it is invisible."""
    registry = registry_at(str(tmp_path))
    version, digest = publish(registry, manifest())
    whole = tmp_path / "ships" / version / MANIFEST
    text = whole.read_bytes()
    whole.unlink()
    assert registry.versions("ships") == []
    with pytest.raises(ModelError, match="there is no"):
        registry.load("ships", version)
    whole.write_bytes(text[:20])  # torn by a crash of a file system without atomic writes
    assert registry.versions("ships") == []
    assert publish(registry, manifest()) == (version, digest)
    registry.load("ships", version, digest=digest)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_one_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    """A worker serves what was announced or nothing."""
    registry = registry_at(str(tmp_path))
    version, digest = publish(registry, manifest())
    path = tmp_path / "ships" / version / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumMismatch):
        registry.load("ships", version, digest=digest)


def test_another_digest_than_the_announced_is_refused(tmp_path: Path) -> None:
    """The announcement names the full digest, the version only its beginning."""
    registry = registry_at(str(tmp_path))
    version, digest = publish(registry, manifest())
    with pytest.raises(ChecksumMismatch):
        registry.load("ships", version, digest=digest[:-1] + "x")


@pytest.mark.parametrize(("pipeline", "version"), [("../ships", "0" * 12), ("ships", "../../etc")])
def test_no_name_leaves_the_root(tmp_path: Path, pipeline: str, version: str) -> None:
    """Names come out of a topic that others can write to."""
    with pytest.raises(ModelError, match="is no name"):
        registry_at(str(tmp_path)).load(pipeline, version)


def test_a_version_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    """Copied into another folder it would answer with features of something else."""
    registry = registry_at(str(tmp_path))
    version, _ = publish(registry, manifest())
    (tmp_path / "ships").rename(tmp_path / "trucks")
    with pytest.raises(ChecksumMismatch, match="belongs to pipeline=ships"):
        registry.load("trucks", version)


def test_any_fsspec_address_will_do() -> None:
    """The registry is a place, not a disk."""
    registry = registry_at("memory://test-registry")
    version, digest = publish(registry, manifest())
    assert registry.versions("ships") == [version]
    registry.load("ships", version, digest=digest)
    assert registry.versions("trucks") == []


def test_an_announced_version_comes_ready_to_serve(tmp_path: Path) -> None:
    """Loaded, checked, warmed up, with the encoder of its own features."""
    registry = registry_at(str(tmp_path))
    version, digest = publish(registry, manifest())
    told = Announcement(
        pipeline="ships", version=version, digest=digest, epoch=7, announced_at_ms=1
    )
    serving = load_serving(registry, told)
    assert (serving.version, serving.epoch, serving.trained_at_ms) == (version, 7, 1)


def test_a_version_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Whoever can write to the registry must not be able to make workers serve something."""
    registry = registry_at(str(tmp_path))
    version, digest = publish(registry, manifest())
    (tmp_path / "ships" / version / SIGNATURE).unlink()
    with pytest.raises(SignatureRefused, match="it is not signed"):
        registry.load("ships", version, digest=digest)
    assert registry.versions("ships") == []
    assert isinstance(registry.survey("ships")[version], SignatureRefused)


def test_a_strangers_version_is_refused_until_the_key_is_trusted(tmp_path: Path) -> None:
    """Rotation and sharing: the public key is what is agreed on."""
    stranger = Keyring(Ed25519PrivateKey.generate())
    version, digest = publish(registry_at(str(tmp_path), stranger), manifest())
    with pytest.raises(SignatureRefused, match="not trusted here"):
        registry_at(str(tmp_path)).load("ships", version, digest=digest)
    trusting = Keyring(Ed25519PrivateKey.generate(), [stranger.public])
    registry_at(str(tmp_path), trusting).load("ships", version, digest=digest)


def test_the_signature_of_another_version_does_not_fit(tmp_path: Path) -> None:
    """An old signature must not vouch for new content."""
    registry = registry_at(str(tmp_path))
    first, _ = publish(registry, manifest())
    second, _ = publish(registry, manifest(trained_at_ms=2))
    good = (tmp_path / "ships" / first / SIGNATURE).read_bytes()
    (tmp_path / "ships" / second / SIGNATURE).write_bytes(good)
    with pytest.raises(SignatureRefused, match="that of another version"):
        registry.manifest("ships", second)


def verdict(version: str, digest: str, *, champion: str = "", passed: bool = True) -> Verdict:
    return Verdict(
        pipeline="ships",
        version=version,
        digest=digest,
        champion=champion,
        judged_at_ms=1,
        rows=1,
        event_time_ms_first=0,
        event_time_ms_last=0,
        checks=(Check(name="skill", passed=passed, value=1.0, limit=2.0, why="so"),),
    )


def test_a_verdict_cannot_be_turned_round(tmp_path: Path) -> None:
    """A refusal edited into a pass is noticed; so is the verdict of another version."""
    registry = registry_at(str(tmp_path))
    version, digest = publish(registry, manifest())
    assert registry.verdict("ships", version) is None
    registry.store_verdict(verdict(version, digest, passed=False))
    found = registry.verdict("ships", version)
    assert found is not None
    assert (found.passed, found.reason) == (False, "skill: so")
    path = tmp_path / "ships" / version / VERDICT
    path.write_bytes(path.read_bytes().replace(b"false", b"true"))
    with pytest.raises(SignatureRefused, match="changed after it was signed"):
        registry.verdict("ships", version)
    other, _ = publish(registry, manifest(trained_at_ms=2))
    registry.store_verdict(verdict(version, digest))
    for name in (VERDICT, "verdict.sig"):
        source = tmp_path / "ships" / version / name
        (tmp_path / "ships" / other / name).write_bytes(source.read_bytes())
    with pytest.raises(SignatureRefused, match="it is about"):
        registry.verdict("ships", other)


def test_what_a_champion_leads_back_to_is_needed(tmp_path: Path) -> None:
    """Its predecessors can be rolled back to, and a warm start names whose weights it took."""
    registry = registry_at(str(tmp_path))
    made = [publish(registry, manifest(trained_at_ms=number)) for number in range(6)]
    names = [version for version, _ in made]
    for (version, digest), before in zip(made[1:], names[:-1], strict=True):
        registry.store_verdict(verdict(version, digest, champion=before))
    assert registry.needed("ships", {names[5]}, depth=3) == {*names[2:]}
    registry.remove("ships", names[0])
    assert registry.versions("ships") == names[1:]
    registry.remove("ships", names[0])  # again is harmless
    with pytest.raises(ModelError, match="there is no"):
        registry.load("ships", names[0])
