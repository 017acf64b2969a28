"""`tidemill init`: a pipeline file to start from, and past events that make it run at once."""

from pathlib import Path

import click

from streams.cli.console import console


@click.command("init")
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to; made if missing. Default: here.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(name: str, folder: Path, force: bool) -> None:
    """Write NAME.py, a commented pipeline, and NAME.csv, a small feed of made-up past events.

    They run at once: `tidemill up NAME.py` trains a first model from the feed, and `tidemill
    replay NAME.py` sends what the model has not seen. Then put your fields and your data in their
    place. A file that is there is never replaced without --force.

    \b
    Example:
      tidemill init payments
      tidemill demo payments.py --events 2000
    """  # noqa: D301
    from streams.cli.starter import feed_lines, pipeline_text

    check_name(name)
    pipeline, feed = folder / f"{name}.py", folder / f"{name}.csv"
    write(
        {pipeline: pipeline_text(name), feed: "\n".join(feed_lines()) + "\n"},
        force=force,
    )
    out = console()
    out.print(f"[green]wrote[/green] {pipeline}   the pipeline; its comments say what to change")
    out.print(f"[green]wrote[/green] {feed}   past events with their truth, made up")
    out.print("\nNow:")
    for title, line in (
        ("Run it: first model, events, report, and it stays up", f"demo {pipeline} --events 2000"),
        ("Or start it without events", f"up {pipeline}"),
        ("and send some from another terminal", f"replay {pipeline} --rate 200"),
    ):
        out.print(f"[dim]# {title}[/dim]")
        out.out(f"tidemill {line}", highlight=False)


def check_name(name: str) -> None:
    """Refuse a name that no pipeline can have, and those of the ready ones.

    Raises:
        SetupError: with what to do instead.
    """
    from schemas.errors import PipelineError, SetupError
    from schemas.loading import ready_pipelines
    from schemas.pipeline import Pipeline, label, numeric

    if name in ready_pipelines():
        raise SetupError(
            f"could not use the name {name!r}: a ready pipeline has it, and both would share "
            "topics and tables. Choose another."
        )
    try:
        Pipeline(name=name, key="k", features=[numeric("f")], target=label("t"))
    except PipelineError as cause:
        problem = str(cause).rpartition(": name: ")[2]
        raise SetupError(f"could not use the name {name!r}: {problem}") from cause


def write(files: dict[Path, str], *, force: bool) -> None:
    """Write all of them, or none if one is there already and ``force`` is not given.

    Raises:
        SetupError: a file is there, or the folder cannot be written to.
    """
    from schemas.errors import SetupError

    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise SetupError(
            f"could not write {' and '.join(there)}: it is there already. Choose another name or "
            "--folder, or replace it with --force."
        )
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # "x" fails where another program has put a file meanwhile.
            with path.open("w" if force else "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as cause:
        raise SetupError(f"could not write {path}: {cause}") from cause
