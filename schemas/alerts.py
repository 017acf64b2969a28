"""What a pipeline wants people to be told about: rules, each a number and a bound.

    from schemas.alerts import alert

    alerts=[
        alert(
            "burst-of-fraud",
            sql="SELECT countIf(label = 1) FROM examples "
                "WHERE pipeline = 'payments' AND produced_at > now() - INTERVAL 5 MINUTE",
            above=100,
            lasting="1m",
            severity="critical",
            summary="Far more fraud than usual is being confirmed.",
        ),
        alert("lag", figure="lag", above=5_000_000, lasting="10m"),  # in the place of the default
    ]

What every pipeline gets without a word of its own is in `streams.alerts.defaults`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from schemas.durations import duration_ms, duration_problem

RULES_MAX: Final = 64
"""Per pipeline: each is asked again and again."""
NAME_LENGTH_MAX: Final = 60
SQL_LENGTH_MAX: Final = 8_192
TEXT_LENGTH_MAX: Final = 1_000
EVERY_MS_MIN: Final = 5_000
RULE_NAME: Final = re.compile(r"^[a-z][a-z0-9-]*\Z")

FIGURES: Final[dict[str, str]] = {
    "lag": "records before the step that is furthest behind",
    "score_lag": "records before the scorers",
    "join_lag": "records before the joiners",
    "learn_lag": "records before the learners",
    "land_lag": "records before the landers",
    "commit_age_s": "seconds without a commit on a partition where records wait: the worst one",
    "model_age_s": "seconds since the end of the training of the version that answered last",
    "label_coverage": "share of the predictions whose waiting ended within a day that got a truth",
    "skill": "share of the squared error of the better baseline that the served score avoids, over "
    "truths of a day; below 0 it is worse than the baseline",
    "drift_alarms": "drift alarms within an hour",
    "dead_letter_share": "share of the records landed within ten minutes that were rejected",
    "missing": "records that the permanent check of the books misses",
    "doubled": "records that it found twice, or of which it found no source",
    "exact_check_age_s": "seconds since the permanent check last found the books exact",
    "unchecked": "events that were scored and that the permanent check has still before it",
    "failed_processes": "processes of this home that failed or have fallen silent",
    "store_down_s": "seconds since the store stopped answering",
    "kafka_down_s": "seconds since Kafka stopped answering",
    "failing_rules": "rules whose number could not be had",
    "failing_channels": "channels that could not deliver",
}
"""Numbers that a rule may name, and what each is."""

OF_THE_STACK: Final = frozenset(
    {"failed_processes", "store_down_s", "kafka_down_s", "failing_rules", "failing_channels"}
)
"""Figures that are not of one pipeline."""

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """When people are told, and what; made by `alert`.

    Attributes:
        name: Unique in the pipeline: lower-case letters, digits and dashes.
        figure: One of `FIGURES`; or
        sql: one SELECT whose first column of the first row is the number. A second column, if there
            is one, is shown with it. No row, or NULL: there is nothing to say.
        above: The bound that the number must pass; or
        below: the bound that it must fall below.
        lasting: For how long without a break before anybody is told.
        clearing: For how long it must be over before it counts as over.
        every: How often the number is asked for.
        repeat: After how long it is said again while it lasts.
        severity: ``critical``: somebody must act now. ``warning``: look soon.
        summary: What it means, for a person who is woken by it.
        enabled: False: this rule, or the default of this name, is not asked.
    """

    name: str
    figure: str = ""
    sql: str = ""
    above: float | None = None
    below: float | None = None
    lasting: str = "1m"
    clearing: str = "1m"
    every: str = "15s"
    repeat: str = "4h"
    severity: Severity = "warning"
    summary: str = ""
    enabled: bool = True

    @property
    def lasting_ms(self) -> int:
        """`lasting` in milliseconds."""
        return _duration_ms(self.lasting)

    @property
    def clearing_ms(self) -> int:
        """`clearing` in milliseconds."""
        return _duration_ms(self.clearing)

    @property
    def every_ms(self) -> int:
        """`every` in milliseconds."""
        return duration_ms(self.every)

    @property
    def repeat_ms(self) -> int:
        """`repeat` in milliseconds."""
        return duration_ms(self.repeat)

    @property
    def bound(self) -> str:
        """The condition in words: ``above 10``."""
        word, limit = ("below", self.below) if self.above is None else ("above", self.above)
        return f"{word} {limit:g}"

    def breached(self, value: float) -> bool:
        """Whether ``value`` is beyond the bound."""
        if self.above is not None:
            return value > self.above
        assert self.below is not None, self.name
        return value < self.below


def alert(
    name: str,
    *,
    figure: str = "",
    sql: str = "",
    above: float | None = None,
    below: float | None = None,
    lasting: str = "1m",
    clearing: str = "1m",
    every: str = "15s",
    repeat: str = "4h",
    severity: Severity = "warning",
    summary: str = "",
) -> AlertRule:
    """A rule of a pipeline; one with the name of a default takes its place. See `AlertRule`."""
    return AlertRule(
        name=name, figure=figure, sql=sql, above=above, below=below, lasting=lasting,
        clearing=clearing, every=every, repeat=repeat, severity=severity, summary=summary,
    )  # fmt: skip


def no_alert(name: str) -> AlertRule:
    """Switches the default of this name off."""
    return AlertRule(name=name, enabled=False)


def alert_problems(declared: object) -> list[str]:
    """What is wrong with the declared rules; field, fact and fix."""
    if not isinstance(declared, Sequence) or isinstance(declared, str):
        return [f"alerts: {declared!r} is no list. Put them in a list: [alert(...)]."]
    if len(declared) > RULES_MAX:
        return [f"alerts: {len(declared)} rules are more than {RULES_MAX}. Ask for less."]
    found: list[str] = []
    names: set[str] = set()
    for position, rule in enumerate(declared):
        place = f"alerts[{position}]"
        if not isinstance(rule, AlertRule):
            found.append(f"{place}: {rule!r} is no rule. Use alert('name', figure=..., above=...).")
            continue
        if not isinstance(rule.name, str) or not RULE_NAME.match(rule.name):
            found.append(
                f"{place}: {rule.name!r} cannot be used. Take lower-case letters, digits and "
                "dashes, a letter first."
            )
        elif len(rule.name) > NAME_LENGTH_MAX:
            found.append(f"{place}: the name is longer than {NAME_LENGTH_MAX} characters.")
        elif rule.name in names:
            found.append(f"{place}: the name {rule.name!r} is taken. Give it another.")
        else:
            names.add(rule.name)
            found += _rule_problems(f"alerts[{position}] {rule.name}", rule)
    return found


def _rule_problems(place: str, rule: AlertRule) -> list[str]:
    if not rule.enabled:
        return []
    found: list[str] = []
    if bool(rule.figure) == bool(rule.sql):
        found.append(f"{place}: give either figure= or sql=.")
    elif rule.figure and (rule.figure not in FIGURES or rule.figure in OF_THE_STACK):
        known = ", ".join(name for name in FIGURES if name not in OF_THE_STACK)
        found.append(f"{place}: figure={rule.figure!r} is not known. Take of: {known}.")
    elif len(rule.sql) > SQL_LENGTH_MAX:
        found.append(f"{place}: sql is longer than {SQL_LENGTH_MAX} characters.")
    bounds = [bound for bound in (rule.above, rule.below) if bound is not None]
    if len(bounds) != 1 or not _number(bounds[0]):
        found.append(f"{place}: give one finite number: above= or below=.")
    for name in ("lasting", "clearing"):
        if getattr(rule, name) != "0s":
            found += duration_problem(f"{place}: {name}", getattr(rule, name))
    for name in ("every", "repeat"):
        found += duration_problem(f"{place}: {name}", getattr(rule, name))
    if not found and rule.every_ms < EVERY_MS_MIN:
        found.append(f"{place}: every={rule.every!r} must be at least {EVERY_MS_MIN // 1000}s.")
    if rule.severity not in {"warning", "critical"}:
        found.append(f"{place}: severity={rule.severity!r} must be 'warning' or 'critical'.")
    if not isinstance(rule.summary, str) or len(rule.summary) > TEXT_LENGTH_MAX:
        found.append(f"{place}: summary must be a text of at most {TEXT_LENGTH_MAX} characters.")
    return found


def _number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _duration_ms(text: str) -> int:
    return 0 if text == "0s" else duration_ms(text)
