"""`tidemill worker`: one worker in the foreground, as `up` starts it and as a cluster would."""

import os
import re
import socket
import sys

import click

from streams.cli.console import running
from streams.cli.reference import PIPELINE


@click.command("worker")
@click.argument("role", type=click.Choice(["score", "join", "learn", "land"]))
@click.option(
    "--pipeline",
    "-p",
    type=PIPELINE,
    default="flights",
    show_default=True,
    help="Name or .py file.",
)
@click.option(
    "--name",
    default="",
    envvar="TIDEMILL_WORKER_NAME",
    show_envvar=True,
    help="Unique in the cluster; begins with PIPELINE-ROLE-. Absent: made of host and process.",
)
def command(role: str, pipeline: str, name: str) -> None:
    """Run one worker until Ctrl-C or SIGTERM.

    Several of the same role share the partitions of their pipeline.

    \b
    Example:
      TIDEMILL_KAFKA=k1:9092,k2:9092 TIDEMILL_CLICKHOUSE=http://user:password@ch:8123 \\
        tidemill worker score --pipeline flights
    """  # noqa: D301
    settings = running()
    from schemas.arrow import spare_pandas

    spare_pandas()
    from schemas.loading import load_pipeline
    from streams.workers.process import run_worker

    declared = load_pipeline(pipeline).name
    host, pid = socket.gethostname(), os.getpid()
    name = full_name(name, pipeline=declared, role=role, host=host, pid=pid)
    sys.exit(run_worker(role, pipeline, settings, name=name))  # type: ignore[arg-type]  # a Choice


def full_name(given: str, *, pipeline: str, role: str, host: str, pid: int) -> str:
    """``PIPELINE-ROLE-`` and what was given, or host and process; unchanged if it begins so.

    Kafka's transactions are opened under it. The rights of a role are for ids that begin so
    (`tidemill acl`), and of two workers with one name each ends the other's transactions, for ever:
    in containers every worker is process 1, so the process id alone would not do.
    """
    begin = f"{pipeline}-{role}"
    rest = re.sub(r"[^A-Za-z0-9._-]", "-", given or f"{host}-{pid}")
    return rest if rest == begin or rest.startswith(f"{begin}-") else f"{begin}-{rest}"
