"""What lies beside the weights of every model version, and how a version is announced."""

from typing import Any, Literal

import msgspec

from schemas.errors import ModelError
from schemas.features import FeatureSpec
from schemas.undecodable import UNDECODABLE

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
WEIGHTS = "model.safetensors"
ANNOUNCEMENT_SIGNATURE = "signature"
"""Kafka header of an announcement."""


class TrainingData(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows a version learned from.

    Attributes:
        source: Where they came from, in words a person understands.
        rows: How many.
        event_time_ms_first: Oldest event.
        event_time_ms_last: Youngest event.
        fingerprint: SHA-256 over the rows in order, so that a set can be recognised.
        as_of_ms: Nothing that became known from here on was used. None: not recorded.
        sql: The query that selected the rows, if they came out of the store.
        offsets: First and last offset of the examples of every partition, both included.
        label_revision_max: Highest revision of a label among the rows.
    """

    source: str
    rows: int
    event_time_ms_first: int
    event_time_ms_last: int
    fingerprint: str
    as_of_ms: int | None = None
    sql: str = ""
    offsets: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    label_revision_max: int = 0


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How log-odds were corrected on rows held out of the training; already part of the weights.

    Source: Platt 1999; ``scale`` is one over the temperature of Guo et al. 2017.

    Attributes:
        scale: Factor of the log-odds.
        bias: What is added to them.
        rows: Rows it was fitted on.
        loss_before: Log-loss of these rows before, nats per row.
        loss_after: And after.
    """

    scale: float
    bias: float
    rows: int
    loss_before: float
    loss_after: float


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """How good a scorer was on rows it had not seen.

    Attributes:
        rows: Rows it was measured on.
        auc: Area under the ROC curve, 0.5 for no skill.
        log_loss: Mean negative log-likelihood in nats; lower is better.
    """

    rows: int
    auc: float
    log_loss: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one version except its weights.

    Attributes:
        pipeline: The pipeline it answers for.
        architecture: Name of the module, as `models.dense.build` knows it.
        parameters: Sizes of that module, by argument name.
        features: The features it was trained on.
        weights_sha256: Digest of the safetensors file.
        trained_at_ms: End of the training: its age is measured from here.
        seed: Seed of everything random in the training.
        data: The training rows.
        metrics: Quality on later rows by scorer: ``model`` and the baselines beside it.
        created_by: Release of Tidemill that made it.
        parent: Version whose weights it began with; empty for a cold start.
        calibration: Correction of its log-odds; None for a model that was not calibrated.
    """

    pipeline: str
    architecture: str
    parameters: dict[str, Any]
    features: FeatureSpec
    weights_sha256: str
    trained_at_ms: int
    seed: int
    data: TrainingData | None = None
    metrics: dict[str, Metrics] = msgspec.field(default_factory=dict)
    created_by: str = ""
    parent: str = ""
    calibration: Calibration | None = None


class NamedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version as an announcement names it.

    Attributes:
        version: Its name in the registry.
        digest: SHA-256 of its manifest; a worker refuses anything else.
    """

    version: str
    digest: str


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """One record of ``tidemill.models``: which versions answer for a pipeline from now on.

    The whole state of a rollout is in each record, so the newest one alone is enough. It is signed:
    the signature is in the Kafka header `ANNOUNCEMENT_SIGNATURE` (`models.rollout.seal`).

    Attributes:
        pipeline: Also the Kafka key.
        version: Name of the version in the registry.
        digest: SHA-256 of its manifest; a worker refuses anything else.
        epoch: Grows with every announcement for the pipeline; a lower one is ignored.
        announced_at_ms: When.
        state: What it is to do.
        previous: The champion before, which workers keep in memory; a rollback goes back to it.
        challenger: The version that is tried out; None: no rollout runs.
        stage: What the challenger does: nothing, ``shadow`` (it answers beside the champion, and
            nobody sees it) or ``canary`` (it answers a share of the keys).
        share: Percent of the keys that a canary answers.
        tried_at_ms: When the rollout began; 0: none runs.
        held: A person keeps the rollout where it is: automation changes nothing.
        action: What this record was written for.
        reason: Why, for a person.
    """

    pipeline: str
    version: str
    digest: str
    epoch: int
    announced_at_ms: int
    state: Literal["champion"] = "champion"
    previous: NamedVersion | None = None
    challenger: NamedVersion | None = None
    stage: Literal["", "shadow", "canary"] = ""
    share: int = 0
    tried_at_ms: int = 0
    held: bool = False
    action: Literal["promote", "try", "widen", "rollback", "hold", "release"] = "promote"
    reason: str = ""

    @property
    def champion(self) -> NamedVersion:
        """The version that answers, but for what a canary answers."""
        return NamedVersion(version=self.version, digest=self.digest)


def decode_manifest(text: bytes) -> Manifest:
    """Decode a manifest.

    Raises:
        ModelError: it is not one that this release understands.
    """
    try:
        return msgspec.json.decode(text, type=Manifest)
    except UNDECODABLE as cause:
        raise ModelError(f"could not decode the manifest: {cause}") from cause


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical, readable JSON: the same manifest always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"
