"""`tidemill sql` without a query, on a terminal: a prompt with history, completion and colours."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from schemas.errors import TidemillError
from streams.cli.console import console, count, print_error
from streams.cli.sql_errors import explain

if TYPE_CHECKING:
    from pathlib import Path

    from prompt_toolkit import PromptSession

    from streams.store.client import Client

Run = Callable[[str], tuple[int | None, float]]
"""Runs and shows one statement; its number of rows, if known, and the seconds that it took."""

HISTORY = "sql_history"
_WORDS = (
    "SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT WITH AS JOIN LEFT INNER ASOF ON USING UNION ALL "
    "DISTINCT AND OR NOT IN BETWEEN LIKE ILIKE IS NULL DESC ASC SHOW TABLES DATABASES DESCRIBE "
    "EXPLAIN INSERT INTO VALUES CREATE TABLE VIEW DROP ALTER FORMAT SETTINGS FINAL PREWHERE "
    "ARRAY OVER PARTITION count sum avg min max quantile uniq round toDate toStartOfHour now if"
)
_HELP = """[bold]a statement[/bold] ends with ; or an empty line
[bold]tables[/bold]        lists the tables; [bold]DESCRIBE name[/bold] their columns
[bold]Ctrl-C[/bold]        ends what runs, or forgets the line
[bold]Ctrl-R[/bold]        searches the history
[bold]Ctrl-D, exit[/bold]  leaves"""
_TABLES = (
    "SELECT name, engine, total_rows AS rows FROM system.tables "
    "WHERE database = currentDatabase() ORDER BY name"
)
_NAMES = (
    "SELECT name FROM system.tables WHERE database = currentDatabase() UNION DISTINCT "
    "SELECT name FROM system.columns WHERE database = currentDatabase()"
)


def prompt(client: "Client", run: Run, *, home: "Path", where: str) -> None:
    """Read statements and ``run`` them until the person leaves.

    The history is a file in ``home`` that only its owner may read.
    """
    session = _session(client, home, where)
    console().print(f"[dim]{where}; help explains, Ctrl-D leaves[/dim]")
    while True:
        try:
            text = session.prompt("sql> ").strip().rstrip(";").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.lower() in {"exit", "quit", "\\q"}:
            return
        if text.lower() in {"help", "?", "\\?"}:
            console().print(_HELP)
        elif text:
            _one(_TABLES if text.lower() in {"tables", "\\d"} else text, run)


def _one(text: str, run: Run) -> None:
    try:
        rows, waited_s = run(text)
    except KeyboardInterrupt:
        click.secho("ended", fg="yellow", err=True)
    except TidemillError as error:
        told = str(error)
        print_error(explain(text, told) if "DB::Exception" in told else told)
    else:
        told = "done" if rows is None else f"{count(rows)} row{'' if rows == 1 else 's'}"
        console().print(f"[dim]{told}, {waited_s * 1e3:,.0f} ms[/dim]")


def _session(client: "Client", home: "Path", where: str) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.completion import FuzzyWordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    file = home / HISTORY
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return PromptSession(
        history=FileHistory(str(file)),
        completer=FuzzyWordCompleter([*_WORDS.split(), *_names(client)]),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        lexer=PygmentsLexer(SqlLexer),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="...> ",
    )


_ALONE = re.compile(r"\s*(exit|quit|help|tables|\\[qd?]|\?)?\s*\Z", re.IGNORECASE)


def complete(text: str) -> bool:
    """Whether Enter runs ``text``: it ends with ``;`` or an empty line, or is a word of ours."""
    return bool(_ALONE.match(text)) or text.rstrip(" ").endswith((";", "\n"))


def _names(client: "Client") -> list[Any]:
    try:
        return [row[0] for row in client.query(_NAMES).result_rows]
    except Exception:  # a prompt without completion is still a prompt
        return []
