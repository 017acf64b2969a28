"""River's figures for late labels, in one process and through the topics of a real broker."""

import pytest

from streams.bench.delayed import ANCHORS, by_river, journal
from streams.bench.late_labels import in_one_process, on_broker


def test_the_journal_asks_and_answers_in_rivers_order():
    """500 questions before the first answer, then in turn, and what is left at the end."""
    kinds = journal(ANCHORS[3])["kind"].to_pylist()
    assert kinds[:502] == ["pending"] * 500 + ["final", "pending"]
    assert kinds[-501:] == ["pending"] + ["final"] * 500
    assert (kinds.count("pending"), kinds.count("final")) == (1250, 1250)


@pytest.mark.parametrize("anchor", [ANCHORS[3], ANCHORS[7]], ids=lambda anchor: anchor.name)
def test_our_learner_and_observer_give_rivers_figure(anchor, tmp_path):
    """Score, then learn, row by row, and judged by the answer that was given to the question."""
    found = in_one_process(anchor, tmp_path)
    assert found == pytest.approx(anchor.expected, abs=anchor.tolerance)
    assert found == pytest.approx(by_river(anchor), abs=1e-5)


async def test_through_real_topics_it_is_the_same(kafka, tmp_path):
    """A real learn worker, its transactions and its evaluations; one anchor of the eight."""
    [found] = await on_broker(kafka, [ANCHORS[2]], tmp_path)
    assert found == pytest.approx(ANCHORS[2].expected, abs=ANCHORS[2].tolerance)
