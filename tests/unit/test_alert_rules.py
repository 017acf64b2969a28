"""The shipped rules and dashboards: they load, each alert fires when it should, and has an entry."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from streams.metrics.catalogue import OUTSIDE, WORKERS
from tests.connected.watching import DEPLOY, needs_prometheus

ROOT = Path(__file__).parents[2]
FOLDER = DEPLOY / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "tidemill.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_prometheus_takes_the_shipped_files() -> None:
    """The configuration, and the rules that it names."""
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "tidemill.rules.yml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


@needs_prometheus
def test_each_alert_fires_in_one_world_and_is_silent_in_another() -> None:
    """Evaluated by promtool, with the words that a person would read."""
    assert "SUCCESS" in promtool("test", "rules", "tidemill.rules.test.yml")
    tests = yaml.safe_load((FOLDER / "tidemill.rules.test.yml").read_text())["tests"]
    seen = [
        (one["alertname"], bool(one["exp_alerts"]))
        for test in tests
        for one in test["alert_rule_test"]
    ]
    assert sorted(seen) == sorted(
        (rule["alert"], fires) for rule in RULES for fires in (True, False)
    )


def test_each_alert_has_its_entry_in_the_runbook() -> None:
    """And each entry its alert: what is not known by the one who is woken up is worth nothing."""
    text = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### (Tidemill\w+)$", text, re.MULTILINE)
    assert sorted(entries) == sorted(rule["alert"] for rule in RULES)
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}


def queries() -> list[str]:
    found = [rule["expr"] for rule in RULES]
    for file in (DEPLOY / "grafana").glob("*.json"):
        for panel in json.loads(file.read_text())["panels"]:
            found += [one["expr"] for one in panel.get("targets", ())]
    return found


def test_rules_and_dashboards_ask_for_metrics_that_exist() -> None:
    """A query of a metric that nobody has is silent for ever."""
    known = {metric.name for metric in (*WORKERS, *OUTSIDE)}
    known |= {
        f"{metric.name}_{part}"
        for metric in WORKERS
        if metric.kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    gateway = {"tidemill_store_queries_total", "tidemill_store_engine"}
    for query in queries():
        names = set(re.findall(r"tidemill_[a-z_]+", query))
        assert names <= known | gateway, query


@pytest.mark.parametrize("file", sorted((DEPLOY / "grafana").glob("*.json")), ids=lambda f: f.stem)
def test_a_dashboard_can_be_imported(file: Path) -> None:
    """What Grafana needs: an id of its own, panels that do not overlap, a source to be chosen."""
    board = json.loads(file.read_text())
    assert board["uid"] == file.stem
    assert board["templating"]["list"][0]["type"] == "datasource"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
        for one in panel.get("targets", ()):
            assert one["datasource"]["uid"] == "${datasource}"
