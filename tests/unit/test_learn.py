"""The state of a learn worker without Kafka: what it refuses, what it survives, what it publishes."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from faust.types import TP

from models.hybrid import OnlineModel
from models.measures import summed
from models.observer import PipelineObserver
from models.signing import Keyring
from schemas.errors import SetupError
from schemas.evaluations import read_evaluations
from schemas.pipeline import Pipeline, category, label, numeric, online
from streams.telemetry import Reporter
from streams.transport.records import Run
from streams.workers.learn import LearnState
from streams.workers.learners import MODEL, OBSERVER, OFFER, Assembler
from tests.connected.learning import message

RING = Keyring(Ed25519PrivateKey.from_private_bytes(b"1" * 32))


def shop(**more):
    return Pipeline(
        name="shop",
        key="user",
        features=[numeric("price"), numeric("age"), category("country")],
        target=label("bought"),
        **({"learner": online("logistic_regression")} | more),
    )


class Topic:
    """The learners topic of one shard: what was published, read back as a worker reads it."""

    def __init__(self, ring=RING):
        self.records, self.ring = [], ring

    def publish(self, outgoing):
        for part in outgoing:
            if part.topic == "shop.learners":
                self.records += zip(part.keys, part.values, strict=True)

    def newest(self, _shard=0):
        assembler = Assembler("shop", self.ring, wanted={MODEL, OBSERVER})
        found = [assembler.take(key, value) for key, value in self.records]
        newest = next((snapshot for snapshot in reversed(found) if snapshot), None)
        return newest and replace(newest, epoch_newest=assembler.epoch(0))

    def offered(self):
        """What a scorer takes, in order."""
        assembler = Assembler("shop", self.ring, wanted={MODEL, OFFER})
        found = [assembler.take(key, value) for key, value in self.records]
        return [snapshot for snapshot in found if snapshot]


def state(tmp_path, topic, pipeline=None, *, clock=lambda: 0.0):
    pipeline = pipeline or shop()
    reporter = Reporter(tmp_path, "w", "learn")
    made = LearnState(
        pipeline,
        0,
        make_model=lambda: OnlineModel(pipeline) if pipeline.learner else None,
        observer=PipelineObserver(pipeline, 0),
        keyring=RING,
        read_back=topic.newest,
        reporter=reporter,
        clock=clock,
        timer=clock,
    )
    return made, reporter.counters


def run(first, end):
    values = [message(i) for i in range(first, end)]
    rows = end - first
    return Run(TP("shop.examples", 0), [None] * rows, values, [0] * rows, range(first, end), end)


def lived(tmp_path, topic, pipeline=None, *, turns=((0, 3), (3, 7)), clock=lambda: 0.0):
    """A state after these turns, each committed; and the text that was committed last."""
    made, counters = state(tmp_path, topic, pipeline, clock=clock)
    made.restore("")
    text = ""
    for first, end in turns:
        topic.publish(made.turn([[run(first, end)]]))
        text = made.record((end,))
    return made, text, counters


def recovered(tmp_path, topic, text, pipeline=None):
    """Another process: restore, read the log again, verify."""
    made, counters = state(tmp_path, topic, pipeline)
    base, turns = made.restore(text)
    for (after,) in turns:
        assert made.turn([[run(base[0], after)]]) is not None
    made.verify()
    return made, base, counters


def test_the_first_turn_and_only_due_ones_publish(tmp_path) -> None:
    """The first, so that recovery never needs the beginning of a log that retention has cut."""
    topic = Topic()
    _, _, counters = lived(tmp_path, topic, turns=((0, 2), (2, 4), (4, 6)))
    assert counters["snapshots"] == 1, "the clock stood still, so no other was due"
    assert topic.newest().header.position == 2
    seconds = iter(range(0, 1000, 10))
    topic = Topic()
    _, _, counters = lived(
        tmp_path, topic, turns=((0, 2), (2, 4), (4, 6)), clock=lambda: next(seconds)
    )
    assert counters["snapshots"] == 3
    header = topic.newest().header
    assert (header.epoch, header.position, header.shard) == (3, 6, 0)
    assert header.fingerprint.startswith("logistic_regression ")
    assert header.rows_learned == counters["examples_learned"] > 10


def test_a_recovered_state_is_the_one_that_died(tmp_path) -> None:
    """From the snapshot and the messages since; then both go on alike."""
    topic = Topic()
    first, text, _ = lived(tmp_path, topic, turns=((0, 3), (3, 5), (5, 7)))
    again, base, _ = recovered(tmp_path, topic, text)
    assert base == (3,)
    for made in (first, again):
        made.turn([[run(7, 9)]])
    assert again.model.digest() == first.model.digest()
    assert again._observer.snapshot() == first._observer.snapshot()


def test_the_cuts_of_runs_and_turns_do_not_show(tmp_path) -> None:
    """An interrupted run has other turns than one that nothing interrupted."""
    whole, _, _ = lived(tmp_path, Topic(), turns=((0, 9),))
    cut, _, _ = lived(tmp_path, Topic(), turns=((0, 1), (1, 4), (4, 9)))
    split, _ = state(tmp_path, Topic())
    split.restore("")
    split.turn([[run(0, 2), run(2, 9)]])
    assert whole.model.digest() == cut.model.digest() == split.model.digest()
    assert whole._observer.snapshot() == cut._observer.snapshot() == split._observer.snapshot()


def test_between_whole_snapshots_what_was_learned_is_offered(tmp_path) -> None:
    """
    Goal: a scorer need not wait for a whole snapshot, which grows rare as the observer grows.

    Method: whole snapshots are never due again; a scorer's copy has learned what the learner has.
    Recovery goes on from the whole one, and epochs from the newest of both.
    """
    topic, clock = Topic(), [0.0]
    made, counters = state(tmp_path, topic, clock=lambda: clock[0])
    made.restore("")
    for end in range(1, 6):
        topic.publish(made.turn([[run(end - 1, end)]]))
        made._due_at_s = 1e9
        text = made.record((end,))
        clock[0] += 0.15  # so every other turn has an offer
    assert (counters["snapshots"], counters["offers"]) == (1, 2)
    assert [(s.header.epoch, s.header.position) for s in topic.offered()] == [
        (1, 1),
        (2, 3),
        (3, 5),
    ]
    served = OnlineModel(shop())
    served.restore(topic.offered()[-1].model)
    assert served.digest() == made.model.digest()
    again, base, _ = recovered(tmp_path, topic, text)
    assert base == (1,)
    assert again.model.digest() == made.model.digest()
    topic.publish(again.turn([[run(5, 6)]]))
    assert topic.offered()[-1].header.epoch == 4
    lived(tmp_path, topic, turns=((0, 1),))
    assert topic.offered()[-1].header.epoch == 5, "a new group must not fall behind the offers"


def test_what_was_learned_last_is_offered_although_nothing_more_is_learned(tmp_path) -> None:
    """Otherwise the last labels of the day would show in no prediction until the next morning."""
    topic, clock = Topic(), [0.0]
    made, counters = state(tmp_path, topic, clock=lambda: clock[0])
    made.restore("")
    made.turn([[run(0, 1)]])
    made._due_at_s = 1e9
    made.turn([[run(1, 2)]])
    assert (made._unpublished > 0, counters["offers"]) == (True, 0)
    clock[0] = 10.0
    silent = run(2, 3)
    silent.values[0] = b"no examples"
    topic.publish(made.turn([[silent]]))
    assert (made._unpublished, counters["offers"]) == (0, 1)


def test_a_snapshot_that_is_not_the_committed_one_is_refused(tmp_path) -> None:
    """Replayed, forged or lost: never go on with another state than the offsets belong to."""
    seconds = iter(range(0, 1000, 10))
    topic = Topic()
    _, text, _ = lived(tmp_path, topic, clock=lambda: next(seconds))
    older = Topic()
    older.records = topic.records[:3]
    with pytest.raises(SetupError, match="of offset=3, committed is one of 7"):
        recovered(tmp_path, older, text)
    with pytest.raises(SetupError, match="of offset=None, committed is one of 7"):
        recovered(tmp_path, Topic(), text)
    with pytest.raises(SetupError, match="could not read what was committed"):
        recovered(tmp_path, topic, "{}")


def test_another_log_than_the_one_that_was_learned_is_refused(tmp_path) -> None:
    """The checksum is over the messages and over what was said about each row."""
    topic = Topic()
    _, text, _ = lived(tmp_path, topic, turns=((0, 3), (3, 5)))
    made, _ = state(tmp_path, topic)
    made.restore(text)
    made.turn([[run(13, 15)]])
    with pytest.raises(SetupError, match="could not rebuild shard 0"):
        made.verify()


def test_a_changed_declaration_starts_anew_and_keeps_the_observer(tmp_path) -> None:
    """The old weights mean nothing to another learner; the position and the quality go on."""
    topic = Topic()
    first, text, _ = lived(tmp_path, topic)
    other = shop(learner=online("logistic_regression", learning_rate=0.5))
    again, _, counters = recovered(tmp_path, topic, text, other)
    assert counters["learners_reset"] == 1
    assert 0 < again.model.learner.rows_learned < first.model.learner.rows_learned
    topic.publish(again.turn([[run(7, 8)]]))
    header = topic.newest().header
    assert (header.epoch, header.position) == (2, 8)
    assert "learning_rate=0.5" in header.fingerprint


def test_a_group_that_starts_anew_goes_on_with_the_epochs(tmp_path) -> None:
    """Otherwise every scorer would refuse what it publishes."""
    topic = Topic()
    lived(tmp_path, topic)
    _, _, _ = lived(tmp_path, topic, turns=((0, 1),))
    assert topic.newest().header.epoch == 2


def test_a_message_that_holds_no_examples_becomes_a_dead_letter(tmp_path) -> None:
    """And the others of the same turn are learned."""
    topic = Topic()
    made, counters = state(tmp_path, topic)
    made.restore("")
    mixed = run(0, 3)
    mixed.values[1] = b"no examples"
    outgoing = made.turn([[mixed]])
    (letter,) = [part for part in outgoing if part.topic == "shop.dead-letters"]
    assert letter.values == [b"no examples"]
    assert ("offset", b"1") in letter.headers[0]
    assert counters["dead_letters"] == 1
    assert counters["examples_learned"] == made.model.learner.rows_learned > 0


def test_examples_of_another_declaration_are_watched_and_not_learned(tmp_path) -> None:
    """Nobody knows any more which number was which feature."""
    other = Pipeline(
        name="shop",
        key="user",
        features=[numeric("price")],
        target=label("bought"),
        learner=online("logistic_regression"),
    )
    made, counters = state(tmp_path, Topic(), other)
    made.restore("")
    made.turn([[run(0, 2)]])
    assert made.model.learner.rows_learned == counters["examples_learned"] == 0


def test_without_a_learner_the_observer_works_alone(tmp_path) -> None:
    """Quality and drift need no learner."""
    topic = Topic()
    pipeline = shop(learner=None)
    made, text, _ = lived(tmp_path, topic, pipeline)
    assert set(topic.newest().parts) == {OBSERVER}
    again, _, _ = recovered(tmp_path, topic, text, pipeline)
    assert again._observer.snapshot() == made._observer.snapshot()


def test_the_quality_of_what_is_served_is_a_metric(tmp_path) -> None:
    """The sums of its evaluations, and nothing that is repeated after a crash."""
    topic = Topic()
    made, counters = state(tmp_path, topic)
    made.restore("")
    said = []
    for end in (3, 5):
        outgoing = made.turn([[run(0 if end == 3 else 3, end)]])
        topic.publish(outgoing)
        said += [v for part in outgoing if part.topic == "shop.evaluations" for v in part.values]
        text = made.record((end,))
    served = summed(map(read_evaluations, said))["served"]
    for name in ("predictions", "labels", "correct", "corrected", "expired", "checked"):
        assert counters[f"served_{name}"] == served.counts[name], name
    for name in ("log_loss", "squared_error", "checked_estimated_correct"):
        assert counters[f"served_{name}"] == pytest.approx(served.sums[name], rel=1e-9), name
    assert served.counts["labels"] > 20
    _, _, again = recovered(tmp_path, topic, text)
    assert again["served_labels"] == 0
