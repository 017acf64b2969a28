"""Reports about processes that cannot write their own: the servers, and workers that died."""

from pathlib import Path

import psutil

from streams.telemetry import Reporter, read_reports


def server_reporter(folder: Path, name: str) -> Reporter:
    """The report of an embedded server; its role is its name."""
    return Reporter(folder=folder, name=name, role=name)


def remove_dead_reports(folder: Path) -> None:
    """Remove what processes that are gone left behind, such as after a power cut."""
    for report in read_reports(folder):
        if not psutil.pid_exists(report.pid):
            remove_report(folder, report.name)


def worked(folder: Path, name: str, pid: int) -> bool:
    """Whether this very process reported some work before it ended."""
    return any(
        report.counters.get("transactions", 0) + report.counters.get("inserts", 0) > 0
        for report in read_reports(folder)
        if report.name == name and report.pid == pid
    )


def remove_report(folder: Path, name: str) -> None:
    """Remove the report of a process that was stopped."""
    Reporter(folder=folder, name=name, role="").remove()


def say_failed(folder: Path, *, name: str, role: str, pipeline: str, pid: int, detail: str) -> None:
    """Report on behalf of a process that ended; what it had counted stays readable."""
    reporter = Reporter(
        folder=folder,
        name=name,
        role=role,
        pipeline=pipeline,
        pid=pid,
        state="failed",
        detail=detail,
    )
    for report in read_reports(folder):
        if report.name == name:
            reporter.counters.update(report.counters)
    reporter.write()
