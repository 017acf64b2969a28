"""Files of the registry and of snapshots, and what commits carry beside their offsets."""

import contextlib
import pickle

import msgspec
from river import linear_model, tree

from models.dense import build
from models.unpickling import unpickle
from schemas.errors import ModelError, SchemaError, SignatureRefused
from schemas.features import Category, FeatureSpec, Numeric
from schemas.manifest import Manifest, Metrics, decode_manifest, encode_manifest
from schemas.training import Check, TrainingJob, Verdict, decode_job, decode_verdict
from streams.ledger import dump
from streams.ledger.core import Ledger
from streams.ledger.pointer import Pointer
from streams.ledger.rules import Rules
from streams.store.recorded_range import decode_pending
from tests.fuzz.control import RING
from tests.fuzz.target import Target
from tests.unit.ledger_rows import labels, scored

_SPEC = FeatureSpec(
    numeric=(Numeric(name="a"), Numeric(name="b", missing=1.0)),
    category=(Category(name="c"),),
    vocabularies=(("x", "y"),),
)
MANIFEST = encode_manifest(
    Manifest(
        pipeline="flights", architecture="embedding_mlp",
        parameters={"num_numeric": 2, "vocabulary_sizes": [3]}, features=_SPEC,
        weights_sha256="0" * 64, trained_at_ms=1, seed=7, calibration=None,
        metrics={"model": Metrics(rows=5, auc=0.5, log_loss=0.7)},
    )
)  # fmt: skip
VERDICT = msgspec.json.encode(
    Verdict(
        pipeline="flights", version="a" * 12, digest="b" * 64, champion="", judged_at_ms=1, rows=5,
        event_time_ms_first=1, event_time_ms_last=2,
        checks=(Check(name="auc", passed=True, value=0.7, limit=0.5, why="better"),),
    )
)  # fmt: skip
JOB = msgspec.json.encode(
    TrainingJob(run="r", pipeline="flights", reference="flights", registry="/r", champion="a" * 12)
)


def check_manifest(content: bytes) -> None:
    """A manifest is read or refused, and so is the module that it describes.

    Sizes are cut before anything is built: the registry builds only what a trusted key signed.
    """
    try:
        manifest = decode_manifest(content)
    except ModelError:
        return
    assert decode_manifest(encode_manifest(manifest)) == manifest
    if all((isinstance(v, list) and len(v) < 9) or v in range(64) for v in _sizes(manifest)):
        with contextlib.suppress(ModelError):
            build(manifest.architecture, manifest.parameters)


def _sizes(manifest: Manifest) -> list[object]:
    found = list(manifest.parameters.values())
    return [*found, *(n for v in found if isinstance(v, list) for n in v[:9])]


def check_verdict(content: bytes) -> None:
    for decode in (decode_verdict, decode_job):
        with contextlib.suppress(SchemaError):
            decode(content)


def check_ledger(content: bytes) -> None:
    """The state of a ledger: refused, or one that can be worked with and written again."""
    try:
        ledger = dump.load(content)
    except SchemaError:
        return
    again = dump.load(bytes(dump.dump(ledger)))
    assert dump.digest(again) == dump.digest(ledger)


def check_pointer(content: bytes) -> None:
    text = content.decode(errors="replace")
    try:
        pointer = Pointer.decode(text)
    except SchemaError:
        return
    assert Pointer.decode(pointer.encode()) == pointer
    assert min(pointer.offsets) >= 0


def check_pending(content: bytes) -> None:
    pending = decode_pending(content.decode(errors="replace"))
    assert pending is None or 0 <= pending.p[0] <= pending.p[1] < 1 << 63


def check_envelope(content: bytes) -> None:
    """Nothing opens but what was sealed, for what it was sealed."""
    for purpose in ("model version", "verdict"):
        try:
            opened = RING.open(purpose, content)
        except SignatureRefused:
            continue
        assert (purpose, opened) == ("model version", b"content")


def _ledger() -> Ledger:
    ledger = Ledger(Rules(horizon_ms=100, silence=0.0, corrections_ms=50))
    ledger.turn([scored([("e1", 5), ("e2", 7)])], labels([("e1", 1.0, 9, 0), ("e9", 0.0, 9, 0)]))
    ledger.turn([scored([("e3", 300)], offset=2)], labels([]))
    return ledger


def check_pickle(content: bytes) -> None:
    """Nothing but a learner's classes is made, and nothing is run; anything else is refused."""
    with contextlib.suppress(ModelError):
        unpickle(content)


LEDGER = Target("ledger", [bytes(dump.dump(_ledger()))], check_ledger, bytes_max=16_384)
POINTER = Target(
    "pointer",
    [Pointer(snapshot="", scored_offset=3, labels_offset=4, turns=((1, 300), (0, 2)), rows=5,
             checksum=1 << 60, counts={"closed": 2}).encode().encode()],
    check_pointer, [b"gICAgICAgICAgICA", b"=="], bytes_max=4096,
)  # fmt: skip
PENDING = Target(
    "pending", [b'{"v":1,"p":[3,9],"n":7,"e":"1"}', b""], check_pending, bytes_max=4096
)
FILES = Target("manifest", [MANIFEST, MANIFEST.replace(b" ", b"")], check_manifest, bytes_max=8192)
VERDICTS = Target("verdict", [VERDICT, JOB], check_verdict, bytes_max=8192)
ENVELOPE = Target(
    "envelope", [RING.sign("model version", b"content")], check_envelope, bytes_max=1024
)
_learned = linear_model.LogisticRegression()
_learned.learn_one({"a": 1.0}, True)
PICKLE = Target(
    "pickle",
    [pickle.dumps(_learned), pickle.dumps(tree.HoeffdingTreeClassifier()), pickle.dumps([1, "a"])],
    check_pickle, [b"cos\nsystem\n(S'touch pwned'\ntR.", b"\x8c\x02os\x8c\x06system\x93"],
    bytes_max=8192,
)  # fmt: skip
