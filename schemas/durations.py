"""Durations as people declare them: a number and s, m, h or d, such as ``90m``."""

import re

DURATION_MS_MAX = 3650 * 86_400_000
_DURATION = re.compile(r"^(\d{1,12}(?:\.\d{1,6})?)([smhd])\Z")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """Milliseconds of a duration that has no `duration_problem`."""
    match = _DURATION.match(text)
    assert match is not None, text  # checked at the declaration
    return round(float(match[1]) * _UNIT_MS[match[2]])


def duration_problem(place: str, text: object) -> list[str]:
    """What is wrong with ``text`` as a duration: nothing, or one sentence with the fix."""
    if not isinstance(text, str) or not _DURATION.match(text):
        return [f"{place}: {text!r} is no duration. Write a number and s, m, h or d: '24h'."]
    if not 0 < duration_ms(text) <= DURATION_MS_MAX:
        return [f"{place}: {text!r} must be more than nothing and at most 3650d."]
    return []
