"""Drift: changes are found in time, and what does not change is left alone as often as declared."""

import numpy as np
import pytest
from river import drift as river_drift

from models.adwin import CLOCK, Adwin
from models.drift import DriftWatch, ScaledAdwin
from models.error_rate import ErrorRate, strata
from models.stability import stability, threshold
from schemas.drift import drift
from streams.bench.drift import answers
from tests.unit.journal import message, row

BUDGET = 1_000_000


def errors_of(score, truth, every):
    """The places at which the error rate raises an alarm; it begins anew after each."""
    detector, found = ErrorRate(every), []
    sure, wrong = strata(score), ((score > 0.5) != (truth > 0.5)).tolist()
    for i, stratum in enumerate(sure):
        if detector.update(wrong=wrong[i], stratum=stratum):
            found.append(i)
            detector = ErrorRate(every)
    return found


def test_an_abrupt_change_is_found_within_200_answers_and_nothing_before():
    """
    Goal: SEA 0 becomes SEA 2 at 10,000 of 20,000; the alarm comes within 1 % of the stream.

    Method: the whole watch as it runs beside a learner, with the declared budget of one false alarm
    in a million, on six streams. How many of the first 200 answers after the change are wrong is
    chance; so one stream of the six may take up to 300.
    """
    delays = []
    for seed in range(6):
        score, truth = answers(10_300, change_at=10_000, seed=seed)
        declared = drift(false_alarm_every=BUDGET)
        watch = DriftWatch(declared, binary=True, numeric=["x"], category=[])
        alarms = []
        for first in range(0, len(score), 50):
            block = range(first, first + 50)
            rows = [row(i, "final", label=truth[i], score=score[i], category=()) for i in block]
            alarms += watch.observe(message(rows))[0]
        [alarm] = alarms
        assert alarm.detector == "error-rate"
        assert alarm.source_offset >= 10_000, seed
        assert alarm.after > 2 * alarm.before
        assert alarm.statistic >= alarm.threshold >= BUDGET
        delays.append(alarm.source_offset - 10_000)
    assert sorted(delays)[4] < 200, delays


def test_answers_that_stay_as_right_as_they_were_are_left_alone():
    """
    Goal: 200,000 answers of a stationary stream cost at most what was declared.

    Method: the budget is one in 10,000, so that it would allow 20 alarms and a detector without
    one would be seen. Honest, timid and exaggerating scores, frozen.
    """
    alarms = 0
    for seed, factor in enumerate((1.0, 0.3, 2.0, 1.0)):
        random = np.random.default_rng(seed)
        logit = random.normal(0, (1, 2, 6, 3)[seed], 50_000)
        truth = (random.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(float)
        alarms += len(errors_of(1 / (1 + np.exp(-factor * logit)), truth, 10_000))
    assert alarms <= 20


@pytest.mark.parametrize("delta", [0.002, 1e-5])
@pytest.mark.parametrize("seed", range(3))
def test_adwin_is_rivers(seed, delta):
    """The same window after every value, and the same detection at the same value."""
    random = np.random.default_rng(seed)
    values = np.concatenate([random.beta(2, 5, 2500), random.beta(2.6, 5, 2500)]).tolist()
    ours, theirs = Adwin(delta), river_drift.ADWIN(delta=delta)
    for value in values:
        cut = ours.update(value)
        theirs.update(value)
        assert (cut is not None) == theirs.drift_detected
        assert ours.width == theirs.width
        assert ours.mean == pytest.approx(theirs.estimation, abs=1e-12)
        if cut:
            assert cut[1] < cut[2]
            break
    else:
        pytest.fail("the change was not found")


def test_adwin_on_any_number_finds_a_shift_and_keeps_to_its_budget():
    """Values of any size; the means in the evidence are in the values' own unit."""
    random = np.random.default_rng(3)
    detector = ScaledAdwin(CLOCK / BUDGET)
    still = [detector.update(value) for value in random.normal(5e6, 1e5, 60_000)]
    assert still == [None] * 60_000
    moved = [detector.update(value) for value in random.normal(5.1e6, 1e5, 2_000)]
    [first, *_] = [found for found in moved if found]
    assert first[2] == pytest.approx(5e6, rel=0.01)
    assert first[3] == pytest.approx(5.1e6, rel=0.01)


@pytest.mark.parametrize("words", [False, True])
def test_stability_passes_its_threshold_as_often_as_said(words):
    """On samples of one distribution: the chi-square law, below the floor of 0.1."""
    random = np.random.default_rng(7)

    def sample(count):
        if words:
            return [f"w{n}" for n in random.geometric(0.25, count)]
        return random.lognormal(0, 1, count)

    limit = threshold(1000, 60, 10, 0.02)
    assert limit > 0.1, "the floor must not be what is tested"
    passed = sum(stability(sample(1000), sample(60))[0] >= limit for _ in range(1500))
    assert passed / 1500 < 0.03


def feature_journal(count, *, first=0, shift=0.0, word="a", version="v1"):
    random = np.random.default_rng(first)
    return [
        row(i, "pending", numeric=(float(random.normal(shift, 1)),), category=(word,),
            time_ms=i * 600, version=version)
        for i in range(first, first + count)
    ]  # fmt: skip


def observed(watch, rows):
    alarms, looks = [], []
    for first in range(0, len(rows), 100):
        found = watch.observe(message(rows[first : first + 100]))
        alarms += found[0]
        looks += found[1]
    return alarms, looks


def test_features_are_measured_and_only_the_declared_ones_alarm():
    """One look per 200 rows here; a shifted number and a new word are both seen as such."""
    watch = DriftWatch(
        drift(features=["x"]), binary=True, numeric=["x"], category=["c"]
    )  # fmt: skip
    alarms, looks = observed(watch, feature_journal(4000))
    assert alarms == []
    assert {look.feature for look in looks} == {"x", "c"}
    assert all(look.index < 0.1 for look in looks)
    alarms, looks = observed(watch, feature_journal(1500, first=4000, shift=0.8, word="b"))
    assert {(alarm.detector, alarm.subject) for alarm in alarms} == {
        ("population-stability", "x"),
        ("adwin-value", "x"),
    }
    assert any(look.feature == "c" and look.index > 1 for look in looks)


def test_a_new_model_version_settles_before_anything_is_an_alarm():
    """Its error level is another for good reason; the old version's late labels do not disturb."""
    watch = DriftWatch(drift(settle_examples=500), binary=True, numeric=["x"], category=[])
    random = np.random.default_rng(2)

    def block(first, count, rate, version):
        wrong = random.random(count) < rate
        return [
            row(
                first + i,
                "final",
                label=float(not wrong[i]),
                score=0.9,
                version=version,
                category=(),
            )
            for i in range(count)
        ]

    rows = block(0, 6000, 0.02, "v1")
    mixed = block(6000, 2000, 0.3, "v2")
    mixed[1::4] = block(20_000, 500, 0.02, "v1")
    assert observed(watch, rows + mixed)[0] == []
    worse = block(30_000, 400, 0.7, "v2")
    assert [alarm.model_version for alarm in observed(watch, worse)[0]][:1] == ["v2"]
    assert [alarm.detector for alarm in observed(watch, block(40_000, 400, 0.3, "v1"))[0]]


def test_odd_features_neither_stop_the_watch_nor_count():
    """Rows of an older declaration, numbers that are none, words that are missing."""
    watch = DriftWatch(drift(features=["x", "c"]), binary=True, numeric=["x"], category=["c"])
    rows = feature_journal(3000)
    for i, odd in enumerate(rows):
        if i % 3 == 0:
            odd["numeric"] = [1.0, 2.0]
        elif i % 50 == 1:
            odd["numeric"], odd["category"] = [float("nan")], [None]
    alarms, looks = observed(watch, rows)
    assert (alarms, {look.feature for look in looks}) == ([], {"x", "c"})
    assert sum(look.rows for look in looks if look.feature == "x") < 1100
