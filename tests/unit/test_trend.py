"""Slope of the lag and the time to drain it, which autoscaling reads."""

from streams.cli.trend import trend


def test_a_shrinking_lag_says_when_it_is_gone() -> None:
    """From 1,000 to 800 in two seconds: 100 a second, so eight more seconds."""
    found = trend({"score": 1000}, {"score": 800}, 2.0)
    assert found == {"score": {"lag_per_s": -100.0, "drained_in_s": 8.0}}


def test_a_growing_or_standing_lag_is_never_gone() -> None:
    """More workers are needed; a number would promise something."""
    found = trend({"score": 10, "land": 7}, {"score": 30, "land": 7}, 1.0)
    assert found["score"] == {"lag_per_s": 20.0, "drained_in_s": None}
    assert found["land"] == {"lag_per_s": 0.0, "drained_in_s": None}


def test_no_lag_is_gone_already() -> None:
    """Also when it was there a second ago, and for a role that was not seen before."""
    found = trend({"score": 10}, {"score": 0, "join": 0}, 1.0)
    assert found["score"] == {"lag_per_s": -10.0, "drained_in_s": 0.0}
    assert found["join"] == {"lag_per_s": 0.0, "drained_in_s": 0.0}
