"""`tidemill schemas`: the records of a pipeline's topics, for other programs."""

import sys
from pathlib import Path

import click


@click.command("schemas")
@click.argument("pipeline", default="flights", metavar="[PIPELINE]")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file per document there.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if a file would change.")
def command(pipeline: str, folder: Path | None, *, check: bool) -> None:
    """Publish the records of a pipeline: JSON Schema for each, and an AsyncAPI document.

    PIPELINE is a ready one by name or a .py file. Without --folder all of it is printed.

    \b
    Examples:
      tidemill schemas flights | jq .events
      tidemill schemas payments.py --folder schemas
      tidemill schemas payments.py --folder schemas --check
    """  # noqa: D301
    if check and folder is None:
        raise click.UsageError("could not check: name the folder of the files with --folder.")
    from schemas.loading import load_pipeline
    from schemas.published import documents, text

    found = documents(load_pipeline(pipeline))
    if folder is None:
        from streams.cli.console import print_json

        print_json(found)
        return
    stale = []
    for name, document in found.items():
        file, content = folder / f"{name}.json", text(document)
        if not file.is_file() or file.read_text(encoding="utf-8") != content:
            stale.append(file)
            if not check:
                folder.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8")
    for file in stale:
        click.echo(f"{'stale' if check else 'wrote'} {file}")
    if check and stale:
        click.echo(f"`tidemill schemas {pipeline} --folder {folder}` writes them anew.", err=True)
        sys.exit(1)
