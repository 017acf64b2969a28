"""`tidemill alerts`: who is told about what, and whether the way to them works."""

import asyncio
import getpass
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import console, pipelines_or_running, print_json, running
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from schemas.notices import Notice
    from schemas.pipeline import Pipeline
    from schemas.settings import Settings
    from streams.alerts.channels import Channel

SILENCE_DAYS_MAX = 30
CHANNELS = ("log", "topic", "webhook", "email")


@click.group("alerts")
def command() -> None:
    """Watch the pipelines and tell people: by log, topic, webhook and mail.

    Rules are in docs/alerts.md and in the pipeline file; channels are settings, TIDEMILL_ALERT_*.

    \b
    Example:
      tidemill alerts list
    """  # noqa: D301


@command.command("run")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option("--name", default="alerts", help="Unique among the processes of one home.")
def run(pipelines: tuple[str, ...], name: str) -> None:
    """Watch until Ctrl-C; `tidemill up` does it by itself. One of these per database.

    \b
    Example:
      TIDEMILL_ALERT_WEBHOOK=https://hooks.example.org/tidemill tidemill alerts run flights
    """  # noqa: D301
    settings = running()
    from streams.alerts.serving import serve

    serve(settings, _load(pipelines), name=name)


@command.command("list")
@click.argument("pipelines", type=PIPELINE, nargs=-1, metavar="[PIPELINE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_alerts(pipelines: tuple[str, ...], as_json: bool) -> None:
    """List every rule with what it last said, and the silences. Exit code 1 if something fires.

    \b
    Example:
      tidemill alerts list --json | jq '.alerts[] | select(.state == "firing")'
    """  # noqa: D301
    found = gather(running(), _load(pipelines), now_ms=_now_ms())
    if as_json:
        print_json(found)
    else:
        _print(found)
    sys.exit(1 if any(one["state"] == "firing" for one in found["alerts"]) else 0)


@command.command("test")
@click.option("--to", type=click.Choice(["all", *CHANNELS]), default="all", show_default=True)
@click.option("--pipeline", default="_stack", help="The name that the notice carries.")
def test(to: str, pipeline: str) -> None:
    """Send a notice that says it is a test. Exit code 1 if a channel did not take it.

    \b
    Example:
      tidemill alerts test --to webhook
    """  # noqa: D301
    from streams.alerts.channels import channels

    settings = running()
    chosen = [one for one in channels(settings) if to in {"all", one.name}]
    if not chosen:
        raise click.UsageError(
            f"no {to} is set up. Set TIDEMILL_ALERT_{'SMTP' if to == 'email' else 'WEBHOOK'}."
        )
    problems = asyncio.run(_send(chosen, _test_notice(pipeline, _now_ms())))
    for name, problem in problems.items():
        said = f"[red]failed[/red]: {problem}" if problem else "[green]delivered[/green]"
        console().print(f"{name}  {said}")
    sys.exit(1 if any(problems.values()) else 0)


@command.command("silence")
@click.argument("pipeline", required=False)
@click.argument("rule", required=False)
@click.option("--for", "lasting", default="1h", show_default=True, help="90m, 4h, 2d; at most 30d.")
@click.option("--reason", default="", help="Why; kept, and shown beside the alert.")
@click.option("--end", "id_", default="", help="End the silence of this id instead.")
def silence(pipeline: str | None, rule: str | None, lasting: str, reason: str, id_: str) -> None:
    """Tell nobody about RULE of PIPELINE for a while; '*' stands for any. It is still shown.

    \b
    Examples:
      tidemill alerts silence flights lag --for 2h --reason "backfill of October"
      tidemill alerts silence '*' '*' --for 30m --reason "store is moved"
      tidemill alerts silence --end 3f9c01aa
    """  # noqa: D301
    from streams.alerts.keeping import ended, insert_silence, read_silences
    from streams.control.audit import note
    from streams.store.client import connect

    now_ms = _now_ms()
    wanted = None if id_ else _silence(pipeline, rule, lasting, reason, now_ms)
    settings = running()
    client = connect(settings)
    try:
        if wanted is None:
            wanted = ended(read_silences(client, now_ms=now_ms), id_, now_ms=now_ms)
        insert_silence(client, wanted)
    finally:
        client.close()
    about = f"{wanted.pipeline}/{wanted.rule}"
    note(
        settings,
        action="end silence" if id_ else "silence",
        subject=about,
        at_ms=now_ms,
        after={"id": wanted.id, "until_ms": wanted.until_ms},
        reason=wanted.reason,
    )
    if id_:
        console().print(f"the silence about {about} has ended")
    else:
        console().print(f"silent about {about} until {_moment(wanted.until_ms)}, id {wanted.id}")


def gather(
    settings: "Settings", pipelines: "list[Pipeline]", *, now_ms: int
) -> dict[str, list[dict[str, Any]]]:
    """Everything that ``list --json`` prints."""
    import msgspec

    from streams.alerts.core import STACK, AlertState
    from streams.alerts.defaults import rules_of, rules_of_stack
    from streams.alerts.keeping import read_silences, read_states
    from streams.alerts.questions import look
    from streams.store.client import connect

    client = connect(settings)
    try:
        states = read_states(client, [STACK, *(one.name for one in pipelines)])
        silences = read_silences(client, now_ms=now_ms)
    finally:
        client.close()
    asked = [*rules_of_stack(), *(one for pipeline in pipelines for one in rules_of(pipeline))]
    alerts = []
    for one in asked:
        state = states.get(one.key) or AlertState(pipeline=one.pipeline, rule=one.rule.name)
        alerts.append(
            {
                "pipeline": one.pipeline,
                "rule": one.rule.name,
                "state": state.state,
                "severity": one.rule.severity,
                "silenced": any(silence.covers(one.key, now_ms) for silence in silences),
                "since_ms": state.since_ms,
                "value": state.value,
                "bound": one.rule.bound,
                "detail": state.detail,
                "summary": one.rule.summary,
                "look": look(one.rule, one.pipeline),
            }
        )
    return {"alerts": alerts, "silences": [msgspec.to_builtins(one) for one in silences]}


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    colours = {"firing": "red", "pending": "yellow", "resolved": "green", "ok": "green"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("pipeline", "rule", "state", "since", "value", "told when", "detail"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for one in found["alerts"]:
        words = one["state"] + (" (silenced)" if one["silenced"] else "")
        table.add_row(
            one["pipeline"],
            one["rule"],
            f"[{colours[one['state']]}]{words}[/]",
            _moment(one["since_ms"]) if one["since_ms"] else "",
            "" if one["value"] is None else f"{one['value']:.6g}",
            one["bound"],
            escape(one["detail"]) if one["state"] != "ok" else "",
        )
    console().print(table)
    for one in found["silences"]:
        console().print(
            f"silence {one['id']}: {one['pipeline']}/{one['rule']} until "
            f"{_moment(one['until_ms'])}, {escape(one['author'])}: {escape(one['reason'])}"
        )


def _silence(pipeline: str | None, rule: str | None, lasting: str, reason: str, now_ms: int) -> Any:
    import secrets

    from schemas.durations import duration_ms, duration_problem
    from streams.alerts.core import Silence

    if pipeline is None or rule is None:
        raise click.UsageError("name a pipeline and a rule, '*' for any; or --end ID")
    if not reason.strip():
        raise click.UsageError("--reason is missing: it is shown beside the alert")
    for problem in duration_problem("--for", lasting):
        raise click.UsageError(problem)
    if duration_ms(lasting) > SILENCE_DAYS_MAX * 86_400_000:
        raise click.UsageError(f"--for is more than {SILENCE_DAYS_MAX}d: change the rule instead")
    return Silence(
        id=secrets.token_hex(4),
        pipeline=pipeline,
        rule=rule,
        at_ms=now_ms,
        until_ms=now_ms + duration_ms(lasting),
        reason=reason.strip(),
        author=getpass.getuser(),
    )


async def _send(chosen: "list[Channel]", notice: "Notice") -> dict[str, str]:
    from schemas.errors import TidemillError

    problems = {}
    for channel in chosen:
        try:
            await channel.send(notice)
            problems[channel.name] = ""
        except TidemillError as cause:
            problems[channel.name] = str(cause)
        finally:
            await channel.close()
    return problems


def _test_notice(pipeline: str, now_ms: int) -> "Notice":
    from schemas.notices import Notice

    return Notice(
        id=f"{pipeline}/test/{now_ms}/1",
        status="test",
        pipeline=pipeline,
        rule="test",
        severity="warning",
        value=None,
        bound="",
        started_at_ms=now_ms,
        told_at_ms=now_ms,
        number=1,
        summary="Somebody tries whether notices arrive here. Nothing is wrong.",
        detail="",
        look="tidemill alerts list",
        runbook="docs/alerts.md",
    )


def _load(pipelines: tuple[str, ...]) -> "list[Pipeline]":
    from schemas.loading import load_pipeline

    return [load_pipeline(reference) for reference in pipelines_or_running(pipelines)]


def _moment(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1000))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
