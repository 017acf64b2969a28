"""Tables on the terminal, and the dated report that names machine, commit and command."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from streams.bench.result import Goal, Result

PACKAGES = ("faust-streaming", "aiokafka", "torch", "numpy", "pyarrow", "chdb-core", "msgspec")


def flat(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Figures as rows of a table: nested names joined by a space."""
    for name, value in figures.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict) and all(not isinstance(v, dict) for v in value.values()):
            yield label, ", ".join(f"{key} {_number(found)}" for key, found in value.items())
        elif isinstance(value, dict):
            yield from flat(value, f"{label}: ")
        elif "histogram" in name:  # in the JSON; a table cell does not hold it
            continue
        elif isinstance(value, list):
            yield label, "; ".join(map(str, value))
        else:
            yield label, _number(value)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def tables(result: Result) -> Iterator[Table]:
    """One table per benchmark: a column per contestant, a row per figure."""
    rows = [dict(flat(row)) for row in result.results]
    table = Table(title=result.name, title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row.get("who", ""), justify="right", overflow="fold")
    names = list(dict.fromkeys(name for row in rows for name in row if name != "who"))
    for name in names:
        table.add_row(name, *(row.get(name, "") for row in rows))
    yield table
    if result.ratios:
        ratios = Table(title="ratios, larger is better", title_justify="left", show_header=False)
        for who, value in result.ratios.items():
            ratios.add_row(who, f"{value:.2f}")
        yield ratios


def goals(results: Sequence[Result]) -> Table:
    """All of them against their goals."""
    found = Table(title="Goals", title_justify="left")
    for column in ("benchmark", "goal", "met"):
        found.add_column(column)
    for result in results:
        for goal in result.goals:
            found.add_row(result.name, goal.text, _met(goal))
    return found


def _met(goal: Goal) -> str:
    return "yes" if goal.met else "no"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    from streams.local.jars import LOCK

    kafka = next(
        (w.strip(",.") for w in LOCK.read_text(encoding="utf-8").split() if "kafka_2.13" in w),
        "unknown",
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "kafka": kafka,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_files": len(_git("status", "--porcelain", "-uno").splitlines()),
        "settings": " ".join(
            f"{name}={value}"
            for name, value in sorted(os.environ.items())
            if name.startswith("TIDEMILL_")
        )
        or "defaults",
        "command": "tidemill " + " ".join(sys.argv[1:]),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Everything that was found, and where."""
    return {"machine": machine(), "results": [result.document() for result in results]}


def write(found: dict[str, Any], results: Sequence[Result], page: Path) -> None:
    """Write a page for people with one table per benchmark, and the JSON beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page.write_text(_page(found["machine"], results), encoding="utf-8")


def _page(facts: dict[str, Any], results: Sequence[Result]) -> str:
    lines = ["# Speed and latency", "", "Written by the program that measured it.", ""]
    lines += ["| machine | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items()]
    lines += ["", "| benchmark | goal | met |", "|---|---|---|"]
    lines += [f"| {r.name} | {g.text} | {_met(g)} |" for r in results for g in r.goals]
    for result in results:
        rows = [dict(flat(row)) for row in result.results]
        names = list(dict.fromkeys(name for row in rows for name in row if name != "who"))
        lines += ["", f"## {result.name}", ""]
        lines += ["| | " + " | ".join(row.get("who", "") for row in rows) + " |"]
        lines += ["|---|" + "---|" * len(rows)]
        lines += [
            f"| {name} | " + " | ".join(row.get(name, "") for row in rows) + " |" for name in names
        ]
        if result.ratios:
            lines += ["", "Ratios, larger is better: "]
            lines[-1] += ", ".join(f"{who} {value:.2f}" for who, value in result.ratios.items())
    return "\n".join(lines) + "\n"
