"""BACKUP and RESTORE over SQL, into and out of ``backups/`` in the data folder.

    BACKUP DATABASE tidemill TO Disk('backups', 'monday.tar.zst')
    RESTORE TABLE tidemill.scored AS tidemill.scored_then FROM Disk('backups', 'monday.tar.zst')

A backup is a consistent copy of each table: a folder, or one archive if its name ends in ``.tar``,
``.tar.gz`` or ``.tar.zst``. ``SETTINGS base_backup = Disk('backups', 'sunday')`` keeps only what is
new since. The engine checks that the disk is this one; every other place (``File``, ``S3``,
``Memory``, a disk made up in the statement) is refused here, because one of them no grant stops.
"""

from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from streams.store.gateway.errors import ACCESS_DENIED, EngineError, refusal
from streams.store.gateway.statement import Token, tokens

DISK: Final = "backups"
BACKUP_RIGHTS: Final = "BACKUP ON *.*, READ, WRITE ON DISK"
"""What the engine wants granted; the rights on disks open nothing else (see ENGINE.md)."""

_VERBS: Final = {b"backup": b"to", b"restore": b"from"}
_SETTINGS: Final = frozenset(
    b"async base_backup compression_level compression_method deduplicate_files id structure_only "
    b"allow_different_table_def allow_different_database_def allow_non_empty_tables".split()
)
_NAME_LENGTH_MAX: Final = 100
_NAME_SIGNS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def disk_xml(folder: Path) -> str:
    """Part of the server's configuration: the disk for backups."""
    path = escape(f"{folder.absolute() / DISK}/")
    return f"<{DISK}><type>local</type><path>{path}</path></{DISK}>"


def is_backup(printed: bytes) -> bool:
    """Whether a statement, as the engine printed it, is BACKUP or RESTORE."""
    first = next(tokens(printed), None)
    return first is not None and first.kind == "word" and first.text in _VERBS


def check_backup(printed: bytes) -> None:
    """Refuse a BACKUP or RESTORE that goes anywhere but to the disk for backups.

    Raises:
        EngineError: ACCESS_DENIED, with what would be accepted.
    """
    found = [token for token in tokens(printed) if token.kind != "space"]
    toward = _VERBS[found[0].text]
    at = next(
        (
            index
            for index, token in enumerate(found)
            if token.kind == "word" and token.text == toward and _place(found[index + 1 :])
        ),
        None,
    )
    if at is None or any(token.text == b"(" for token in found[:at]):
        raise _denied("another place")
    rest = found[at + 1 + _PLACE_TOKENS :]
    if rest and rest[0].text != b"settings":
        raise _denied(rest[0].text.decode(errors="replace"))
    _check_settings(rest[1:])


_PLACE_TOKENS: Final = 6


def _place(found: list[Token]) -> bool:
    """Whether the tokens begin with ``Disk('backups', 'name')``."""
    if len(found) < _PLACE_TOKENS:
        return False
    disk, opening, name, comma, file, closing = found[:_PLACE_TOKENS]
    signs = (opening.text, comma.text, closing.text)
    if disk.text != b"disk" or signs != (b"(", b",", b")") or name.text != f"'{DISK}'".encode():
        return False
    content = file.text[1:-1]
    return (
        file.kind == "text"
        and file.text.startswith(b"'")
        and 0 < len(content) <= _NAME_LENGTH_MAX
        and not content.startswith(b".")
        and _NAME_SIGNS.issuperset(content)
    )


def _check_settings(found: list[Token]) -> None:
    while found:
        name, equals, *found = found if len(found) > 2 else [found[0], found[0]]
        if name.text not in _SETTINGS or equals.text != b"=" or not found:
            raise _denied(f"the setting {name.text.decode(errors='replace')}")
        width = _PLACE_TOKENS if _place(found) else 1
        if width == 1 and name.text == b"base_backup":
            raise _denied("another place")
        found = found[width:]
        if found and found[0].text != b",":
            raise _denied(found[0].text.decode(errors="replace"))
        found = found[1:]


def _denied(what: str) -> EngineError:
    return refusal(
        ACCESS_DENIED,
        f"Not enough privileges: {what} is not available in BACKUP and RESTORE over HTTP; "
        f"write TO or FROM Disk('{DISK}', 'name').",
    )
