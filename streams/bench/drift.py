"""`drift`: how soon detectors find that a learner's answers got worse, and how often for nothing.

The stream is SEA (Street and Kim, 2001) as River makes it, concept 0 and from one event on concept
2; the learner is River's scaler and logistic regression, score then learn. Every detector sees the
same answers. Ours is given its budget; the others have none that could be declared, so they run
with River's defaults, and their false alarms are counted.
"""

import sys
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt

from models.error_rate import ErrorRate, strata
from streams.cli.console import console, print_json

CHANGE_AT: Final = 10_000
FOUND_WITHIN: Final = 200
"""1 % of a stream of 20,000."""
AFTER: Final = 1_500
"""Answers after the change that are looked at; who is silent until then has missed it."""
BUDGET: Final = 1_000_000

Floats = npt.NDArray[np.float64]
Step = Callable[[bool, float], bool]
"""Takes whether the answer was wrong and its score; says whether that is an alarm."""


@click.command("drift")
@click.option("--streams", default=10, show_default=True, help="Streams with a change.")
@click.option("--still", default=2, show_default=True, help="Streams of 200,000 without one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(streams: int, still: int, as_json: bool) -> None:
    """Compare detectors on an abrupt change, and on streams without any.

    Exit code 1 if ours raises more false alarms than its budget, or finds fewer than nine of ten
    changes within 200 answers.

    \b
    Example:
      tidemill bench drift --json | jq '.detectors[] | {detector, within_200}'
    """  # noqa: D301
    changed = [answers(CHANGE_AT + AFTER, change_at=CHANGE_AT, seed=s) for s in range(streams)]
    quiet = [answers(200_000, change_at=200_000, seed=s) for s in range(still)]
    rows = [_row(name, make, changed, quiet) for name, make in detectors().items()]
    ours = rows[0]
    false_alarms = ours["alarms_before"] + ours["alarms_still"]
    budget = (CHANGE_AT * streams + 200_000 * still) / BUDGET
    met = false_alarms <= max(1.0, budget) and ours["within_200"] >= 0.9 * streams
    if as_json:
        print_json(
            {"name": "drift", "met": met, "false_alarm_every": BUDGET, "streams": streams}
            | {"still_answers": 200_000 * still, "detectors": rows}
        )
    else:
        _print(rows, streams, 200_000 * still)
    sys.exit(0 if met else 1)


def answers(count: int, *, change_at: int, seed: int) -> tuple[Floats, Floats]:
    """Scores and truths of scaler and logistic regression on SEA 0, from ``change_at`` on SEA 2."""
    from river import linear_model, preprocessing
    from river.datasets import synth

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    score, truth = np.empty(count), np.empty(count)
    before = synth.SEA(variant=0, seed=seed).take(min(change_at, count))
    after = synth.SEA(variant=2, seed=seed + 1000).take(max(0, count - change_at))
    for part, first in ((before, 0), (after, change_at)):
        for i, (x, y) in enumerate(part, start=first):
            score[i], truth[i] = model.predict_proba_one(x)[True], y
            model.learn_one(x, y)
    return score, truth


def detectors() -> dict[str, Callable[[], Step]]:
    """Makers of fresh detectors, ours first."""
    from river import drift
    from river.drift import binary

    def ours() -> Step:
        detector = ErrorRate(BUDGET)

        def step(wrong: bool, score: float) -> bool:
            [stratum] = strata(np.array([score]))
            return detector.update(wrong=wrong, stratum=stratum) is not None

        return step

    def rivers(make: Callable[[], Any]) -> Callable[[], Step]:
        def fresh() -> Step:
            detector = make()

            def step(wrong: bool, _score: float) -> bool:
                detector.update(wrong)
                return bool(detector.drift_detected)

            return step

        return fresh

    return {
        "error-rate": ours,
        "DDM": rivers(binary.DDM),
        "EDDM": rivers(binary.EDDM),
        "HDDMA": rivers(binary.HDDMA),
        "HDDMW": rivers(binary.HDDMW),
        "FHDDM": rivers(binary.FHDDM),
        "ADWIN": rivers(drift.ADWIN),
    }


def alarms(make: Callable[[], Step], score: Floats, truth: Floats) -> list[int]:
    """The places of the alarms; the detector begins anew after each."""
    wrong = ((score > 0.5) != (truth > 0.5)).tolist()
    step, found = make(), []
    for place, said in enumerate(score.tolist()):
        if step(wrong[place], said):
            found.append(place)
            step = make()
    return found


def _row(
    name: str,
    make: Callable[[], Step],
    changed: Iterable[tuple[Floats, Floats]],
    quiet: Iterable[tuple[Floats, Floats]],
) -> dict[str, Any]:
    delays, before = [], 0
    for score, truth in changed:
        found = alarms(make, score, truth)
        before += sum(place < CHANGE_AT for place in found)
        after = [place - CHANGE_AT for place in found if place >= CHANGE_AT]
        delays.append(after[0] if after else AFTER)
    return {
        "detector": name,
        "within_200": sum(delay < FOUND_WITHIN for delay in delays),
        "delay_p50": median(delays),
        "delay_max": max(delays),
        "missed": delays.count(AFTER),
        "alarms_before": before,
        "alarms_still": sum(len(alarms(make, score, truth)) for score, truth in quiet),
    }


def _print(rows: list[dict[str, Any]], streams: int, still: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("detector", no_wrap=True)
    heads = (f"{streams} found", "p50", "max", "missed", "before", "still")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        name, *figures = row.values()
        table.add_row(name, *(f"{figure:.0f}" for figure in figures))
    console().print(table)
    console().print(
        f"found: within {FOUND_WITHIN} answers; p50, max: answers from the change to the alarm;\n"
        f"before, still: false alarms in {CHANGE_AT * streams:,} answers before the changes and in "
        f"{still:,}\nwithout. error-rate has a budget of one in {BUDGET:,}; the others have none."
    )
