"""What went wrong with a statement, shown where it went wrong."""

import re

_PLACE = re.compile(r"failed at position (\d+)")
_NAME = re.compile(r"(?:identifier|[Tt]able|[Ff]unction with name|setting) [`']([^`']+)[`']")
_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_WORDS_MAX = 300
"""Longest part of the engine's own words: its lists of expected tokens fill screens."""


def explain(query: str, message: str) -> str:
    """The engine's ``message`` for a person: its reason, and the line of ``query`` with a caret.

    Without a place in the message the first mention of the name it complains about is marked; if
    there is none either, the reason stands alone.
    """
    found = _CODE.search(message)
    reason = message[found.end() :] if found else message
    reason = re.sub(r" Expected one of: .*?(?= \([A-Z_]+\)|$)", "", reason, flags=re.DOTALL)
    reason = re.sub(r"\s*\((?:version|for url) [^)]*\)", "", reason).strip()
    if len(reason) > _WORDS_MAX:
        reason = reason[:_WORDS_MAX].rstrip() + " ..."
    code = f" [code {found.group(1)}]" if found else ""
    shown = f"could not run the query: {reason}{code}"
    at = _offset(query, message)
    return shown if at is None else f"{shown}\n{_marked(query, at)}"


def _offset(query: str, message: str) -> int | None:
    """Where in ``query`` the trouble is, in characters."""
    place = _PLACE.search(message)
    if place is not None:
        # The engine counts bytes, from one.
        before = query.encode()[: int(place.group(1)) - 1]
        return min(len(before.decode(errors="ignore")), len(query))
    name = _NAME.search(message)
    if name is None:
        return None
    where = re.search(rf"(?<!\w){re.escape(name.group(1))}(?!\w)", query)
    return None if where is None else where.start()


def _marked(query: str, at: int) -> str:
    start = query.rfind("\n", 0, at) + 1
    line = query[start:].split("\n", 1)[0]
    number = query.count("\n", 0, at) + 1
    head = f"  {number} | "
    # Tabs before the place are kept, so that the caret stands below it on any terminal.
    blank = "".join("\t" if sign == "\t" else " " for sign in query[start:at])
    return f"{head}{line}\n{' ' * len(head)}{blank}^"
