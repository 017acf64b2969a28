"""Rows for people: a table, in a pager when it does not fit on the screen."""

import os
from typing import TYPE_CHECKING

from streams.cli.console import console, count, watched

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS_SHOWN_MAX = 1_000


def print_table(
    names: "Sequence[str]", rows: "Sequence[Sequence[object]]", *, paged: bool = False
) -> None:
    """Numbers to the right, at most a thousand rows; ``paged`` allows a pager on a terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        number = bool(rows) and isinstance(rows[0][index], int | float)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows[:ROWS_SHOWN_MAX]:
        table.add_row(*(_text(value) for value in row))
    out = console()
    if paged and watched() and len(rows) + 2 > out.size.height:
        # Quits by itself when all fits, keeps colours, and scrolls sideways instead of folding.
        os.environ.setdefault("LESS", "-FRSX")
        with out.pager(styles=True):
            out.print(table)
    else:
        out.print(table)
    if len(rows) > ROWS_SHOWN_MAX:
        out.print(f"[dim]{count(ROWS_SHOWN_MAX)} of {count(len(rows))} rows shown[/dim]")


def _text(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "[dim]NULL[/dim]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(str(value))
