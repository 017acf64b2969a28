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
    help="Unique among the workers of the cluster; made of host and process if absent.",
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
    from streams.worker import run_worker

    name = name or made_up_name(role, host=socket.gethostname(), pid=os.getpid())
    sys.exit(run_worker(role, pipeline, settings, name=name))  # type: ignore[arg-type]  # a Choice


def made_up_name(role: str, *, host: str, pid: int) -> str:
    """A name that no other worker of the cluster has.

    In containers every worker is process 1, so the process id alone would not do: of two workers
    with one name each ends the other's transactions, for ever.
    """
    return f"{role}-{re.sub('[^A-Za-z0-9-]', '-', host)}-{pid}"
