"""`tidemill restore`: the way back from a backup."""

from pathlib import Path

import click

from schemas.settings import Settings
from streams.cli.console import console, count, step


@click.command("restore")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--replace", is_flag=True, help="Drop what the store holds now.")
def command(folder: Path, replace: bool) -> None:
    """Bring back what `tidemill backup` has put into FOLDER; `tidemill up` must not run.

    Tables are loaded, models and ledger snapshots that are missing are put back, and the landers
    start behind the last row of each partition: the next `tidemill up` lands what came since.

    \b
    Example:
      tidemill restore /backups/monday
    """  # noqa: D301
    import asyncio

    from schemas.loading import load_pipeline
    from streams.local.tree import LocalStack
    from streams.protection.backup import read_backup, restore_files, restore_store, rewind_landers

    with step("every file is what it was"):
        found = read_backup(folder)
    out = console()
    with LocalStack(Settings.from_environment()) as stack:
        settings = stack.settings
        with step("models and ledgers"):
            counts = restore_files(settings, folder, found)
        with step("store"):
            restore_store(settings, folder, found, replace=replace)
        for reference in found.pipelines:
            pipeline = load_pipeline(reference)
            again = asyncio.run(rewind_landers(settings, pipeline))
            waiting = ", ".join(f"{count(n)} of {topic}" for topic, n in again.items() if n)
            out.print(f"{pipeline.name}: to land after the next start: {waiting or 'nothing'}")
    shown = ", ".join(f"{number} files of {part}" for part, number in counts.items())
    out.print(f"put back: {shown}. Now: tidemill up")
