"""Predictions made again: the same bits, or every difference named."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.scored import read_scored
from schemas.settings import Settings
from streams.decisions.rescoring import Comparison, Rescoring
from tests.unit.test_score import shop
from tests.unit.test_score_arms import Constant, events, predictions, run, with_arms


def test_what_two_arms_answered_is_made_again_bit_for_bit(tmp_path: Path) -> None:
    """And a flipped bit, another version and a missing prediction are found."""
    scorer = with_arms(tmp_path, Constant(0.75))
    out = scorer(run(events()))
    batch = read_scored(next(part.values[0] for part in out if part.topic == "shop.scored"))
    published = {
        (said.source_partition, said.source_offset): (said.model_version, said.score)
        for said in predictions(out)
    }
    rescoring = Rescoring(shop, Settings(home=tmp_path))
    arms = scorer._engine.arms
    assert arms.canary is not None
    rescoring._loaded = {one.version: one for one in (arms.champion, arms.canary)}

    def compared(batch: pa.RecordBatch, published: dict) -> Comparison:
        found = Comparison()
        rescoring._compare(batch, published, found, {})
        return found

    good = compared(batch, published)
    assert (good.rows, good.equal, good.not_published, good.exact) == (200, 200, 0, True)
    assert set(good.versions) == {"0123456789ab", "c" * 12}
    assert not Comparison().exact

    scores = batch["model_score"].to_numpy().copy()
    scores.view(np.uint32)[17] ^= 1
    flipped = batch.set_column(
        batch.schema.get_field_index("model_score"), batch.schema.field("model_score"), scores
    )
    found = compared(flipped, published)
    assert (found.equal, found.exact, len(found.examples)) == (199, False, 1)
    assert "offset=151 " in found.examples[0]
    missing = dict(list(published.items())[1:])
    assert compared(batch, missing).not_published == 1
    place = (5, 100)
    assert compared(batch, published | {place: ("d" * 12, published[place][1])}).not_published == 1
