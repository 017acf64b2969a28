"""Scored rows of many drains and sizes: messages that the topic takes, in the order of the events."""

from pathlib import Path

import pytest

from schemas.scored import SCORED, read_scored
from streams.workers import score, scored_rows
from streams.workers.scored_rows import SCORED_BYTES_MAX
from tests.unit.test_score import event, make, run, scored, shop


def test_large_runs_are_split_into_messages_that_the_topic_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the topic's limit each; rows keep their order over the messages."""
    assert shop.topics.scored.message_bytes_max == 2 * SCORED_BYTES_MAX
    monkeypatch.setattr(scored_rows, "SCORED_BYTES_MAX", 20_000)
    answer = make(tmp_path)(run([event(str(i), country="x" * 500) for i in range(200)]))
    [messages] = [part.values for part in answer if part.topic == "shop.scored"]
    assert len(messages) > 5
    assert max(map(len, messages)) <= 20_000
    assert [row["event_id"] for row in scored(answer)] == [str(i) for i in range(200)]
    assert all(read_scored(message).schema.equals(SCORED) for message in messages)


def test_an_event_larger_than_a_message_still_goes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row cannot be halved; splitting must end."""
    monkeypatch.setattr(scored_rows, "SCORED_BYTES_MAX", 100)
    assert len(scored(make(tmp_path)(run([event("a"), event("b")])))) == 2


def test_scored_rows_of_several_drains_become_one_message(tmp_path: Path) -> None:
    """In the order of the drains, one per partition."""
    scorer = make(tmp_path)
    items = [
        item
        for ids in ("ab", "c", "def")
        for item in scorer.compute([run([event(word) for word in ids], partition=2)])
    ]
    scored = [part for part in scorer.finish(items) if part.topic == "shop.scored"]
    [message] = scored[0].values
    assert len(scored) == 1
    assert read_scored(message)["event_id"].to_pylist() == list("abcdef")


def test_rows_keep_their_order_when_large_and_small_drains_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large drains are columns already, small ones are not; partitions come in any order."""
    monkeypatch.setattr(score, "FEW_ROWS_MAX", 2)
    scorer = make(tmp_path)
    drains = [{2: "ab"}, {2: "cde", 5: "ABC"}, {5: "D"}, {2: "f"}, {2: "ghi"}, {2: "j", 5: "E"}]
    items = [
        item
        for drain in drains
        for item in scorer.compute(
            [run(list(map(event, w)), partition=p) for p, w in drain.items()]
        )
    ]
    found = {part.partition: part for part in scorer.finish(items) if part.topic == "shop.scored"}
    for partition, expected in ((2, "abcdefghij"), (5, "ABCDE")):
        [message] = found[partition].values
        assert read_scored(message)["event_id"].to_pylist() == list(expected)
