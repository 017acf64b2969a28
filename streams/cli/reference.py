"""How a person names a pipeline on the command line, and what the shell completes it to."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

import schemas

READY = Path(schemas.__file__).with_name("pipelines")


class PipelineReference(click.ParamType):
    """A ready pipeline by its name, or a path that ends in ``.py``; loaded by the command."""

    name = "pipeline"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The ready ones and the Python files here, or any file. Imports none: it must be quick."""
        ready = sorted(file.stem for file in READY.glob("*.py") if file.stem[0] != "_")
        here = sorted(str(file) for file in Path().glob("*.py"))
        found = [CompletionItem(one) for one in (*ready, *here) if one.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


PIPELINE = PipelineReference()
