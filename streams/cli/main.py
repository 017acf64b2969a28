"""`tidemill`: finds the command, and turns what goes wrong on purpose into one clear line."""

import importlib
import os
import signal
import sys

import click
from click.shell_completion import CompletionItem

from schemas.errors import TidemillError
from streams.cli.console import print_error

COMMANDS = {
    "init": "Write a pipeline file and an example feed to start from.",
    "up": "Start everything for one or more pipelines and stay.",
    "demo": "Run real flights through everything and check the books.",
    "train": "Train a new version and judge it against the one that serves.",
    "models": "List versions, try one, make one serve, go back, remove what nobody needs.",
    "replay": "Send a pipeline's history again, events and labels.",
    "status": "Show what runs, how far it is and what it waits for.",
    "explain": "Say why one prediction is what it is.",
    "rescore": "Score events again and compare with what was published.",
    "dashboard": "Serve the pages; `up` does it by itself.",
    "tail": "Print the newest records of a topic.",
    "sql": "Ask the store.",
    "reconcile": "Count what went in and what came out, record by record.",
    "alerts": "Tell people what needs them: list, test, silence; `up` runs it by itself.",
    "backup": "Copy store, models and label ledgers into a folder.",
    "restore": "Bring back what a backup holds.",
    "doctor": "Check this machine and the set-up, with remedies.",
    "schemas": "Publish what the topics carry: JSON Schema and AsyncAPI.",
    "kafka": "Run one of Kafka's own console tools on the running broker.",
    "deliver": "Train, try and judge unattended; `up` does it by itself.",
    "worker": "Run one worker in the foreground.",
    "acl": "Print or set the rights that each role needs on the brokers.",
    "prepare": "Create topics, tables and a first model, for workers that a cluster starts.",
    "health": "Say whether a process is alive, for probes.",
    "keys": "List, rotate, trust and revoke the keys that sign.",
    "retention": "Show or set how long topics and tables keep what.",
    "erase": "Erase a person's key, with a signed receipt.",
    "audit": "List who did what, and check that the list is whole.",
    "metrics": "Serve lag, coverage and rollouts to Prometheus; `up` does it by itself.",
    "bench": "Measure this machine, paired with what people would use instead.",
    "completion": "Print what bash, zsh or fish need to complete commands.",
}
"""Kept here and not in the modules, so that `tidemill --help` imports none of them."""


class _Commands(click.Group):
    """Imports ``streams.cli.NAME`` when command NAME is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"streams.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options, without importing any command."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = COMMANDS.items()
        return [
            CompletionItem(name, help=is_) for name, is_ in found if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tidemill", prog_name="tidemill")
def tidemill() -> None:
    """Score live events with a model and land them in SQL, exactly once.

    Try `tidemill demo`, then `tidemill status` in another terminal. Settings are environment
    variables, TIDEMILL_*; `tidemill doctor` checks them.
    """


def main() -> None:
    """Run the command line. Exit code 0 only if what the command says was done.

    1: it was not, such as books that do not balance; 2: a person must change something, the message
    says what; 130: stopped by Ctrl-C before it was done.
    """
    try:
        tidemill.main(prog_name="tidemill", standalone_mode=False)
    except TidemillError as error:
        print_error(str(error))
        sys.exit(2)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
