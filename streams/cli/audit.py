"""`tidemill audit`: who did what, and whether anybody has changed the record of it."""

import sys
import time

import click

from streams.cli.console import console, print_json, running_if_any


@click.group("audit")
def command() -> None:
    """List control actions, or check that nobody has changed the list.

    \b
    Example:
      tidemill audit verify
    """  # noqa: D301


@command.command("list")
@click.option("--last", type=click.IntRange(1, 100_000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with before and after.")
def list_entries(last: int, as_json: bool) -> None:
    """Print the newest entries, the newest last.

    They are not checked here; `verify` does. In SQL: SELECT * FROM audit.

    \b
    Example:
      tidemill audit list --last 50
    """  # noqa: D301
    import msgspec

    from schemas.audit import decode_entry
    from schemas.errors import SchemaError
    from streams.control.audit import read_sealed

    settings, _stack = running_if_any()
    shown = []
    for content, _signature in read_sealed(settings)[-last:]:
        try:
            shown.append(decode_entry(content))
        except SchemaError as why:
            click.echo(f"not an entry: {why}", err=True)
    if as_json:
        print_json([msgspec.to_builtins(entry) for entry in shown])
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "when", "who", "action", "subject", "why"):
        table.add_column(title)
    for entry in shown:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at_ms / 1000))
        words = (entry.who, entry.action, entry.subject, entry.reason)
        table.add_row(str(entry.number), moment, *map(escape, words))
    console().print(table if shown else "nothing was done yet")


@command.command("verify")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def verify_log(as_json: bool) -> None:
    """Check every link: digests, numbers, signatures, and the table against the topic.

    Exit code 0: all hold. 1: one does not; the first is named. Write down the digest it prints:
    with it you see later, without trusting either server, that nothing was cut off.

    \b
    Example:
      tidemill audit verify
    """  # noqa: D301
    from dataclasses import asdict

    import msgspec

    from streams.control.audit import verify

    settings, _stack = running_if_any()
    found = verify(settings)
    if as_json:
        print_json(asdict(found) | {"broken": msgspec.to_builtins(found.broken)})
    elif found.broken is None:
        copied = "no store to compare with" if found.copied is None else f"{found.copied} in SQL"
        console().print(f"whole: {found.entries} entries, {copied}; newest {found.head}")
    else:
        click.secho(
            f"broken at entry {found.broken.number}: {found.broken.why}. "
            f"{found.entries} entries before it hold.",
            fg="red",
        )
    sys.exit(0 if found.broken is None else 1)
