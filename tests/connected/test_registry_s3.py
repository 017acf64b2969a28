"""The registry on an S3 interface, as it is spoken over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from moto.server import ThreadedMotoServer

from models.registry import Registry
from models.signing import Keyring
from schemas.errors import ModelError, SignatureRefused
from schemas.manifest import MANIFEST, SIGNATURE
from tests.unit.test_registry import manifest, publish, verdict

KEYS = Keyring(Ed25519PrivateKey.generate())


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a bucket on a server of the test's own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", str(tmp_path / "none")),
    ):
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="models")
    # fsspec keeps file systems by their arguments, and the address is none of them.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield "s3://models/registry"
    server.stop()


def test_versions_live_in_a_bucket(root: str) -> None:
    """Published, found, loaded bit for bit, judged and removed, by two processes' worth of caches."""
    writer, reader = Registry(root, KEYS), Registry(root, KEYS)
    assert reader.versions("ships") == []
    version, digest = publish(writer, manifest())
    assert publish(writer, manifest()) == (version, digest)
    assert reader.versions("ships") == [version]
    _, module = reader.load("ships", version, digest=digest)
    assert torch.equal(module.state_dict()["probability"], torch.tensor(0.25))
    writer.store_verdict(verdict(version, digest))
    found = reader.verdict("ships", version)
    assert found is not None
    assert found.passed
    writer.remove("ships", version)
    assert reader.versions("ships") == []
    with pytest.raises(ModelError, match="there is no"):
        reader.load("ships", version)


def test_half_an_upload_into_a_bucket_is_no_version(root: str) -> None:
    """Without its signature, or with a manifest that was changed, nothing is loaded."""
    registry = Registry(root, KEYS)
    version, digest = publish(registry, manifest())
    files = fsspec.filesystem("s3")
    files.rm_file(f"{root}/ships/{version}/{SIGNATURE}")
    with pytest.raises(SignatureRefused, match="it is not signed"):
        registry.load("ships", version, digest=digest)
    assert registry.versions("ships") == []
    assert publish(registry, manifest()) == (version, digest)
    assert registry.versions("ships") == [version]
    with files.open(f"{root}/ships/{version}/{MANIFEST}", "ab") as file:
        file.write(b" ")
    assert registry.versions("ships") == []
