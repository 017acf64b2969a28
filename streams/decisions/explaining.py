"""Why one prediction is what it is: its features as stored, and the version that answered, which is
loaded from the registry with its signature checked. On demand and far from the hot path.

Where an online learner had a share in the answer, its state of that moment is looked for in the
topic of its snapshots. That topic is compacted: of an old prediction it may be gone. Then the
nearest one that is left is taken, and the explanation says so.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from models.dense import Constant, EmbeddingMLP
from models.explain import (
    LEARNER_BASELINE,
    Attribution,
    integrated_gradients,
    nothing_known,
    shapley_values,
    weighted,
)
from models.features import Encoder
from models.hybrid import Corrector, OnlineModel, logits
from models.online import fingerprint
from models.protocol import FeatureColumns, Floats
from models.registry import Registry, open_registry
from models.signing import load_keyring
from schemas.errors import KafkaUnavailable, PermanentError, SchemaError
from schemas.features import split
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.books.committed import CommittedReader
from streams.store.client import Client, mapped_errors
from streams.workers.aging import PRIOR
from streams.workers.learners import MODEL, OFFER, Assembler, Snapshot, taken

SEARCH_S_MAX = 60.0
"""How long the learner's state is looked for in the topic of snapshots."""
REFERENCE_ROWS = 1000
"""Rows whose mean is the baseline of a model that shows nothing but its answers."""

STORED = """\
SELECT event_id, numeric, category, score, model_version, learner_position, source_partition
FROM scored
WHERE pipeline = {pipeline:String} AND event_id = {event_id:String}
ORDER BY predicted_at DESC
LIMIT 1"""

REFERENCE = """\
SELECT avgForEach(numeric)
FROM
(
    SELECT numeric FROM scored
    WHERE pipeline = {pipeline:String} AND model_version = {version:String}
    LIMIT {rows:UInt32}
)"""


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature adds to the answer.

    Attributes:
        feature: Its name.
        value: What the model saw.
        adds: In log-odds; of a target that is a number, in its unit. Above 0: towards a 1, or up.
    """

    feature: str
    value: float | str
    adds: float


class Learner(msgspec.Struct, frozen=True, kw_only=True):
    """The online learner that had a share in the answer.

    Attributes:
        position: How far the explained state had learned: an offset of the examples.
        position_then: How far the state had learned that answered.
        exact: Whether the two are the same.
    """

    position: int
    position_then: int
    exact: bool


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a prediction is what it is: base + all that features add + remainder = answer.

    Attributes:
        event_id: The event.
        version: The version that answered.
        unit: Of all that is added: ``log-odds``, or the name of the target.
        method: How the contributions were found.
        baseline: What they are measured from.
        base: The answer to the baseline.
        base_score: The same as a score.
        answer: The answer that was explained.
        remainder: What the contributions do not account for.
        score: What was published and stored.
        score_again: What the explained model says now: far from ``score``, do not believe the rest.
        contributions: The largest first, whatever their sign.
        learner: None if none had a share.
    """

    event_id: str
    version: str
    unit: str
    method: str
    baseline: str
    base: float
    base_score: float
    answer: float
    remainder: float
    score: float
    score_again: float
    contributions: list[Contribution]
    learner: Learner | None = None


class _Row(msgspec.Struct):
    event_id: str
    numeric: list[float]
    category: list[str]
    score: float
    version: str
    position: int
    partition: int


def explain(pipeline: Pipeline, settings: Settings, client: Client, event_id: str) -> Explanation:
    """Explain the newest prediction of ``event_id``; it takes seconds. Not inside an event loop.

    Raises:
        PermanentError: there is none in the store.
        SchemaError: it was made with other features than the pipeline declares now.
        ModelError: its version is gone, or nobody trusted signed it.
        StoreUnavailable, KafkaUnavailable: they do not answer.
    """
    row = _stored(client, pipeline, event_id)
    columns = _columns(pipeline, row)

    def deep() -> Attribution:
        return _deep(pipeline, open_registry(settings), client, row, columns)

    if row.position < 0 or pipeline.learner is None:
        return _told(pipeline, row, columns, deep(), None)
    shard = 0 if pipeline.learner.shards == "single" else row.partition
    snapshot = asyncio.run(_snapshot(pipeline, settings, shard=shard, position=row.position))
    assert snapshot.model is not None
    model = OnlineModel(pipeline)
    model.restore(snapshot.model)
    found = _of_learner(model, columns, binary=pipeline.target.kind == "binary")
    if pipeline.champion == "hybrid":
        weights = model.correctors.get(row.version, Corrector()).weights
        found = _blended(deep(), found, weights)
    position = snapshot.header.position
    learner = Learner(position=position, position_then=row.position, exact=position == row.position)
    return _told(pipeline, row, columns, found, learner)


def _stored(client: Client, pipeline: Pipeline, event_id: str) -> _Row:
    with mapped_errors("read the prediction"):
        rows = client.query(
            STORED, parameters={"pipeline": pipeline.name, "event_id": event_id}
        ).result_rows
    if not rows:
        raise PermanentError(
            f"could not explain event_id={event_id!r}: the store has no prediction of it. It was "
            "not sent, is on its way, or is a dead letter."
        )
    return _Row(*rows[0])


def _columns(pipeline: Pipeline, row: _Row) -> FeatureColumns:
    numeric, category = split(pipeline.features)
    if (len(row.numeric), len(row.category)) != (len(numeric), len(category)):
        raise SchemaError(
            f"could not explain the prediction: version={row.version} answered other features than "
            f"{pipeline.name} declares now"
        )
    return FeatureColumns(
        tuple(f.name for f in numeric),
        tuple(f.name for f in category),
        np.array([row.numeric], np.float32),
        pa.array(row.category, pa.utf8()),
    )


def _deep(
    pipeline: Pipeline, registry: Registry, client: Client, row: _Row, columns: FeatureColumns
) -> Attribution:
    """The version's own answer."""
    if row.version == PRIOR:
        return _constant(pipeline.target.prior, columns)
    manifest, module = registry.load(pipeline.name, row.version)
    spec = manifest.features
    encode = Encoder(spec)
    if isinstance(module, Constant):
        return _constant(float(module.probability), columns)
    if isinstance(module, EmbeddingMLP):
        names = tuple(f.name for f in spec.numeric), tuple(f.name for f in spec.category)
        return integrated_gradients(module, encode(columns), numeric=names[0], category=names[1])

    def answer(many: FeatureColumns) -> Floats:
        return logits(module(*encode(many)).numpy())

    with mapped_errors("read rows to compare with"):
        [[means]] = client.query(
            REFERENCE,
            parameters={
                "pipeline": pipeline.name, "version": row.version, "rows": REFERENCE_ROWS,
            },
        ).result_rows  # fmt: skip
    return shapley_values(
        answer,
        columns,
        baseline=replace(
            nothing_known(columns), numeric_BF=np.array([means], np.float32).reshape(1, -1)
        ),
        words=f"numbers at their mean in up to {REFERENCE_ROWS} predictions of this version, words "
        "that the model does not know",
    )


def _constant(probability: float, columns: FeatureColumns) -> Attribution:
    [said] = logits(np.array([probability])).tolist()
    return Attribution(
        method="it answers the same to everything",
        baseline="any event",
        base=said,
        answer=said,
        contributions=dict.fromkeys(columns.numeric + columns.category, 0.0),
    )


def _blended(deep: Attribution, online: Attribution, weights: Sequence[float]) -> Attribution:
    """Both together, as the corrector weighed them: see `models.hybrid`."""
    a, b, c = weights
    parts = f"deep model: {deep.method}; learner: {online.method}"
    method = f"{a:.3f} * deep model {b:+.3f} * learner {c:+.3f} ({parts})"
    return weighted([(a, deep), (b, online)], bias=c, method=method)


def _of_learner(model: OnlineModel, columns: FeatureColumns, *, binary: bool) -> Attribution:
    from models.river_linear import Linear  # River: only where a learner had a share

    learner: Any = model.learner
    if isinstance(learner, Linear):
        shares, intercept = learner.shares(columns)
        return Attribution(
            method="weight * (value - mean), exact",
            baseline=LEARNER_BASELINE,
            base=intercept,
            answer=intercept + sum(shares.values()),
            contributions=shares,
        )
    score: Callable[[FeatureColumns], Floats] = learner.score

    def answer(many: FeatureColumns) -> Floats:
        return logits(score(many)) if binary else score(many)

    return shapley_values(answer, columns, baseline=nothing_known(columns), words=LEARNER_BASELINE)


async def _snapshot(
    pipeline: Pipeline, settings: Settings, *, shard: int, position: int
) -> Snapshot:
    """The snapshot of ``shard`` at ``position``, or the nearest one that is left.

    Raises:
        PermanentError: there is none.
        KafkaUnavailable: the topic could not be read in `SEARCH_S_MAX`.
    """
    assert pipeline.learner is not None
    wanted = fingerprint(pipeline.learner, pipeline.target)
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    assembler = Assembler(pipeline.name, keyring, wanted={MODEL, OFFER})
    name = pipeline.topics.learners.name
    best: Snapshot | None = None
    try:
        async with asyncio.timeout(SEARCH_S_MAX), CommittedReader(settings) as reader:
            async for _, records in reader.read(name, await reader.spans(name)):
                for record in records:
                    one = taken(assembler, record)
                    if one is None or (one.header.shard, one.header.fingerprint) != (shard, wanted):
                        continue
                    if best is None or _away(one, position) < _away(best, position):
                        best = one
    except TimeoutError as cause:
        raise KafkaUnavailable(f"could not read {name} within {SEARCH_S_MAX:.0f} s") from cause
    if best is None:
        raise PermanentError(
            f"could not explain the prediction: {name} has no snapshot of the learner that had a "
            f"share in it; shard={shard}"
        )
    return best


def _away(snapshot: Snapshot, position: int) -> int:
    return abs(snapshot.header.position - position)


def _told(
    pipeline: Pipeline,
    row: _Row,
    columns: FeatureColumns,
    found: Attribution,
    learner: Learner | None,
) -> Explanation:
    binary = pipeline.target.kind == "binary"
    values: dict[str, float | str] = dict(zip(columns.numeric, row.numeric, strict=True))
    values |= dict(zip(columns.category, row.category, strict=True))
    largest = sorted(found.contributions.items(), key=lambda item: -abs(item[1]))
    return Explanation(
        event_id=row.event_id,
        version=row.version,
        unit="log-odds" if binary else pipeline.target.name,
        method=found.method,
        baseline=found.baseline,
        base=found.base,
        base_score=_score(found.base, binary=binary),
        answer=found.answer,
        remainder=found.remainder,
        score=row.score,
        score_again=_score(found.answer, binary=binary),
        contributions=[
            Contribution(feature=name, value=values[name], adds=adds) for name, adds in largest
        ],
        learner=learner,
    )


def _score(answer: float, *, binary: bool) -> float:
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, answer)))) if binary else answer
