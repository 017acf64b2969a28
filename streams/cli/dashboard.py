"""`tidemill dashboard`: the pages, as `up` starts them and as a cluster would."""

import click

from streams.cli.console import pipelines_or_running, running
from streams.cli.reference import PIPELINE


@click.command("dashboard")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: TIDEMILL_DASHBOARD_PORT.")
@click.option("--name", default="dashboard", help="Unique among the processes of one home.")
def command(pipelines: tuple[str, ...], port: int | None, name: str) -> None:
    """Serve the pages at http://127.0.0.1:8200 until Ctrl-C; `tidemill up` does it by itself.

    It listens on the loopback interface only. From another machine:
    ssh -L 8200:127.0.0.1:8200 HOST

    \b
    Example:
      TIDEMILL_KAFKA=k1:9092 TIDEMILL_CLICKHOUSE=http://user:password@ch:8123 tidemill dashboard
    """  # noqa: D301
    settings = running()
    from streams.dashboard.serve import serve

    references = pipelines_or_running(pipelines)
    serve(settings, references, port=port or settings.dashboard_port, name=name)
