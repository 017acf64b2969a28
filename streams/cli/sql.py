"""`tidemill sql`: asks the store, from the arguments or from standard input."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.errors import TidemillError
from schemas.settings import Settings
from streams.cli.console import running, without_password
from streams.cli.sql_errors import explain
from streams.cli.sql_progress import ask
from streams.cli.sql_table import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.store.client import Client

FORMATS = {
    "csv": "CSVWithNames",
    "tsv": "TabSeparatedWithNames",
    "json": "JSONEachRow",
    "jsonl": "JSONEachRow",
    "vertical": "Vertical",
    "arrow": "ArrowStream",
}


@click.command("sql")
@click.argument("query", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *FORMATS]),
    default="table",
    show_default=True,
    help="json and jsonl are one object per line; arrow is an Arrow stream.",
)
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the statement from a file.",
)
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Fills {NAME:Type}.")
@click.option("--pager/--no-pager", default=True, help="For tables that do not fit the terminal.")
@click.option("--setting", "options", multiple=True, metavar="NAME=VALUE", help="For this query.")
def command(
    query: str | None,
    form: str,
    file: Path | None,
    params: tuple[str, ...],
    options: tuple[str, ...],
    *,
    pager: bool,
) -> None:
    """Run one statement and print what it returns.

    Reads it from standard input if it is not given; on a terminal it opens a prompt with history.

    \b
    Examples:
      tidemill sql "SELECT carrier, round(avg(score), 3) AS risk FROM flights GROUP BY 1 ORDER BY 2 DESC LIMIT 5"
      tidemill sql --format csv < report.sql > report.csv
      tidemill sql --param carrier=UA "SELECT count() FROM flights WHERE carrier = {carrier:String}"
    """  # noqa: D301, E501
    if file is not None:
        if query is not None:
            raise click.UsageError("could not choose: give a statement or --file, not both.")
        query = file.read_text(encoding="utf-8")
    elif query == "-" or (query is None and not sys.stdin.isatty()):
        query = sys.stdin.read()
    asked = query is not None
    query = (query or "").strip().rstrip(";")
    if asked and not query:
        raise click.UsageError("could not find a query: give it in quotes or on standard input.")
    parameters, chosen = pairs(params), pairs(options)
    settings = Settings.from_environment()
    if not settings.clickhouse:  # a named server is asked whether or not anything runs here
        settings = running(settings)
    from streams.store.client import connect

    client = connect(settings)

    def run(text: str) -> tuple[int | None, float]:
        return _run(client, text, form, parameters=parameters, settings=chosen, pager=pager)

    try:
        if asked:
            run(query)
            return
        from streams.cli.sql_prompt import prompt

        where = f"{without_password(settings.clickhouse)}, database {settings.database}"
        prompt(client, run, home=settings.home, where=where)
    except TidemillError as error:
        if "DB::Exception" not in str(error):
            raise
        # Not chained: the driver's words are the same again.
        raise type(error)(explain(query, str(error))) from None
    finally:
        client.close()


def pairs(given: "Sequence[str]") -> dict[str, str]:
    """``NAME=VALUE`` as given on the command line."""
    found = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise click.UsageError(f"could not use {item!r}: write it as NAME=VALUE.")
        found[name] = value
    return found


def _run(
    client: "Client",
    query: str,
    form: str,
    *,
    parameters: dict[str, str],
    settings: dict[str, str],
    pager: bool,
) -> tuple[int | None, float]:
    """Show what ``query`` returns: its number of rows, if known, and the seconds it took."""
    began_s = time.monotonic()
    from streams.store.client import mapped_errors

    with mapped_errors("run the query"):
        if form == "table":
            answer = ask(client, query, parameters=parameters, settings=settings)
            took_s = time.monotonic() - began_s
            print_table(answer.column_names, answer.result_rows, paged=pager)
            return len(answer.result_rows), took_s
        # The database goes along by name: the raw call of the driver leaves it out.
        with client.raw_stream(
            query,
            parameters=parameters or None,
            settings=settings,
            fmt=FORMATS[form],
            use_database=True,
        ) as stream:
            for part in iter(lambda: stream.read(1 << 16), b""):
                sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    return None, time.monotonic() - began_s
