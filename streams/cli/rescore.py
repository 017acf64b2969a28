"""`tidemill rescore`: predictions made again and compared with what was published."""

import asyncio
import sys
from dataclasses import asdict

import click

from streams.cli.console import console, print_json, running
from streams.cli.reference import PIPELINE


@click.command("rescore")
@click.argument("pipeline", type=PIPELINE, default="flights")
@click.option("--from-offset", type=click.IntRange(0), default=0, help="First source offset.")
@click.option("--to-offset", type=click.IntRange(0), help="Last source offset; else the end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(pipeline: str, from_offset: int, to_offset: int | None, as_json: bool) -> None:
    """Score events again by the versions that answered them, and compare bit for bit.

    The offsets are those of the events, in every partition. Exit code 0: everything is as it was
    published. Bit for bit is promised on the same machine, with the same engine and releases.

    \b
    Example:
      tidemill rescore flights --from-offset 1000 --to-offset 1999
    """  # noqa: D301
    from schemas.loading import load_pipeline
    from streams.decisions.rescoring import Rescoring

    settings = running()
    rescoring = Rescoring(load_pipeline(pipeline), settings)
    found = asyncio.run(rescoring.run(first=from_offset, last=to_offset))
    if as_json:
        print_json(asdict(found) | {"exact": found.exact})
    else:
        console().print(
            f"{found.rows:,} predictions made again by {len(found.versions)} versions across "
            f"{found.switches} switches: {found.equal:,} equal bit for bit, largest difference "
            f"{found.difference_max:.3g}, {found.not_published:,} not published like that"
            + (f"; in {found.blended:,} a learner had a share" if found.blended else "")
        )
        for line in found.examples:
            console().print(f"  {line}", markup=False)
    if not found.exact:
        sys.exit(1)
