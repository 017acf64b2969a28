"""Quality: sums that are exact however labels come, are corrected, and messages are cut."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score

from models.measures import summed
from models.memory import MemoryContent
from models.observer import PipelineObserver
from models.quality import Quality
from schemas.drift import drift
from schemas.errors import SchemaError
from schemas.evaluations import read_evaluations, write_evaluations
from schemas.pipeline import Pipeline, category, label, numeric
from tests.unit.journal import HOUR_MS, message, row

PRIOR = 0.3
shop = Pipeline(
    name="shop", key="user", features=[numeric("price"), category("country")],
    target=label("bought", prior=PRIOR),
)  # fmt: skip


@st.composite
def journals(draw):
    """Rows in the order of a journal: every prediction is asked, some are answered, some twice."""
    events = draw(
        st.lists(
            st.tuples(
                st.floats(0, 1, width=32),  # score
                st.floats(0, 1, width=32),  # of the model alone
                st.lists(st.sampled_from([0.0, 1.0]), max_size=3),  # truths, each replacing
                st.sampled_from(["final", "provisional", "expired", "nothing"]),
                st.integers(0, 2),  # hour
                st.sampled_from(["v1", "v2"]),
            ),
            min_size=1,
            max_size=25,
        )
    )
    places = []
    for number, (score, model, truths, ending, hour, version) in enumerate(events):
        shared = {"score": score, "model": model, "hour": hour, "version": version}
        steps = [row(number, "pending", **shared)]
        if ending == "expired":
            steps.append(row(number, "expired", **shared))
        elif ending != "nothing":
            previous = None
            for truth in truths:
                kind = ending if previous is None else "corrected"
                steps.append(
                    row(number, kind, label=truth, previous=previous, delay_ms=7, **shared)
                )
                previous = truth
        moments = sorted(draw(st.lists(st.floats(0, 1), min_size=len(steps), max_size=len(steps))))
        places += [
            ((moment, number, i), step)
            for i, (moment, step) in enumerate(zip(moments, steps, strict=True))
        ]
    return [step for _, step in sorted(places, key=lambda item: item[0])]


def observe(quality, rows, online, cuts=()):
    """The batches of ``rows`` cut into messages at ``cuts``, and the online score of each row."""
    places = [0, *sorted(cuts), len(rows)]
    found = []
    for first, last in pairwise(places):
        if first < last:
            scores = {"online": np.array(online[first:last])}
            batch = quality.observe(message(rows[first:last]), scores).to_batch()
            found += [] if batch is None else [read_evaluations(write_evaluations(batch))]
    return found


def expected(rows, online):
    """By event, what is true in the end: the score that counts and the newest truth."""
    events = {}
    last_label = PRIOR
    for line, said in zip(rows, online, strict=True):
        event = events.setdefault(line["source_offset"], {})
        if line["kind"] == "pending":
            event |= {"served": line["score"], "model": line["model_score"], "online": said,
                      "no_change": last_label, "prior": PRIOR, "truth": None,
                      "window": (line["event_time"] // HOUR_MS, line["model_version"])}  # fmt: skip
        if line["label"] is not None:
            event["truth"] = last_label = line["label"]
    return events.values()


def nano(value):
    return round(float(value) * 1e9) / 1e9


@settings(max_examples=150, deadline=None)
@given(journals(), st.data())
def test_sums_of_a_window_are_those_of_the_truths_that_stand(rows, data):
    """
    Goal: corrections take back exactly what they replace; no sum depends on how it came about.

    Method: whatever the order, the sums per window, version and score equal those of a plain loop
    over the last truth of each event.
    """
    online = data.draw(st.lists(st.floats(0, 1), min_size=len(rows), max_size=len(rows)))
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=4))
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS)
    found: dict = {}
    for batch in observe(quality, rows, online, cuts):
        for line in batch.to_pylist():
            key = (
                line["window_start"].timestamp() * 1000 // HOUR_MS,
                line["model_version"],
                line["subject"],
            )
            total = found.setdefault(
                key,
                dict.fromkeys(
                    ("predictions", "labels", "correct", "positives", "squared_error", "log_loss"),
                    0,
                ),
            )
            for name in total:
                total[name] += line[name]
    wanted: dict = {}
    for event in expected(rows, online):
        for subject in ("served", "model", "online", "no_change", "prior"):
            total = wanted.setdefault((*event["window"], subject), {})
            score, truth = np.float64(event[subject]), event["truth"]
            add = {"predictions": 1}
            if truth is not None:
                right = score if truth else 1 - score
                add |= {
                    "labels": 1, "positives": truth, "correct": (score > 0.5) == (truth > 0.5),
                    "squared_error": round((score - truth) ** 2 * 1e9),
                    "log_loss": round(-np.log(np.clip(right, 1e-15, 1)) * 1e9),
                }  # fmt: skip
            for name, value in add.items():
                total[name] = total.get(name, 0) + int(value)
    for key, total in wanted.items():
        for name, value in found.get(key, {}).items():
            scale = 10**9 if name in {"squared_error", "log_loss"} else 1
            assert int(value * scale) == total.get(name, 0), (key, name)
    assert set(found) <= set(wanted)
    assert all(key in found for key, total in wanted.items())


@settings(max_examples=60, deadline=None)
@given(journals(), st.data())
def test_restored_in_mid_stream_it_goes_on_as_if_nothing_had_been(rows, data):
    """Same rows, same alarms, same bytes of the next snapshot."""
    cut = data.draw(st.integers(0, len(rows)))
    straight, before, after = (PipelineObserver(shop) for _ in range(3))
    first, second = message(rows[:cut]), message(rows[cut:])
    scores = [{"online": np.asarray(m["score"], float)} for m in (first, second)]
    straight.observe(first, scores[0])
    before.observe(first, scores[0])
    after.restore(before.snapshot())
    assert after.snapshot() == straight.snapshot()
    left, right = straight.observe(second, scores[1]), after.observe(second, scores[1])
    assert left.alarms == right.alarms
    assert (left.evaluations is None) == (right.evaluations is None)
    assert left.evaluations is None or left.evaluations.equals(right.evaluations)
    assert after.snapshot() == straight.snapshot()


def labelled(count, seed):
    """Predictions of an honest score, all answered, in one journal."""
    random = np.random.default_rng(seed)
    score = random.beta(0.6, 1.5, count).astype(np.float32).astype(float)
    truth = (random.random(count) < score).astype(float)
    delay = np.exp(random.normal(8, 3, count)).astype(int)
    rows = [row(i, "pending", score=score[i]) for i in range(count)]
    rows += [
        row(i, "final", score=score[i], label=truth[i], delay_ms=int(delay[i]))
        for i in range(count)
    ]
    return rows, score, truth, delay


@pytest.mark.parametrize("seed", range(3))
def test_measures_agree_with_those_of_a_library(seed):
    """AUC and delay quantiles within the error that they state, the others to the last digit."""
    rows, score, truth, delay = labelled(3000, seed)
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS)
    served = summed(observe(quality, rows, np.full(len(rows), np.nan), [500, 2000, 4500]))["served"]
    area, error_max = served.auc
    assert abs(area - roc_auc_score(truth, score)) <= error_max + 1e-12
    assert error_max < 0.01
    assert served.accuracy == np.mean((score > 0.5) == (truth > 0.5))
    assert served.kappa == pytest.approx(cohen_kappa_score(truth, score > 0.5))
    assert served.log_loss == pytest.approx(log_loss(truth, score), abs=2e-9)
    assert served.brier == pytest.approx(np.mean((score - truth) ** 2), abs=2e-9)
    for share in (0.1, 0.5, 0.95):
        exact = np.sort(delay)[int(np.ceil(share * len(delay))) - 1]
        assert served.delay_ms(share) == pytest.approx(exact, rel=0.0225)
    assert (served.coverage, served.counts["predictions"]) == (1.0, 3000)


def test_the_estimate_before_labels_is_near_the_truth_and_says_by_how_much():
    """A score that exaggerates is believed until labels show what it is worth."""
    random = np.random.default_rng(5)
    honest = random.beta(0.8, 0.8, 12_000)
    logit = np.log(honest / (1 - honest))
    score = (1 / (1 + np.exp(-3 * logit))).astype(np.float32).astype(float)
    truth = (random.random(len(honest)) < honest).astype(float)
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS)
    batches = []
    for first in range(0, len(honest), 1000):
        block = range(first, first + 1000)
        rows = [row(i, "pending", score=score[i], hour=first // 6000) for i in block]
        rows += [
            row(i, "final", score=score[i], label=truth[i], hour=first // 6000, delay_ms=1)
            for i in block
        ]
        batches += observe(quality, rows, np.full(len(rows), np.nan), [1000])
    naive = np.mean(np.maximum(score, 1 - score))
    accuracy = np.mean((score > 0.5) == (truth > 0.5))
    assert naive - accuracy > 0.1, "the case must be one in which belief alone is wrong"
    late = summed(batches[len(batches) // 2 :])["served"]
    assert abs(late.estimated_accuracy - late.accuracy) < 0.02
    assert late.estimate_error == pytest.approx(late.estimated_accuracy - late.accuracy, abs=1e-6)


def test_a_number_is_judged_by_its_errors_and_a_correction_takes_back_huge_ones():
    """Squares of errors of a billion still add up to the last digit."""
    quality = Quality(binary=False, prior=0.0, window_ms=HOUR_MS)
    truths = [3.0, -1e9, 12.25]
    rows = [row(i, "pending", score=1.5) for i in range(3)]
    rows += [row(i, "final", score=1.5, label=truth, delay_ms=1) for i, truth in enumerate(truths)]
    rows.append(row(1, "corrected", score=1.5, label=2.0, previous=-1e9, delay_ms=2))
    served = summed(observe(quality, rows, np.full(len(rows), np.nan)))["served"]
    assert served.mae == pytest.approx(np.mean([1.5, 0.5, 10.75]), abs=1e-9)
    assert served.rmse == pytest.approx(np.sqrt(np.mean([2.25, 0.25, 115.5625])), abs=1e-9)
    assert served.counts["corrected"] == 1


def test_a_forgotten_prediction_is_not_judged_by_a_later_score():
    """The learner knows the answer by then; the books say that it was not judged."""
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS, memory_rows_max=2)
    rows = [row(i, "pending") for i in range(3)]
    rows += [row(i, "final", label=1.0, delay_ms=1) for i in (1, 2)]
    rows.append(row(0, "final", label=1.0, delay_ms=1))
    rows.append(row(1, "corrected", label=0.0, previous=1.0, delay_ms=1))
    online = [0.1, 0.2, 0.3, np.nan, np.nan, np.nan, 0.9]
    found = summed(observe(quality, rows, online, [5, 6]))
    assert found["served"].counts["labels"] == 3
    assert found["online"].counts["labels"] == 2
    assert found["online"].counts["corrected"] == 0
    assert (quality.forgotten, quality.evicted) == (2, 2)


ASKED_LONG_AGO = [
    row(0, "pending", hour=1),
    row(1, "pending", hour=3),
    row(2, "pending", hour=4),
    row(0, "final", label=1.0, delay_ms=1, hour=1),
    row(1, "final", label=1.0, delay_ms=1, hour=3),
]


def test_a_prediction_is_forgotten_once_no_truth_can_come_any_more():
    """Otherwise a learner's memory and snapshots grow for hours, with what nobody asks for."""
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS, memory_ms_max=5 * HOUR_MS // 2)
    kept = []
    for first, last in pairwise((0, 1, 2, 3, 5)):
        batch = ASKED_LONG_AGO[first:last]
        observe(quality, batch, np.full(len(batch), 0.5))
        kept.append(len(quality.content().memory.keys) // 8)
    assert kept == [1, 2, 2, 3]  # the truth that came too late put its prediction there again
    assert (quality.forgotten, quality.evicted) == (1, 0)


def test_a_memory_without_times_counts_from_the_first_event_after_it():
    """A release that kept no times wrote it."""
    former = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS)
    observe(former, ASKED_LONG_AGO[:2], np.full(2, 0.5))
    content = former.content()
    memory = MemoryContent(content.memory.keys, content.memory.values, content.memory.evicted)
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS, memory_ms_max=5 * HOUR_MS // 2)
    quality.load(msgspec.structs.replace(content, memory=memory, clock_ms=0))
    observe(quality, ASKED_LONG_AGO[2:], np.full(3, 0.5))
    assert quality.forgotten == 0
    observe(quality, [row(3, "pending", hour=7)], [0.5])
    assert len(quality.content().memory.keys) == 8
    twice = MemoryContent(2 * memory.keys, 2 * memory.values, 0)
    with pytest.raises(ValueError, match="rows=4"):
        quality.load(msgspec.structs.replace(content, memory=twice))


def test_what_is_not_waited_for_is_counted_and_its_late_truth_is_judged():
    quality = Quality(binary=True, prior=PRIOR, window_ms=HOUR_MS)
    rows = [row(i, "pending") for i in range(3)]
    rows += [row(0, "expired"), row(1, "expired"), row(2, "evicted")]
    rows.append(row(0, "final", label=1.0, delay_ms=1))
    counts = summed(observe(quality, rows, np.full(7, np.nan)))["served"].counts
    assert (counts["expired"], counts["evicted"], counts["labels"]) == (2, 1, 1)


def test_foreign_snapshots_are_refused():
    other = Pipeline(
        name="shop", key="user", features=[numeric("price")], target=label("price", kind="number")
    )
    with pytest.raises(SchemaError, match="binary=True"):
        PipelineObserver(other).restore(PipelineObserver(shop).snapshot())
    with pytest.raises(SchemaError, match="could not restore the observer of pipeline 'shop'"):
        PipelineObserver(shop).restore(b"hello")


def test_a_changed_declaration_keeps_what_it_can():
    """Other features, another budget, a learner: quality goes on, and nothing has to be reset."""
    changed = Pipeline(
        name="shop", key="user", features=[numeric("amount"), category("country")],
        target=label("bought", prior=PRIOR), drift=drift(features=["amount"]),
    )  # fmt: skip
    before, after = PipelineObserver(shop), PipelineObserver(changed)
    before.observe(message([row(0, "pending", score=0.9)]), {"online": np.array([0.7])})
    after.restore(before.snapshot())
    added = after.observe(message([row(0, "final", label=1.0, score=0.9)]), {}).evaluations
    assert summed([added])["online"].brier == pytest.approx(0.09)
