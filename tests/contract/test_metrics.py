"""Every metric is explained, has one meaning, and is fed by something."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from streams.metrics.catalogue import OUTSIDE, WORKERS, Metric, metrics_of
from streams.metrics.exposition import Exposition
from streams.telemetry import Reporter

ROOT = Path(__file__).parents[2]
ALL = (*WORKERS, *OUTSIDE)


def row(metric: Metric) -> str:
    """One row of the tables in `docs/metrics.md`."""
    labels = ", ".join(f"`{label}`" for label in metric.label.split())
    roles = ", ".join(metric.roles)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {roles} | {metric.about} |"


def test_the_documentation_has_a_row_for_every_metric() -> None:
    """A metric that nobody explains is read wrongly; one that is gone breaks somebody's alert."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    documented = [line for line in text.splitlines() if line.startswith("| `tidemill_")]
    expected = [row(metric) for metric in ALL]
    assert [line for line in expected if line not in documented] == []
    assert [line for line in documented if line not in expected] == []


def test_names_follow_the_fields_rules() -> None:
    """Counters end in _total, units are base units and come last, no name means two things."""
    names = [metric.name for metric in ALL]
    assert len(set(names)) == len(names)
    for metric in ALL:
        assert re.fullmatch(r"tidemill_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not re.search(r"_(ms|millis|minutes|hours|kb|mb)(_|$)", metric.name), metric.name
        assert bool(metric.values) <= bool(metric.label)


def test_every_source_is_counted_somewhere() -> None:
    """A counter that was renamed would stay 0 for ever, and every alert on it silent."""
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for file in (ROOT / "streams").rglob("*.py")
        if file.parent.name != "metrics"
    )
    silent = []
    for metric in ALL:
        source = metric.source
        forms = [f'"{source}"', f'f"{source}_{{']
        if source.startswith("served_"):  # counted by name out of `streams.workers.learn.METERED`
            forms = [f'"{source.removeprefix("served_")}"']
        if source.startswith("books_"):  # counted by name out of the readings of the check
            forms = [f'"{source.removeprefix("books_")}"']
        if source == "alerts_firing":
            forms = ['f"alerts_{state}"']
        if source and not any(form in code for form in forms):
            silent.append(f"{metric.name} from {source}")
    assert silent == []


def test_a_process_that_has_done_nothing_has_every_metric_of_its_role(tmp_path: Path) -> None:
    """`rate()` needs a series before its first increase; what is computed has its place as well."""
    for role in ("score", "join", "learn", "land", "deliver", "judge", "alerts", "dashboard"):
        text = Exposition(Reporter(tmp_path, "w", role, "shop")).text().decode()
        found = {family.name: family for family in text_string_to_metric_families(text)}
        for metric in metrics_of(role):
            family = found[metric.name.removesuffix("_total")]
            assert family.type == metric.kind
            if metric.name not in {"tidemill_model_info", "tidemill_model_age_seconds"}:
                assert family.samples, metric.name
            for sample in family.samples:
                labels = {"pipeline", "role", *metric.label.split()}
                assert set(sample.labels) - {"le"} == labels
                assert (sample.labels["pipeline"], sample.labels["role"]) == ("shop", role)
        assert "process_resident_memory" in text
