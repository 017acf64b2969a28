"""The data folder's own record: which engine wrote it last.

A newer engine reads what an older one wrote. The other way round nobody promises anything, so an
older engine refuses to open the folder before it has touched a byte.
"""

import json
import os
from pathlib import Path

import structlog

from schemas.errors import SetupError

RECORD = "engine.json"

log = structlog.get_logger()


def check_engine(folder: Path, version: str) -> None:
    """Compare ``version`` with the engine that wrote ``folder``; call it before the engine opens.

    A folder without a record is new, or older than records: it is taken.

    Raises:
        SetupError: a newer engine wrote the folder, or the record cannot be read.
    """
    file = folder / RECORD
    try:
        written = str(json.loads(file.read_text(encoding="utf-8"))["engine"])
        newer = _parts(written) > _parts(version)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise SetupError(
            f"could not read {file}, which names the engine that wrote this folder: {cause}. "
            "Restore it, or remove it if you know that this engine is not older."
        ) from cause
    if newer:
        raise SetupError(
            f"could not open the store {folder}: engine={written} wrote it and engine={version} is "
            "older. Install the newer release again, or restore a backup into another folder."
        )
    if written != version:
        log.info("store upgraded", written_by=written, engine=version)


def record_engine(folder: Path, version: str) -> None:
    """Write ``version`` down as the engine that writes ``folder``, whole or not at all."""
    file = folder / RECORD
    text = json.dumps({"engine": version}) + "\n"
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    part = file.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)


def _parts(version: str) -> tuple[int, ...]:
    """``26.9.2.1`` as numbers."""
    return tuple(int(part) for part in version.split("."))
