"""`tidemill completion`: what a shell needs to complete commands, options and pipelines."""

import click
from click.shell_completion import get_completion_class

VARIABLE = "_TIDEMILL_COMPLETE"
"""How the shell asks for completions; click derives it from the name of the program."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    bash needs version 4.4 or newer. The script asks `tidemill` itself each time, so it never grows
    old.

    \b
    Examples:
      eval "$(tidemill completion bash)"          # in ~/.bashrc
      eval "$(tidemill completion zsh)"           # in ~/.zshrc, after compinit
      tidemill completion fish > ~/.config/fish/completions/tidemill.fish
    """  # noqa: D301
    found = get_completion_class(shell)
    assert found is not None, shell  # it is one of the choices
    click.echo(found(context.find_root().command, {}, "tidemill", VARIABLE).source())
