"""Which workers stall: silent ones, and ones that commit nothing while their lag grows.

No clock, no process and no connection of its own, so that the rules can be tested second by second.
Who watches gives it what it sees, about once a second; who is named is to be killed and started
again, since a worker that stalls has lost its way and recovery is the ordinary start.

Not promised: that a worker that works, but wrongly, is noticed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streams.books.lag import Behind
from streams.telemetry import Report

SILENT_S_MAX = 20.0
"""A worker writes its report once a second, whatever it waits for. After this it hangs."""

START_S_MAX = 120.0
"""The same while it starts: imports and a first model hold its loop, on a busy machine for long."""

STUCK_S_MAX = 20.0
"""How long a partition may have no commit while its lag grows; a commit takes milliseconds."""

LATE_S_MAX = 5.0
"""Who watches and comes later than that has slept itself, and so may all others have."""


@dataclass(slots=True)
class _Seen:
    pid: int
    updated_at_ms: int
    since_s: float


@dataclass(slots=True)
class _Place:
    committed: int | None
    end: int
    pid: int
    since_s: float


@dataclass(slots=True)
class Watchdog:
    """Remembers since when nothing has changed; seconds on a clock that never goes back."""

    _reports: dict[str, _Seen] = field(default_factory=dict)
    _places: dict[str, _Place] = field(default_factory=dict)
    _looked_s: float | None = None

    def silent(self, now_s: float, reports: Sequence[Report]) -> dict[str, str]:
        """Workers that should be killed for having said nothing, with the reason."""
        slept = self._looked_s is not None and now_s - self._looked_s > LATE_S_MAX
        self._looked_s = now_s
        if slept:
            self._reports.clear()
            self._places.clear()
        found = {}
        for report in reports:
            seen = self._reports.get(report.name)
            if seen is None or (seen.pid, seen.updated_at_ms) != (report.pid, report.updated_at_ms):
                self._reports[report.name] = _Seen(report.pid, report.updated_at_ms, now_s)
                continue
            limit_s = START_S_MAX if report.state == "starting" else SILENT_S_MAX
            if report.state != "failed" and now_s - seen.since_s > limit_s:
                found[report.name] = f"it has not reported for {now_s - seen.since_s:.0f} s"
                del self._reports[report.name]
        return found

    def stuck(
        self, now_s: float, reports: Sequence[Report], behind: Sequence[Behind] | None
    ) -> dict[str, str]:
        """Workers that should be killed for a partition that stands still, with the reason.

        Args:
            now_s: Now.
            reports: Of the workers of one role of one pipeline.
            behind: How far their group is on each of its partitions; None if it is not known:
                without Kafka nobody can commit.
        """
        if behind is None:
            self._places.clear()
            return {}
        running = [r for r in reports if r.state == "running"]
        # A new process would not get any further with what an old one has set apart.
        owners = {p: r for r in running for p in r.partitions if p not in r.isolated}
        found = {}
        for at in behind:
            place, name = self._places, f"{at.topic}/{at.partition}"
            owner, key = owners.get(name), f"{reports[0].role if reports else ''} {name}"
            before = place.get(key)
            moved = before is None or before.committed != at.committed
            if owner is None or not at.lag:
                place.pop(key, None)
            elif before is None or moved or before.pid != owner.pid:
                place[key] = _Place(at.committed, at.end, owner.pid, now_s)
            elif now_s - before.since_s > STUCK_S_MAX and at.end > before.end:
                found[owner.name] = (
                    f"it has committed nothing of {name} for {now_s - before.since_s:.0f} s while "
                    f"its lag grew to {at.lag}"
                )
                del place[key]
        return found
