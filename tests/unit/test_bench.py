"""The benchmarks' own arithmetic, without servers: a wrong ruler makes every figure wrong."""

import importlib
import xml.etree.ElementTree as ET

import click
import numpy as np
import pytest

from streams.bench import gate
from streams.bench.histogram import BOUNDS_MS, bars, histogram, quantiles
from streams.bench.plot import draw
from streams.bench.result import Result
from streams.bench.sampling import window
from streams.cli.bench import BENCHES


def test_every_benchmark_is_a_command_with_an_example() -> None:
    """They are found by name only, so a typo would show when somebody asks for it."""
    for name, (place, _help) in BENCHES.items():
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert command.name == name
        text = command.get_help(click.Context(command, info_name=f"tidemill bench {name}"))
        assert f"tidemill bench {name}" in text


def test_the_histogram_holds_every_value_in_its_bucket() -> None:
    """Fixed buckets, each 19 % above the one before; nothing is dropped at either end."""
    values = np.array([0.0, 0.0005, 0.000501, 0.01, 0.01, 80.0])
    found = histogram(values)
    assert sum(count for _, count in found) == len(values)
    assert found[0] == [0.5, 2], "a bucket's end belongs to it"
    assert found[-1] == [float("inf"), 1]
    ratios = BOUNDS_MS[1:] / BOUNDS_MS[:-1]
    assert np.allclose(ratios, 2**0.25)
    assert len(bars(found)) == len(found)


def test_quantiles_are_of_the_values() -> None:
    """Not of the buckets, which are a fifth wide."""
    found = quantiles(np.arange(1, 1002) / 1000)
    assert (found["p50"], found["p99"], found["max"]) == (501.0, 991.0, 1001.0)


@pytest.mark.parametrize(("now", "lines"), [(8.0, 0), (8.01, 0), (7.99, 1), (12.0, 0), (None, 1)])
def test_the_gate_lets_a_ratio_fall_by_a_fifth(now: float | None, lines: int) -> None:
    """More than that, or a ratio that was not measured, is named."""
    result = Result("score", [], {} if now is None else {"stock_faust": now})
    found = gate.fallen([result], {"score": {"stock_faust": 10.0}, "path": {"x": 1.0}})
    assert len(found) == lines
    assert all("score" in line and "stock_faust" in line for line in found)


def test_kept_ratios_are_read_back(tmp_path, monkeypatch) -> None:
    """What --keep writes is what the next run is held against."""
    file = tmp_path / "ratios.json"
    monkeypatch.setattr(gate, "COMMITTED", file)
    gate.keep([Result("land", [], {"loop": 0.987}), Result("first", [])], file)
    assert gate.committed() == {"land": {"loop": 0.99}}


def test_the_committed_ratios_name_benchmarks_that_exist() -> None:
    """A renamed benchmark must not leave its gate behind."""
    assert set(gate.committed()) <= set(BENCHES)


def test_a_window_counts_the_rows_between_two_beginnings() -> None:
    """The last batch begins at its end: its own rows lie behind it."""
    stamps = [(float(second), 100) for second in range(21)]
    over = window(stamps)
    assert (over.start_s, over.stop_s) == (2.0, 19.0)
    assert over.rows == 1700
    assert over.rows_per_s == pytest.approx(100.0)


def test_the_plot_is_a_picture_with_one_line_per_contestant() -> None:
    """Two panels: throughput, and p50 and p99."""
    rows = [
        {
            "who": who,
            "guarantee": "exactly-once",
            "rate_per_s": rate,
            "rows_per_s": rate,
            "to_reader_ms": {"p50": 5.0, "p99": 0.0},
        }
        for who in ("a", "b<")
        for rate in (200, 2000)
    ]
    root = ET.fromstring(draw(Result("latency", rows)))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2 * 3
