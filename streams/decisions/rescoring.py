"""Predictions made again: from the features as they were used, by the versions that are recorded,
compared with what was published.

For every scored row of a range of source offsets, three things must agree: the model's score made
again and the recorded one, bit for bit; the published prediction and the recorded score, rounded as
it was; and the version that both name. Where an online learner had a share in the score, the
model's part alone can be made again: those rows are counted as blended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from models.engine import Loaded
from models.protocol import FeatureColumns
from models.registry import load_serving, open_registry
from schemas.errors import SchemaError
from schemas.features import split
from schemas.manifest import Announcement
from schemas.pipeline import Pipeline
from schemas.predictions import Prediction
from schemas.scored import read_scored
from schemas.settings import Settings
from streams.books.committed import CommittedReader
from streams.workers.aging import PRIOR, prior

EXAMPLES_MAX = 10
"""Differences that are shown; all are counted."""
ROWS_MAX = 2_000_000
"""Rows of one comparison: what is published is held in memory, some 400 bytes each."""


@dataclass(slots=True)
class Comparison:
    """What a comparison found.

    Attributes:
        rows: Scored rows that were made again.
        equal: Of these, how many are the same bit for bit.
        blended: In how many an online learner had a share, which is not made again.
        not_published: Scored rows without a prediction that says the same.
        difference_max: The largest difference of a model's score.
        versions: Rows by version.
        switches: Places where a partition went from one version to another.
        examples: Some of the differences.
    """

    rows: int = 0
    equal: int = 0
    blended: int = 0
    not_published: int = 0
    difference_max: float = 0.0
    versions: dict[str, int] = field(default_factory=dict)
    switches: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether everything is as it was."""
        return self.rows > 0 and self.rows == self.equal and not self.not_published


Published = dict[tuple[int, int], tuple[str, float]]


class Rescoring:
    """Reads both topics of a pipeline and compares. Needs every version that is recorded."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._registry = open_registry(settings)
        self._loaded: dict[str, Loaded] = {}
        numeric, category = split(pipeline.features)
        self._numeric = tuple(item.name for item in numeric)
        self._category = tuple(item.name for item in category)

    async def run(self, *, first: int, last: int | None) -> Comparison:
        """Compare source offsets ``first`` to ``last`` (None: the end) of every partition.

        Raises:
            KafkaUnavailable, PreflightError: the topics cannot be read.
            ModelError: a version that is recorded cannot be loaded any more.
            SchemaError: the rows were made with other features than the pipeline declares.
        """
        found = Comparison()
        before: dict[int, str] = {}
        topics = self._pipeline.topics
        async with CommittedReader(self._settings) as reader:
            published = await self._published(reader, first=first, last=last)
            name = topics.scored.name
            async for _partition, records in reader.read(name, await reader.spans(name)):
                for record in records:
                    batch = _within(read_scored(record.value), first=first, last=last)
                    if batch.num_rows:
                        self._compare(batch, published, found, before)
        return found

    async def _published(
        self, reader: CommittedReader, *, first: int, last: int | None
    ) -> Published:
        published: Published = {}
        decode = msgspec.json.Decoder(Prediction).decode
        name = self._pipeline.topics.predictions.name
        async for _partition, records in reader.read(name, await reader.spans(name)):
            for record in records:
                said = decode(record.value)
                if first <= said.source_offset and (last is None or said.source_offset <= last):
                    place = (said.source_partition, said.source_offset)
                    published[place] = (said.model_version, said.score)
            if len(published) > ROWS_MAX:
                raise SchemaError(
                    f"could not compare more than {ROWS_MAX} predictions at once: name a range "
                    "with --from-offset and --to-offset"
                )
        return published

    def _compare(
        self,
        batch: pa.RecordBatch,
        published: Published,
        found: Comparison,
        before: dict[int, str],
    ) -> None:
        versions = batch["model_version"].to_pylist()
        recorded = batch["model_score"].to_numpy()
        again = self.score(batch, versions)
        same = again.view(np.uint32) == recorded.view(np.uint32)
        found.rows += batch.num_rows
        found.equal += int(same.sum())
        found.blended += int((batch["learner_position"].to_numpy() >= 0).sum())
        found.difference_max = max(found.difference_max, float(np.abs(again - recorded).max()))
        partitions = batch["source_partition"].to_pylist()
        offsets = batch["source_offset"].to_pylist()
        rounded = np.round(batch["score"].to_numpy().astype(np.float64), 6).tolist()
        for i, (partition, offset, version) in enumerate(
            zip(partitions, offsets, versions, strict=True)
        ):
            found.versions[version] = found.versions.get(version, 0) + 1
            found.switches += before.get(partition, version) != version
            before[partition] = version
            said = published.get((partition, offset))
            if said != (version, rounded[i]):
                found.not_published += 1
            if (said != (version, rounded[i]) or not same[i]) and len(
                found.examples
            ) < EXAMPLES_MAX:
                found.examples.append(
                    f"partition={partition} offset={offset} version={version} "
                    f"recorded={recorded[i]!r} again={again[i]!r} published={said}"
                )

    def score(self, batch: pa.RecordBatch, versions: Sequence[str]) -> np.ndarray:
        """What the recorded versions say about the recorded features, float32 ``[B]``."""
        scores = np.empty(batch.num_rows, np.float32)
        names = np.array(versions)
        for version in dict.fromkeys(versions):
            mine = names == version
            rows = batch.filter(pa.array(mine))
            numbers = rows["numeric"].flatten().to_numpy(zero_copy_only=False)
            words = rows["category"].flatten()
            if (len(numbers), len(words)) != (
                rows.num_rows * len(self._numeric),
                rows.num_rows * len(self._category),
            ):
                raise SchemaError(
                    f"could not make predictions again: version={version} answered other features "
                    f"than {self._pipeline.name} declares now"
                )
            columns = FeatureColumns(
                self._numeric,
                self._category,
                numbers.astype(np.float32).reshape(rows.num_rows, len(self._numeric)),
                words,
            )
            scores[mine] = self._version(version).score(columns)
        return scores

    def _version(self, version: str) -> Loaded:
        if version == PRIOR:
            return self._loaded.setdefault(PRIOR, prior(self._pipeline))
        if version not in self._loaded:
            name = self._pipeline.name
            told = Announcement(
                pipeline=name,
                version=version,
                digest=self._registry.digest(name, version),
                epoch=1,
                announced_at_ms=0,
            )
            self._loaded[version] = load_serving(self._registry, told)
        return self._loaded[version]


def _within(batch: pa.RecordBatch, *, first: int, last: int | None) -> pa.RecordBatch:
    offsets = batch["source_offset"].to_numpy()
    kept = offsets >= first
    if last is not None:
        kept &= offsets <= last
    return batch if kept.all() else batch.filter(pa.array(kept))
