"""`tidemill doctor`: what this machine and this set-up lack, and what to do about it."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from streams.cli.console import console, print_json, running_if_any

if TYPE_CHECKING:
    from streams.cli.checks import Check


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(as_json: bool) -> None:
    """Check the machine, the settings and the servers, and say what to do about what is wrong.

    Python, Java, Kafka's jars, the store's engine, memory, disk, open files, clock, ports;
    settings that contradict, optional packages, the signing key; and servers, their clock, topics
    and models when `tidemill up` runs or the settings name servers.

    Exit code 0 if all is well, otherwise 1. A hint beside `ok` is advice.

    \b
    Example:
      tidemill doctor
    """  # noqa: D301
    checks: list[Check] = []
    for check in _checks():
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        print_json(checks)
    sys.exit(0 if all(check.ok for check in checks) else 1)


def _checks() -> "Iterator[Check]":
    from schemas.errors import SettingsError
    from schemas.settings import Settings
    from streams.cli.checks import Check
    from streams.cli.machine_checks import check_machine
    from streams.cli.server_checks import check_servers
    from streams.cli.settings_checks import check_settings

    try:
        settings, stack = running_if_any()
    except SettingsError as error:
        # The machine can be looked at all the same.
        yield Check(name="settings", ok=False, found=str(error), remedy="See the message.")
        yield from check_machine(Settings(), None)
        return
    yield from check_machine(settings, stack)
    # As they are set: what runs on the home has filled in the addresses of `settings`.
    yield from check_settings(Settings.from_environment())
    yield from check_servers(settings, stack)


def _print(check: "Check") -> None:
    from rich.markup import escape

    mark = "[green]ok  [/green]" if check.ok else "[red]FAIL[/red]"
    console().print(f"{mark} {check.name:<12} {escape(check.found)}")
    if check.remedy:
        style = "dim" if check.ok else "bold"
        console().print(f"     {'':<12} [{style}]{escape(check.remedy)}[/{style}]")
