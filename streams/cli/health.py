"""`tidemill health`: whether a process works, for probes of containers and of whoever watches."""

import sys

import click

from streams.cli.numbers import NumberRange


@click.command("health")
@click.argument("name", default="")
@click.option("--ready", is_flag=True, help="It must be running, not only alive.")
@click.option(
    "--age",
    default=10.0,
    show_default=True,
    type=NumberRange(min=0, min_open=True),
    help="Seconds since its last report that are no fault.",
)
@click.option("--store", metavar="URL", help="Ask this store instead; its certificate is not read.")
def command(name: str, ready: bool, age: float, store: str | None) -> None:
    """Say whether the process NAME of this home is alive; exit code 0 if it is, otherwise 1.

    Without NAME it is the one that reported last, as in a container with one process. Every process
    reports once a second into TIDEMILL_HOME/run; one that hangs does not. A worker that waits for
    Kafka or ClickHouse is alive, and not ready: a restart would not help it. Asks no server.

    \b
    Examples:
      tidemill health --ready
      tidemill health flights-score-0 --age 30
      tidemill health --store https://127.0.0.1:8443
    """  # noqa: D301
    found, words = _store(store) if store else judged(name, ready=ready, age_s_max=age)
    click.echo(f"{'ok' if found else 'not ok'}: {words}")
    sys.exit(0 if found else 1)


def judged(name: str, *, ready: bool, age_s_max: float) -> tuple[bool, str]:
    """Whether it is well, and what is known about it in words."""
    import time

    from schemas.settings import Settings
    from streams.telemetry import read_reports

    folder = Settings.from_environment().run_folder
    reports = [one for one in read_reports(folder) if name in {"", one.name}]
    if not reports:
        return False, f"no report{f' of {name}' if name else ''} in {folder}"
    report = max(reports, key=lambda one: one.updated_at_ms)
    age_s = time.time() - report.updated_at_ms / 1000
    why = f", {report.detail}" if report.detail else ""
    words = f"{report.name} is {report.state}{why}; reported {max(0.0, age_s):.0f} s ago"
    if age_s > age_s_max or report.state == "failed":
        return False, words
    return report.state == "running" or not ready, words


def _store(url: str) -> tuple[bool, str]:
    """Whether a store answers ``GET /ping``, as ClickHouse servers do, too."""
    import ssl
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--store")
    # It asks whether it lives, sends nothing secret, and the name in the certificate is another.
    context = ssl._create_unverified_context()  # noqa: S323
    try:
        with urllib.request.urlopen(  # noqa: S310  # http or https, see above
            f"{url.rstrip('/')}/ping", timeout=3.0, context=context
        ) as answer:
            said = answer.read(64).strip()
    except (OSError, urllib.error.URLError) as error:
        return False, f"{url} does not answer: {error}"
    return said == b"Ok.", f"{url} said {said.decode('utf-8', 'replace')!r}"
