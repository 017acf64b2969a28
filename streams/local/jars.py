"""Kafka's jars: resolved once by coordinates, pinned by checksum, kept in the user's cache.

``kafka_jars.lock.txt`` names every jar with its SHA-256. A download that differs is refused, so the
place it came from need not be trusted. ``python -m streams.local.jars`` fetches what is missing;
with ``lock`` behind it, it resolves anew and rewrites the lock.

Kafka is resolved alone: with a second root in the same resolution a parent's version table leaks
and yields clients of another version. `ALONE` are jars that Kafka lists for its distribution only;
they are taken by their exact coordinates, without what they depend on.
"""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from schemas.errors import SetupError

KAFKA_VERSION = "4.3.1"
ROOT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
ALONE = (
    f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",  # the console tools
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",  # without it the broker logs nothing
)
LOCK = Path(__file__).with_name("kafka_jars.lock.txt")
DOWNLOADS_MAX = 6
ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar."""

    sha256: str
    group: str
    artifact: str
    version: str

    @property
    def name(self) -> str:
        """Its file name."""
        return f"{self.artifact}-{self.version}.jar"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """The jars of the lock, in class path order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    return [Jar(digest, *coordinates.split(":")) for digest, coordinates in entries]


def jar_folder() -> Path:
    """Where the jars lie: one folder per Kafka version in the user's cache, shared by all homes."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "tidemill" / f"kafka-{KAFKA_VERSION}"


@lru_cache(maxsize=1)
def class_path() -> str:
    """Kafka's class path; downloads what is missing, checks every checksum (0.1 s for 43 MB).

    Raises:
        SetupError: a jar cannot be downloaded or differs from the lock.
    """
    jars, folder = read_lock(), jar_folder()
    missing = [jar for jar in jars if digest_of(folder / jar.name) != jar.sha256]
    if missing:
        _download(missing, folder)
    return os.pathsep.join(str(folder / jar.name) for jar in jars)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; empty if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _download(jars: list[Jar], folder: Path) -> None:
    """Fetch ``jars`` into ``folder``, each by an atomic rename after its check."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise SetupError(
            f"could not make the folder for Kafka's jars: {cause}. Set XDG_CACHE_HOME to a folder "
            "that can be written to."
        ) from cause
    started = time.monotonic()
    _say(f"fetching Kafka {KAFKA_VERSION}: {len(jars)} jars, once per machine (43 MB in all)")
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="draft-") as draft,
        ThreadPoolExecutor(DOWNLOADS_MAX) as pool,
    ):
        files = pool.map(lambda jar: _fetch(jar, Path(draft)), jars)
        for done, (jar, file) in enumerate(zip(jars, files, strict=True), start=1):
            if digest_of(file) != jar.sha256:
                raise SetupError(
                    f"could not use {jar.name}: its checksum differs from "
                    f"{LOCK.name}; sha256={digest_of(file)} expected={jar.sha256}. "
                    "Try again; if it stays so, the repository serves another file."
                )
            file.replace(folder / jar.name)
            if done % 10 == 0:
                _say(f"  {done} of {len(jars)}")
    _say(f"fetched in {time.monotonic() - started:.0f} s, kept in {folder}")


def fetch(jar: Jar, folder: Path) -> Path:
    """One more jar, beside Kafka's own; kept in ``folder``.

    Raises:
        SetupError: it could not be downloaded, or is not the one that ``jar`` means.
    """
    file = folder / jar.name
    if digest_of(file) == jar.sha256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="draft-") as draft:
        found = _fetch(jar, Path(draft))
        if digest_of(found) != jar.sha256:
            raise SetupError(
                f"could not use {jar.name}: its checksum differs; sha256={digest_of(found)} "
                f"expected={jar.sha256}. Try again."
            )
        return found.replace(file)


def _fetch(jar: Jar, draft: Path) -> Path:
    """Download one jar, with all that jgo knows about repositories and mirrors."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    for attempt in range(ATTEMPTS_MAX):
        cache = draft / f"{jar.artifact}-{attempt}"  # jgo leaves a broken file behind on failure
        context = MavenContext(
            repo_cache=cache, local_repos=[], remote_repos=repositories, timeout=60
        )
        try:
            artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
            return Path(artifact.resolve())
        except Exception as cause:
            if attempt == ATTEMPTS_MAX - 1:
                raise SetupError(
                    f"could not download {jar.group}:{jar.artifact}:{jar.version}: {cause}. "
                    "The first start needs the network; or set TIDEMILL_KAFKA to an existing "
                    "cluster."
                ) from cause
            time.sleep(2.0**attempt)
    raise AssertionError("the last attempt returns or raises")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def write_lock(path: Path = LOCK) -> None:
    """Resolve `ROOT` anew and write the lock; a person reviews the difference."""
    import jgo

    resolved: Iterable[tuple[str, str, str]] = [
        (str(a.groupId), str(a.artifactId), str(a.version)) for a in jgo.resolve(ROOT)
    ]
    wanted = [*resolved, *(tuple(text.split(":")) for text in ALONE)]
    title = f"# Every jar of {ROOT}, in class path order."
    lines = [f"{title} Written by `python -m streams.local.jars lock`."]
    with tempfile.TemporaryDirectory() as draft:
        for group, artifact, version in wanted:
            file = _fetch(Jar("", group, artifact, version), Path(draft))
            lines.append(f"{digest_of(file)} {group}:{artifact}:{version}")
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        write_lock()
    class_path()
