"""The regression gate: a ratio that fell by more than a fifth under the committed one fails."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from streams.bench.result import Result

COMMITTED = Path(__file__).with_name("committed_ratios.json")
FALL_MAX = 0.2
"""Share by which a ratio may fall. Ratios are of one run on one machine, so they carry over from
machine to machine far better than rates do."""

Ratios = dict[str, dict[str, float]]


def committed() -> Ratios:
    """The ratios that are to be held, by benchmark and rival."""
    return msgspec.json.decode(COMMITTED.read_bytes(), type=Ratios)


def keep(results: Sequence[Result], file: Path = COMMITTED) -> None:
    """Write the ratios of ``results`` as the ones to be held; other benchmarks keep theirs."""
    before = msgspec.json.decode(file.read_bytes(), type=Ratios) if file.exists() else {}
    found = before | {
        r.name: {who: round(v, 2) for who, v in r.ratios.items()} for r in results if r.ratios
    }
    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    file.write_bytes(text + b"\n")


def fallen(results: Sequence[Result], held: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One statement per ratio that fell too far, or that should have been measured and was not."""
    lines = []
    for result in results:
        for who, before in held.get(result.name, {}).items():
            now = result.ratios.get(who)
            if now is None:
                lines.append(f"{result.name}: the ratio to {who} was not measured")
            elif now < (1 - FALL_MAX) * before:
                lines.append(
                    f"{result.name}: the ratio to {who} fell from {before:g} to {now:.3g}, over "
                    f"{FALL_MAX:.0%}. Run it again on a quiet machine; if it stays, profile it."
                )
    return lines
