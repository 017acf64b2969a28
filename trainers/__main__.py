"""``python -P -m trainers``: train the first version of a pipeline and publish it."""

import sys
import time

import click
import msgspec
from rich.console import Console
from rich.table import Table

from models.registry import open_registry
from schemas.arrow import spare_pandas
from schemas.errors import TidemillError
from schemas.loading import load_pipeline
from schemas.manifest import Metrics
from schemas.settings import Settings
from trainers.first import Published, train_first

SCORERS = {"model": "model", "logistic": "logistic regression", "no_skill": "no skill (base rate)"}


@click.command(epilog="Example: python -P -m trainers --pipeline flights --json")
@click.option("--pipeline", "reference", required=True, help="A ready one by name, or a .py file.")
@click.option("--registry", default=None, help="fsspec address; default TIDEMILL_REGISTRY.")
@click.option("--days", type=click.IntRange(min=1), help="Days of history; default as declared.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def main(
    reference: str,
    registry: str | None,
    days: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train the first version of a pipeline from its history and publish it.

    `tidemill models promote` makes it serve. Exit code 0: the version is in the registry. 1: it is
    not; the reason is on standard error.
    """
    spare_pandas()
    try:
        settings = Settings.from_environment()
        published = train_first(
            load_pipeline(reference),
            open_registry(settings, registry or ""),
            seed=seed,
            days=days,
            now_ms=_now_ms,
            progress=lambda line: click.echo(line, err=True),
        )
    except (TidemillError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(_as_json(published))
    else:
        _print(published)


def _as_json(published: Published) -> bytes:
    return msgspec.json.encode(
        {
            "pipeline": published.manifest.pipeline,
            "version": published.version,
            "digest": published.digest,
            "metrics": published.manifest.metrics,
        }
    )


def _print(published: Published) -> None:
    manifest = published.manifest
    console = Console()
    if manifest.metrics:
        console.print(_table(manifest.metrics))
    console.print(f"{manifest.pipeline}: version {published.version} published")


def _table(metrics: dict[str, Metrics]) -> Table:
    rows = next(iter(metrics.values())).rows
    table = Table(title=f"On {rows:,} later rows, not seen in training")
    table.add_column("scorer")
    table.add_column("AUC", justify="right")
    table.add_column("log-loss, nats", justify="right")
    for name, words in SCORERS.items():
        found = metrics[name]
        table.add_row(words, f"{found.auc:.4f}", f"{found.log_loss:.4f}")
    return table


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    main()
