"""What the commands share with the person: how errors look, how numbers read, who is running."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import click

from schemas.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from streams.local.home import Stack


@cache
def console() -> "Console":
    """Where people read; rich drops colours and progress bars when it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """One red statement on stderr."""
    first, *rest = message.splitlines() or ["failed"]
    click.secho(f"error: {first}", fg="red", err=True)
    for line in rest:
        click.echo(line, err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout, for programs."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def running(settings: Settings | None = None) -> Settings:
    """The settings of this shell, its empty addresses filled in from the running `tidemill up`.

    Raises:
        SetupError: an address is missing and nothing runs on the home.
    """
    from streams.local.home import resolve

    return resolve(settings or Settings.from_environment())


def running_if_any() -> "tuple[Settings, Stack | None]":
    """The same for commands that work without a running stack: what is unknown stays empty."""
    from streams.local.home import read_stack

    settings = Settings.from_environment()
    stack = read_stack(settings)
    if stack is not None:
        settings = running(settings)
    return replace(settings, home=settings.home.absolute()), stack


def without_password(address: str) -> str:
    """An address that may be shown."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host))


def pipelines_or_running(references: tuple[str, ...]) -> list[str]:
    """The named pipelines; without a name those of the running stack, or `flights`."""
    if references:
        return list(references)
    _settings, stack = running_if_any()
    return list(stack.pipelines) if stack and stack.pipelines else ["flights"]


def watched() -> bool:
    """Say whether a person looks at the output."""
    return sys.stdout.isatty()


def count(number: float) -> str:
    """A number as people read it: ``49,812``."""
    return f"{number:,.0f}"


@contextmanager
def step(what: str) -> Iterator[Callable[[str], None]]:
    """Say what is being made ready, then how long it took; of what failed, nothing.

    Yields a function that shows a few more words meanwhile, to people only.
    """
    from rich.markup import escape

    started = time.perf_counter()
    if watched():
        with console().status(what) as status:
            yield lambda more: status.update(f"{what}  [dim]{escape(more)}[/dim]")
    else:
        yield lambda _: None
    console().print(f"[green]ok[/green] {what} [dim]{time.perf_counter() - started:.1f} s[/dim]")
