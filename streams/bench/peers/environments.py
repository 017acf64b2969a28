"""One environment for each peer, made when it is first needed.

A peer's own packages come first; torch, the model and these programs come from the environment that
runs the benchmark, so that all of them ask the same model.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SetupError
from streams.local.jars import Jar, fetch, read_lock
from streams.local.java import find_java

MADE = "made"
INSTALL_S_MAX = 900.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One other system.

    Attributes:
        name: What results call it.
        requirement: What is installed.
        module: The program, below ``streams.bench.peers``.
        guarantee: What it promises on this work; ``none``: it commits no offsets.
        rows: Rows that its function gets at once when many are waiting.
        rows_exactly_once: The same where it promises that; 0: it cannot.
        rows_at_once: The same for answers in milliseconds; 0 where it is not made for that.
        processes: Does it use more than one?
        jar: Something that it needs beside Python.
    """

    name: str
    requirement: str
    module: str
    guarantee: str
    rows: int
    rows_at_once: int
    rows_exactly_once: int = 0
    processes: bool = False
    jar: Jar | None = None


PEERS = (
    # Batches leave through a sink with a producer of its own, so only single rows are in Quix's
    # transaction.
    Peer("quix", "quixstreams==3.28.1", "quix", "at-least-once", 10_000, 1, rows_exactly_once=1),
    Peer("bytewax", "bytewax[kafka]==0.21.1", "bytewax_flow", "none", 10_000, 500),
    Peer("pathway", "pathway==0.33.0", "pathway_table", "at-least-once", 10_000, 500),
    Peer(
        "pyflink",
        "apache-flink==2.3.0",
        "flink_table",
        "at-least-once",
        rows=10_000,
        rows_at_once=500,
        rows_exactly_once=10_000,
        processes=True,
        jar=Jar(
            "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616",
            "org.apache.flink",
            "flink-sql-connector-kafka",
            "5.0.0-2.2",
        ),
    ),
)
"""In the versions that were measured."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a peer can run: its Python, and variables that it needs."""

    python: Path
    variables: dict[str, str]


def environment_of(peer: Peer, folder: Path) -> Environment:
    """Make it if it is not there; a half-made one is made again.

    Raises:
        SetupError: something could not be installed.
    """
    place = folder / f"{peer.name}-{peer.requirement.rpartition('==')[2]}"
    python = place / "bin" / "python"
    if not (place / MADE).exists():
        _run(peer, [sys.executable, "-m", "venv", "--clear", str(place)])
        install = [str(python), "-m", "pip", "install", "--quiet", peer.requirement]
        _run(peer, install)
        own = sysconfig.get_path("purelib", vars={"base": str(place)})
        shared = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (Path(own) / "zz_shared.pth").write_text(shared, encoding="utf-8")
        (place / MADE).touch()
    variables = {}
    if peer.jar is not None:
        # The connector reads what is compressed with zstd only with the jar that Kafka has for it.
        zstd = next(jar for jar in read_lock() if jar.artifact == "zstd-jni")
        jars = fetch(peer.jar, place), fetch(zstd, place)
        variables["BENCH_JARS"] = ";".join(jar.absolute().as_uri() for jar in jars)
        variables["JAVA_HOME"] = str(find_java().resolve().parent.parent)
    return Environment(python, variables)


def _run(peer: Peer, argv: list[str]) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        subprocess.run(argv, check=True, timeout=INSTALL_S_MAX, env=variables)
    except (OSError, subprocess.SubprocessError) as cause:
        raise SetupError(
            f"could not install {peer.requirement}: {cause}. Leave it out: name the others with "
            "--peer."
        ) from cause
