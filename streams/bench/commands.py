"""The commands below `tidemill bench`: one stand, one or more measurements, table or JSON."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from schemas.errors import SetupError
from streams.bench import gate
from streams.cli.console import print_error

try:
    import confluent_kafka  # noqa: F401
except ImportError as missing:
    raise SetupError(
        "could not measure: confluent-kafka is not installed. Install the optional group: "
        "pip install 'tidemill[bench]'."
    ) from missing

from streams.bench import first as first_
from streams.bench import label_latency as labels_
from streams.bench import land as land_
from streams.bench import latency as latency_
from streams.bench import memory as memory_
from streams.bench import path as path_
from streams.bench import profile as profile_
from streams.bench import rescore as rescore_
from streams.bench import score as score_
from streams.bench import store as store_
from streams.bench import swap as swap_
from streams.bench.consume import run as run_consume
from streams.bench.peers import race as race_
from streams.bench.peers.environments import PEERS
from streams.bench.running import Measure, common_options, measured, show
from streams.cli.numbers import NumberRange

GATED = ("consume", "land", "score", "score-exactly-once", "path", "latency")
"""The benchmarks that have ratios; the path late, when the broker is warm."""


_rows = click.option(
    "--rows", type=click.IntRange(20_000), default=300_000, show_default=True, help="Events."
)
_stock_rows = click.option(
    "--stock-rows", type=click.IntRange(2_000), default=10_000, help="Events for stock Faust."
)
_seconds = click.option(
    "--seconds", type=NumberRange(2.0), default=8.0, show_default=True, help="Of each rate."
)


@click.command("consume")
@common_options
@click.option("--rows", type=click.IntRange(200_000), default=500_000, show_default=True)
def consume(rows: int, **common: Any) -> None:
    """Read the same records with our transport, confluent-kafka, aiokafka and stock Faust.

    \b
    Example:
      tidemill bench consume --rows 500000
    """  # noqa: D301
    measured(lambda stand: run_consume(stand, rows=rows), **common)


@click.command("score")
@common_options
@_rows
@_stock_rows
def score(rows: int, stock_rows: int, **common: Any) -> None:
    """Score at least once: ours, a hand-written confluent-kafka loop, stock Faust.

    \b
    Example:
      tidemill bench score --json | jq .ratios
    """  # noqa: D301
    measured(_scoring("at-least-once", rows, stock_rows), **common)


@click.command("score-exactly-once")
@common_options
@_rows
@_stock_rows
def score_exactly_once(rows: int, stock_rows: int, **common: Any) -> None:
    """Score in transactions: ours, a hand-written confluent-kafka loop, stock Faust (which cannot).

    \b
    Example:
      tidemill bench score-exactly-once --rows 600000
    """  # noqa: D301
    measured(_scoring("exactly-once", rows, stock_rows), **common)


def _scoring(delivery: str, rows: int, stock_rows: int) -> Measure:
    return lambda stand: score_.run(stand, delivery=delivery, rows=rows, stock_rows=stock_rows)


@click.command("land")
@common_options
@_rows
def land(rows: int, **common: Any) -> None:
    """Land scored rows, and insert the same rows in a bare insert_arrow loop.

    \b
    Example:
      tidemill bench land --set land.land_rows_min=60000
    """  # noqa: D301
    measured(lambda stand: land_.run(stand, rows=rows), **common)


@click.command("path")
@common_options
@click.option("--rounds", type=click.IntRange(1, 10), default=1, help="The last one is reported.")
@click.option("--rows", type=click.IntRange(20_000), default=600_000, show_default=True)
def path(rows: int, rounds: int, **common: Any) -> None:
    """Run preloaded events through scorer, broker, lander and store; CPU of each per event.

    \b
    Example:
      tidemill bench path --rows 1000000 --rounds 2
    """  # noqa: D301
    measured(*[lambda stand: path_.run(stand, rows=rows)] * rounds, **common)


@click.command("latency")
@common_options
@_seconds
@click.option("--rate", "rates", type=click.IntRange(1, 100_000), multiple=True, help="Events/s.")
@click.option("--delivery", "deliveries", type=click.Choice(score_.DELIVERIES), multiple=True)
@click.option("--rivals/--no-rivals", default=True, show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw FILE.svg.")
def latency(
    seconds: float,
    rates: tuple[int, ...],
    deliveries: tuple[str, ...],
    rivals: bool,
    plot: Path | None,
    **common: Any,
) -> None:
    """Send at steady rates, open loop, and time each event to its prediction and to SQL.

    \b
    Example:
      tidemill bench latency --rate 200 --rate 2000 --plot latency.svg
    """  # noqa: D301
    [result] = measured(
        lambda stand: latency_.run(
            stand,
            seconds=seconds,
            rates=rates or latency_.RATES,
            deliveries=deliveries or score_.DELIVERIES,
            rivals=rivals,
        ),
        **common,
    )
    if plot is not None:
        from streams.bench.plot import draw

        plot.write_text(draw(result), encoding="utf-8")


@click.command("peers")
@common_options
@_rows
@_seconds
@click.option("--peer", "names", type=click.Choice([p.name for p in PEERS]), multiple=True)
@click.option(
    "--environments",
    type=click.Path(path_type=Path),
    default=Path(".tidemill/peers"),
    show_default=True,
    help="Folder for their packages: 2.5 GB for all, made once.",
)
def peers(
    rows: int, seconds: float, names: tuple[str, ...], environments: Path, **common: Any
) -> None:
    """Score the same events with Quix Streams, Bytewax, Pathway and PyFlink.

    Each gets an environment of its own, with its pinned version. The first run needs the network.

    \b
    Example:
      tidemill bench peers --peer quix --peer bytewax
    """  # noqa: D301
    chosen = [peer for peer in PEERS if not names or peer.name in names]
    measured(
        lambda stand: race_.run(
            stand, peers=chosen, rows=rows, seconds=seconds, folder=environments.absolute()
        ),
        **common,
    )


@click.command("labels")
@common_options
@click.option("--seconds", type=NumberRange(4.0), default=20.0, show_default=True)
@click.option("--rate", "rates", type=click.IntRange(1, 20_000), multiple=True, help="Events/s.")
@click.option(
    "--open", "open_rows", type=click.IntRange(0), default=labels_.OPEN_ROWS, show_default=True
)
def labels(seconds: float, rates: tuple[int, ...], open_rows: int, **common: Any) -> None:
    """Send events and labels open loop; time each label to a prediction that knows it.

    \b
    Example:
      tidemill bench labels --rate 500 --json | jq '.results[].to_prediction_ms'
    """  # noqa: D301
    rates = rates or labels_.RATES
    measured(
        lambda stand: labels_.run(stand, seconds=seconds, rates=rates, open_rows=open_rows),
        **common,
    )


@click.command("first")
@common_options
def first(as_json: bool, write: Path | None, settings: str) -> None:
    """Start the demo on an empty home and time its first prediction.

    \b
    Example:
      tidemill bench first
    """  # noqa: D301
    if settings:
        raise click.UsageError("first takes its settings from the environment, as the demo does.")
    show([first_.run()], as_json=as_json, write=write)


@click.command("store")
@common_options
@_seconds
def store(seconds: float, as_json: bool, write: Path | None, settings: str) -> None:
    """Time `select 1` beside two writers, inserts beside 12 endless queries, and gzip bombs.

    \b
    Example:
      tidemill bench store --seconds 20
    """  # noqa: D301
    if settings:
        raise click.UsageError("store has no workers.")
    show([store_.run(seconds=seconds)], as_json=as_json, write=write)


@click.command("memory")
@common_options
@click.option("--minutes", type=NumberRange(0.5), default=10.0, show_default=True)
def memory(minutes: float, **common: Any) -> None:
    """Replay at 4,000 events/s and watch the resident memory of every process.

    \b
    Example:
      tidemill bench memory --minutes 3
    """  # noqa: D301
    measured(lambda stand: memory_.run(stand, minutes=minutes), **common)


@click.command("swap")
@common_options
@click.option("--swaps", type=click.IntRange(2), default=100, show_default=True)
def swap(swaps: int, **common: Any) -> None:
    """Change the model of three scorers under load, again and again.

    \b
    Example:
      tidemill bench swap --swaps 20 --json
    """  # noqa: D301
    measured(lambda stand: swap_.run(stand, swaps=swaps), **common)


@click.command("rescore")
@common_options
@click.option("--rows", type=click.IntRange(3_000), default=100_000, show_default=True)
def rescore(rows: int, **common: Any) -> None:
    """Make predictions again, across two swaps, and compare them bit for bit.

    \b
    Example:
      tidemill bench rescore --json
    """  # noqa: D301
    measured(lambda stand: rescore_.run(stand, rows=rows), **common)


@click.command("profile")
@common_options
@_rows
def profile(rows: int, **common: Any) -> None:
    """Run the path under py-spy: where the scorer's and the lander's time goes.

    \b
    Example:
      tidemill bench profile --rows 1000000
    """  # noqa: D301
    measured(lambda stand: profile_.run(stand, rows=rows), **common)


@click.command("stages")
@common_options
def stages(as_json: bool, write: Path | None, settings: str) -> None:
    """Time each stage of the scorer alone, by the CPU clock of one thread; no servers.

    \b
    Example:
      tidemill bench stages
    """  # noqa: D301
    if settings:
        raise click.UsageError("stages has no workers whose settings could be set.")
    from streams.bench import stages as stages_

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        show([stages_.run(Path(folder))], as_json=as_json, write=write)


@click.command("all")
@common_options
@_rows
@_stock_rows
@_seconds
@click.option("--only", type=click.Choice(GATED), multiple=True, help="Some of them.")
@click.option("--keep", is_flag=True, help="Commit these ratios instead of comparing with them.")
def all_(
    rows: int, stock_rows: int, seconds: float, only: tuple[str, ...], keep: bool, **common: Any
) -> None:
    """Run every benchmark that has ratios; exit code 1 when one fell by more than a fifth.

    \b
    Example:
      tidemill bench all --write docs/benchmarks/today.md
    """  # noqa: D301
    measures: dict[str, Measure] = {
        "consume": lambda stand: run_consume(stand, rows=max(rows, 200_000)),
        "land": lambda stand: land_.run(stand, rows=rows),
        "score": _scoring("at-least-once", rows, stock_rows),
        "score-exactly-once": _scoring("exactly-once", rows, stock_rows),
        "path": lambda stand: path_.run(stand, rows=2 * rows),
        "latency": lambda stand: latency_.run(stand, seconds=seconds),
    }
    results = measured(*(measures[name] for name in only or GATED), **common)
    if keep:
        gate.keep(results)
        return
    fallen = gate.fallen(results, gate.committed())
    for line in fallen:
        print_error(line)
    if fallen:
        sys.exit(1)
