"""Model versions on any fsspec file system: named by content, signed, written once, checked when
read.

    <root>/<pipeline>/<version>/model.safetensors
    <root>/<pipeline>/<version>/manifest.json
    <root>/<pipeline>/<version>/manifest.sig
    <root>/<pipeline>/<version>/verdict.json        what the gate said, with verdict.sig; optional

The manifest holds the digest of the weights, the version is the beginning of the digest of the
manifest, and the signature covers that digest (Ed25519, `models.signing`). So a name can never mean
two things, nobody can change a version without renaming it, and nobody without a trusted key can
add one. Weights go first, the signature last: a version whose upload broke off is not there.
Nothing is ever pickled: weights are safetensors, the module is built from the manifest by
`models.dense`.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import fsspec
import msgspec

from models.signing import Keyring, load_keyring
from schemas.errors import ChecksumMismatch, ModelError, SchemaError, SignatureRefused
from schemas.features import NAME
from schemas.manifest import (
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    Announcement,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from schemas.settings import Settings
from schemas.training import Verdict, decode_verdict

if TYPE_CHECKING:  # torch comes late: who lists versions or holds a rollout needs none of it
    from torch import Tensor, nn

    from models.engine import Loaded
    from models.inference import Name

VERSION = re.compile(r"^[0-9a-f]{12}\Z")
"""48 bits: two of a million versions share a name with a chance of 0.2 percent, and then the second
`publish` is refused."""

VERDICT = "verdict.json"
VERDICT_SIGNATURE = "verdict.sig"
_VERSION_PURPOSE = "model version"
_VERDICT_PURPOSE = "verdict"


class Registry:
    """The versions below one root.

    Not promised: that two processes that publish the same version at once upload it only once. They
    write the same bytes to the same names, so it does no harm.

    Args of the constructor:
        root: fsspec address.
        keyring: Signs what is published, and knows whose signatures are believed.
    """

    def __init__(self, root: str, keyring: Keyring) -> None:
        self._files, self._root = fsspec.core.url_to_fs(root)
        self._keyring = keyring

    def publish(self, manifest: Manifest, weights: "Mapping[str, Tensor]") -> tuple[str, str]:
        """Store a version; return its name and the SHA-256 of its manifest.

        ``weights_sha256`` of the manifest is filled in here. Publishing the same version again
        changes nothing, or completes an upload that broke off.

        Raises:
            ModelError: the name is taken by another version, or the pipeline's name is none.
        """
        import safetensors.torch

        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}
        content = safetensors.torch.save(tensors)
        manifest = msgspec.structs.replace(manifest, weights_sha256=_sha256(content))
        text = encode_manifest(manifest)
        digest = _sha256(text)
        version = digest[:12]
        folder = self._folder(manifest.pipeline, version)
        if self._files.exists(f"{folder}/{MANIFEST}"):
            stored = self._files.cat_file(f"{folder}/{MANIFEST}")
            if stored != text and _sha256(stored)[:12] == version:
                raise ModelError(f"could not publish: version={version} means another model")
        self._files.makedirs(folder, exist_ok=True)
        self._write(f"{folder}/{WEIGHTS}", content)
        self._write(f"{folder}/{MANIFEST}", text)
        try:
            self._check_signature(manifest.pipeline, version, digest)
        except ModelError:
            self._write(
                f"{folder}/{SIGNATURE}", self._keyring.sign(_VERSION_PURPOSE, digest.encode())
            )
        return version, digest

    def manifest(self, pipeline: str, version: str, *, digest: str | None = None) -> Manifest:
        """The manifest of a version, checked against its name, its signature and, if given, its
        full digest.

        Raises:
            ModelError: there is no such version.
            ChecksumMismatch: its bytes are not the ones that were published.
            SignatureRefused: it is not signed, or not by a key that is trusted here.
        """
        text = self._read(pipeline, version, MANIFEST)
        found = _sha256(text)
        if found[:12] != version or (digest is not None and found != digest):
            raise ChecksumMismatch(
                f"could not load pipeline={pipeline} version={version}: the manifest has "
                f"digest={found}, expected {digest or version}"
            )
        self._check_signature(pipeline, version, found)
        manifest = decode_manifest(text)
        if manifest.pipeline != pipeline:
            raise ChecksumMismatch(
                f"could not load version={version}: it belongs to pipeline={manifest.pipeline}, "
                f"not to {pipeline}"
            )
        return manifest

    def digest(self, pipeline: str, version: str) -> str:
        """SHA-256 of the manifest of a version, as an announcement names it.

        Raises:
            ModelError: there is no such version.
        """
        return _sha256(self._read(pipeline, version, MANIFEST))

    def load(
        self, pipeline: str, version: str, *, digest: str | None = None
    ) -> "tuple[Manifest, nn.Module]":
        """The manifest and the module with its weights, in evaluation mode.

        Raises:
            ModelError: there is no such version, or this release cannot build it.
            ChecksumMismatch: its bytes are not the ones that were published.
            SignatureRefused: it is not signed, or not by a key that is trusted here.
        """
        import safetensors.torch

        from models.dense import build

        manifest = self.manifest(pipeline, version, digest=digest)
        content = self._read(pipeline, version, WEIGHTS)
        if _sha256(content) != manifest.weights_sha256:
            raise ChecksumMismatch(
                f"could not load pipeline={pipeline} version={version}: the weights have "
                f"digest={_sha256(content)}, the manifest says {manifest.weights_sha256}"
            )
        module = build(manifest.architecture, manifest.parameters)
        try:
            module.load_state_dict(safetensors.torch.load(content), strict=True)
        except (RuntimeError, safetensors.SafetensorError) as cause:
            raise ModelError(
                f"could not load pipeline={pipeline} version={version}: the weights do not fit "
                f"architecture={manifest.architecture}: {cause}"
            ) from cause
        return manifest, module

    def store_verdict(self, verdict: Verdict) -> None:
        """Put what the gate said beside its version, signed; a later verdict replaces it.

        Raises:
            ModelError: the names are none.
        """
        folder = self._folder(verdict.pipeline, verdict.version)
        text = msgspec.json.format(msgspec.json.encode(verdict), indent=2)
        self._write(f"{folder}/{VERDICT}", text)
        self._write(
            f"{folder}/{VERDICT_SIGNATURE}",
            self._keyring.sign(_VERDICT_PURPOSE, _sha256(text).encode()),
        )

    def verdict(self, pipeline: str, version: str) -> Verdict | None:
        """What the gate said about a version; None if it was never asked.

        Raises:
            SignatureRefused: somebody else wrote or changed it.
            ModelError: it cannot be understood.
        """
        folder = self._folder(pipeline, version)
        self._files.invalidate_cache()
        if not self._files.exists(f"{folder}/{VERDICT}"):
            return None
        text = self._read(pipeline, version, VERDICT)
        signed = self._opened(pipeline, version, VERDICT_SIGNATURE, _VERDICT_PURPOSE)
        if signed != _sha256(text).encode():
            raise SignatureRefused(
                f"could not trust the verdict of version={version}: it was changed after it was "
                "signed"
            )
        try:
            verdict = decode_verdict(text)
        except SchemaError as cause:
            raise ModelError(str(cause)) from cause
        if (verdict.pipeline, verdict.version) != (pipeline, version):
            raise SignatureRefused(
                f"could not trust the verdict of version={version}: it is about "
                f"pipeline={verdict.pipeline} version={verdict.version}"
            )
        return verdict

    def versions(self, pipeline: str) -> list[str]:
        """Names of all complete and trusted versions of a pipeline, the oldest first."""
        found = [
            (manifest.trained_at_ms, name)
            for name, manifest in self.survey(pipeline).items()
            if isinstance(manifest, Manifest)
        ]
        return [name for _, name in sorted(found)]

    def survey(self, pipeline: str) -> dict[str, Manifest | ModelError]:
        """Everything in the place of a pipeline that has the name of a version: its manifest, or
        why it is none: half uploaded, torn, changed, or not signed.

        Raises:
            ModelError: the pipeline's name is none.
        """
        if not NAME.match(pipeline):
            raise ModelError(f"could not use the registry: {pipeline!r} is no pipeline name")
        folder = f"{self._root}/{pipeline}"
        self._files.invalidate_cache()
        if not self._files.isdir(folder):
            return {}
        names = [
            path.rstrip("/").rsplit("/", 1)[-1] for path in self._files.ls(folder, detail=False)
        ]
        found: dict[str, Manifest | ModelError] = {}
        for name in filter(VERSION.match, names):
            try:
                found[name] = self.manifest(pipeline, name)
            except ModelError as why:
                found[name] = why
        return found

    def needed(self, pipeline: str, serving: Collection[str], *, depth: int = 3) -> set[str]:
        """``serving`` and what they lead back to: the champions they replaced, as their verdicts
        name them, and the versions whose weights they began with, ``depth`` steps far.
        """
        found, edge = set(serving), set(serving)
        for _ in range(depth):
            edge = {other for name in edge for other in self._referenced(pipeline, name)} - found
            found |= edge
        return found

    def remove(self, pipeline: str, version: str) -> None:
        """Delete a version; what is left if this breaks off is no version any more.

        Raises:
            ModelError: the names are none.
        """
        folder = self._folder(pipeline, version)
        self._files.invalidate_cache()
        for name in (SIGNATURE, MANIFEST):
            if self._files.exists(f"{folder}/{name}"):
                self._files.rm_file(f"{folder}/{name}")
        if self._files.exists(folder):
            self._files.rm(folder, recursive=True)

    def _referenced(self, pipeline: str, version: str) -> set[str]:
        try:
            manifest, verdict = self.manifest(pipeline, version), self.verdict(pipeline, version)
        except ModelError:
            return set()
        names = {manifest.parent, "" if verdict is None else verdict.champion}
        return {name for name in names if name}

    def _check_signature(self, pipeline: str, version: str, digest: str) -> None:
        signed = self._opened(pipeline, version, SIGNATURE, _VERSION_PURPOSE)
        if signed != digest.encode():
            raise SignatureRefused(
                f"could not trust pipeline={pipeline} version={version}: its signature is that of "
                "another version"
            )

    def _opened(self, pipeline: str, version: str, name: str, purpose: str) -> bytes:
        path = f"{self._folder(pipeline, version)}/{name}"
        try:
            envelope: bytes = self._files.cat_file(path)
        except FileNotFoundError as cause:
            raise SignatureRefused(
                f"could not trust pipeline={pipeline} version={version}: it is not signed, there "
                f"is no {name}. Versions from before there were signatures are trained again."
            ) from cause
        return self._keyring.open(purpose, envelope)

    def _folder(self, pipeline: str, version: str) -> str:
        """Checked because both names also come out of a topic: no path may leave the root."""
        if not NAME.match(pipeline) or not VERSION.match(version):
            raise ModelError(
                f"could not use the registry: pipeline={pipeline!r} version={version!r} is no name"
            )
        return f"{self._root}/{pipeline}/{version}"

    def _read(self, pipeline: str, version: str, name: str) -> bytes:
        path = f"{self._folder(pipeline, version)}/{name}"
        try:
            content: bytes = self._files.cat_file(path)
        except FileNotFoundError as cause:
            raise ModelError(
                f"could not load pipeline={pipeline} version={version}: there is no {path}"
            ) from cause
        return content

    def _write(self, path: str, content: bytes) -> None:
        """Write a file so that it appears whole or not at all, also on a local disk."""
        if self._files.exists(path) and self._files.cat_file(path) == content:
            return
        with self._files.transaction, self._files.open(path, "wb") as file:
            file.write(content)


def open_registry(settings: Settings, root: str = "") -> Registry:
    """The registry of these settings, or that at ``root``, with the keys of their home.

    Raises:
        SettingsError: a key cannot be used.
    """
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    return Registry(root or settings.registry_root, keyring)


def load_serving(
    registry: Registry,
    announcement: Announcement,
    *,
    device: str = "cpu",
    inference: "Name" = "eager",
) -> "Loaded":
    """The announced version, loaded beside the one that serves and warmed up: ready to be offered.

    ``inference`` names the engine, or lets `models.inference.choose` measure.

    Raises:
        ModelError: it cannot be loaded or trusted or cannot answer; keep serving what serves.
    """
    from models.engine import Loaded, warm_up
    from models.features import Encoder
    from models.foreign import ONNX
    from models.inference import choose

    manifest, module = registry.load(
        announcement.pipeline, announcement.version, digest=announcement.digest
    )
    spec = manifest.features
    module = module.to(device)
    choice = choose(
        module,
        num_numeric=len(spec.numeric),
        num_category=len(spec.category),
        device=device,
        # A graph that was imported runs itself; there is nothing to export from it.
        wanted="eager" if manifest.architecture == ONNX else inference,
    )
    loaded = Loaded(
        version=announcement.version,
        epoch=announcement.epoch,
        trained_at_ms=manifest.trained_at_ms,
        module=module,
        encode=Encoder(spec),
        device=device,
        choice=choice,
    )
    warm_up(loaded, num_numeric=len(spec.numeric), num_category=len(spec.category))
    return loaded


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
