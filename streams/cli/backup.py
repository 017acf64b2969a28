"""`tidemill backup`: a copy of what Kafka cannot give again."""

from pathlib import Path

import click

from streams.cli.console import console, pipelines_or_running, running, step


@click.command("backup")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--with-key", is_flag=True, help="Add the private key that signs; guard the folder.")
def command(folder: Path, with_key: bool) -> None:
    """Copy store, models and label ledgers of the running `tidemill up` into a new FOLDER.

    Everything goes on meanwhile. Kafka is not copied: a restored store is filled up from it.

    \b
    Example:
      tidemill backup /backups/monday
    """  # noqa: D301
    import time

    from streams.protection.backup import make_backup

    settings = running()
    with step(f"backup in {folder}") as say:
        found = make_backup(
            settings, folder.absolute(), pipelines=pipelines_or_running(()), with_key=with_key,
            now_ms=time.time_ns() // 1_000_000, progress=say,
        )  # fmt: skip
    size = sum((folder / name).stat().st_size for name in found.digests)
    console().print(f"{len(found.digests)} files, {size / 1e6:.1f} MB. Bring it back with")
    console().print(f"  tidemill restore {folder}")
