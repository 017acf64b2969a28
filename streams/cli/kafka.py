"""`tidemill kafka`: Kafka's own tools, which know nothing of Tidemill, on the running broker."""

import os
import sys
from typing import TYPE_CHECKING

import click

from streams.cli.console import running

if TYPE_CHECKING:
    from schemas.settings import Settings


@click.command(
    "kafka", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("tool", metavar="TOOL")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(tool: str, arguments: tuple[str, ...]) -> None:
    """Run a console tool of Apache Kafka; --bootstrap-server is added.

    TOOL is console-consumer, console-producer, topics, consumer-groups or configs.

    \b
    Examples:
      tidemill kafka topics --list
      tidemill kafka console-consumer --topic flights.predictions --from-beginning \\
        --max-messages 3 --isolation-level read_committed
      tidemill kafka consumer-groups --describe --all-groups
    """  # noqa: D301
    from streams.local.kafka import TOOLS, tool_command

    if tool not in TOOLS:
        raise click.BadParameter(f"{tool!r} is none of {', '.join(sorted(TOOLS))}.")
    given = list(arguments)
    if tool != "storage" and "--bootstrap-server" not in given:
        given = [*_connection(running()), *given]
    line = tool_command(tool, given)
    sys.stdout.flush()
    # The tool takes our place: its exit code, its Ctrl-C and its standard input are its own.
    os.execve(line[0], line, {**os.environ, "LC_ALL": "C.UTF-8"})  # noqa: S606


def _connection(settings: "Settings") -> list[str]:
    """Options that reach the broker; credentials go into a file that only its owner can read."""
    options = ["--bootstrap-server", settings.kafka]
    if settings.kafka_security == "PLAINTEXT":
        return options
    lines = {"security.protocol": settings.kafka_security}
    if settings.kafka_ca:
        lines |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": settings.kafka_ca}
    if settings.kafka_security.startswith("SASL"):
        kind = "plain.Plain" if settings.kafka_mechanism == "PLAIN" else "scram.Scram"
        name, secret = (
            text.replace("\\", "\\\\").replace('"', '\\"')
            for text in (settings.kafka_username, settings.kafka_password)
        )
        lines |= {
            "sasl.mechanism": settings.kafka_mechanism,
            "sasl.jaas.config": (
                f"org.apache.kafka.common.security.{kind}LoginModule required "
                f'username="{name}" password="{secret}";'
            ),
        }
    path = settings.run_folder.absolute() / "kafka-tools.properties"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        # A backslash is an escape in a properties file, too.
        file.writelines(f"{k}={v.replace(chr(92), chr(92) * 2)}\n" for k, v in lines.items())
    return [*options, "--command-config", str(path)]
