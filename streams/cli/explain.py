"""`tidemill explain`: why one prediction is what it is."""

from typing import TYPE_CHECKING

import click

from streams.cli.console import console, print_json, running

if TYPE_CHECKING:
    from streams.decisions.explaining import Explanation

BAR_CELLS = 24
"""Of the largest contribution."""


@click.command("explain")
@click.argument("pipeline", default="flights")
@click.option("--id", "event_id", required=True, help="Of the event.")
@click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, help="So many features."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every feature.")
def command(pipeline: str, event_id: str, top: int, as_json: bool) -> None:
    """Say what each feature added to the newest prediction of an event.

    From the features as they were used and the version that answered, whose signature is checked.
    Contributions are measured from a baseline that is named, and add up to the answer.

    \b
    Example:
      tidemill explain flights --id 2013-02-12-UA1018-EWR-0525
    """  # noqa: D301
    from schemas.loading import load_pipeline
    from streams.decisions.explaining import explain
    from streams.store.client import connect

    settings = running()
    loaded = load_pipeline(pipeline)
    found = explain(loaded, settings, connect(settings), event_id)
    if as_json:
        print_json(found)
    else:
        _show(found, top=top)


def _show(found: "Explanation", *, top: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    binary = found.unit == "log-odds"
    shown = "{:.1%}" if binary else "{:.4g}"
    say = console().print
    say(
        f"{escape(found.event_id)}: {shown.format(found.score)}, said by {escape(found.version)}. "
        f"The baseline gets {shown.format(found.base_score)}."
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("feature", "value", f"adds ({escape(found.unit)})", ""):
        table.add_column(title, justify="right" if title.startswith("adds") else "left")
    most = max((abs(one.adds) for one in found.contributions), default=0.0)
    for one in found.contributions[:top]:
        cells = round(BAR_CELLS * abs(one.adds) / most) if most else 0
        sign = "green" if one.adds > 0 else "red"
        value = f"{one.value:.6g}" if isinstance(one.value, float) else escape(one.value)
        table.add_row(
            one.feature,
            value,
            f"{one.adds:+.3f}",
            f"[{sign}]{('+' if one.adds > 0 else '-') * cells}[/{sign}]",
        )
    rest = found.contributions[top:]
    if rest:
        table.add_row(f"{len(rest)} others", "", f"{sum(one.adds for one in rest):+.3f}", "")
    say(table)
    total = sum(one.adds for one in found.contributions)
    say(
        f"baseline {found.base:+.3f}, all features {total:+.3f}, "
        f"remainder {found.remainder:+.4f} = answer {found.answer:+.3f} ({escape(found.unit)})"
    )
    say(f"[dim]{escape(found.method)}. Baseline: {escape(found.baseline)}.[/dim]")
    if found.learner is not None and not found.learner.exact:
        say(
            f"[yellow]The learner answered at {found.learner.position_then}; that state is "
            f"no longer kept. This is the one at {found.learner.position}, which says "
            f"{shown.format(found.score_again)}.[/yellow]"
        )
