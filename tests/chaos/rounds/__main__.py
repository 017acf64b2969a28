"""``make chaos ROUNDS=5 SEED=7``: rounds of faults, a table, and exit code 0 only if all were exact."""

import logging
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.chaos.rounds.faults import KILLED, Outcome
from tests.chaos.rounds.running import Round, run_round
from tests.chaos.rounds.schedule import drawn
from tests.chaos.rounds.world import impossible


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--first", type=click.IntRange(0), default=0, help="Number of the first round.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=16, show_default=True, help="Faults a round."
)
@click.option("--kills-share", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option(
    "--at-once", type=click.IntRange(1, 3), default=3, show_default=True,
    help="How many workers are killed at once, at most.",
)  # fmt: skip
@click.option("--rate", type=float, default=250.0, show_default=True, help="Events a second.")
@click.option("--keep", is_flag=True, help="Keep the folders of rounds that were exact, too.")
@click.option("--dry", is_flag=True, help="Show the schedules, start nothing.")
def main(
    rounds: int, first: int, seed: int, steps: int, kills_share: float, at_once: int, rate: float,
    keep: bool, dry: bool,
) -> None:  # fmt: skip
    """Let everything die, in an order that the seed gives, and check that nothing is lost.

    \b
    Example:
      python -m tests.chaos.rounds --rounds 5 --seed 7
    """
    out, without = Console(width=120), impossible()
    if without:
        out.print(f"[yellow]left out here: {', '.join(sorted(without))}[/yellow]")
    done: list[Round] = []
    for number in range(first, first + rounds):
        schedule = drawn(
            seed, number, steps=steps, kills_share=kills_share, at_once_max=at_once,
            without=without,
        )  # fmt: skip
        if dry:
            for step in schedule.steps:
                out.print(f"round {number}, {schedule.brokers} brokers: {step}", highlight=False)
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"tidemill-chaos-{seed}-{number}-"))
        began = time.monotonic()
        result = run_round(
            folder, schedule, rate=rate,
            say=lambda text, n=number: out.print(f"round {n}: {text}", highlight=False),
        )  # fmt: skip
        done.append(result)
        colour = "green" if result.exact else "red"
        out.print(
            f"[{colour}]round {number}: {result.summary}[/{colour}] "
            f"({time.monotonic() - began:.0f} s)", highlight=False,
        )  # fmt: skip
        if result.exact and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            out.print(f"its folder: {folder}; again: --seed {seed} --first {number} --rounds 1")
    if not dry:
        _print(out, seed, done)
    sys.exit(0 if all(result.exact for result in done) else 1)


def _print(out: Console, seed: int, done: list[Round]) -> None:
    table = Table(title=f"seed {seed}", title_justify="left")
    for name in ("round", "brokers", "faults", "kills", "events", "lost", "doubled", "ledger",
                 "learner", "exact"):  # fmt: skip
        table.add_column(name, justify="left" if name == "ledger" else "right")
    for result in done:
        table.add_row(*result.cells())
    out.print(table)
    kills: dict[str, int] = {}
    for result in done:
        for role, count in result.kills.items():
            kills[role] = kills.get(role, 0) + count
    out.print(
        f"kills: {sum(kills.values())} ({', '.join(f'{r} {n}' for r, n in sorted(kills.items()))})"
    )
    _print_pauses(out, [outcome for result in done for outcome in result.outcomes])


def _print_pauses(out: Console, outcomes: list[Outcome]) -> None:
    """How long processing stood still after kills; of other faults, how long with them."""
    table = Table(title="pauses until processing resumed, seconds", title_justify="left")
    for name in ("fault", "times", "median", "longest"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    by_fault: dict[str, list[float]] = {}
    for outcome in outcomes:
        step = outcome.step
        names = [step.fault]
        if step.fault == "kill" and len(step.victims) == 1:
            names = [f"kill of one {step.victims[0].split('-')[0]}"]
        elif step.fault == "kill":
            names = ["kill of several"]
        for name in names:
            by_fault.setdefault(name, []).append(max(outcome.paused_s.values()))
    for name, seconds in sorted(
        by_fault.items(), key=lambda item: (item[0] not in KILLED, item[0])
    ):
        table.add_row(
            name, str(len(seconds)), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"
        )
    out.print(table)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
