"""The long round: ``python -m tests.fuzz --count 1000000``, all targets or those that are named."""

import argparse
import sys

from rich.console import Console
from rich.progress import Progress

from tests.fuzz.running import Outcome, try_apart, try_inputs
from tests.fuzz.target import Inputs
from tests.fuzz.targets import TARGETS


def main() -> int:
    """0 only if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1, help="the inputs follow from it")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one")
    parser.add_argument("--only", type=int, help="one input, here, and what it is")
    options = parser.parse_args()
    found = 0
    for name in options.target or TARGETS:
        if options.only is not None:
            print(repr(Inputs(TARGETS[name], options.seed)[options.only]))
            outcome = try_inputs(name, seed=options.seed, first=options.only, count=1)
        else:
            outcome = _tried(name, seed=options.seed, first=options.first, count=options.count)
        found += bool(outcome.problem)
        print(outcome, flush=True)
    return 1 if found else 0


def _tried(name: str, *, seed: int, first: int, count: int) -> Outcome:
    """With a bar, where somebody watches: a million inputs take minutes."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=count)
        return try_apart(
            name,
            seed=seed,
            first=first,
            count=count,
            progress=lambda number: bar.update(task, completed=number - first),
        )


if __name__ == "__main__":
    sys.exit(main())
