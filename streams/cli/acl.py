"""`tidemill acl`: the rights that each role needs on the brokers, printed or set."""

import time
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import console, print_json, running_if_any
from streams.control.rights import ROLES

if TYPE_CHECKING:
    from streams.control.rights import Right


@click.command("acl")
@click.argument("pipeline", default="flights")
@click.option("--role", "-r", type=click.Choice(list(ROLES)), multiple=True, help="Default: all.")
@click.option("--principal", default="", help="User:NAME for one --role; else <pipeline>-<role>.")
@click.option("--apply", "apply_", is_flag=True, help="Set on the broker what is missing.")
@click.option("--revoke-others", is_flag=True, help="With --apply: remove what goes beyond.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(
    pipeline: str,
    role: tuple[str, ...],
    principal: str,
    *,
    apply_: bool,
    revoke_others: bool,
    as_json: bool,
) -> None:
    """Print the least rights that each role of PIPELINE works with; with --apply set them.

    Without --apply no broker is asked. Setting needs a user with ALTER on the cluster, and a broker
    with an authorizer. Exit code 0: printed, or set and written to the audit log.

    \b
    Examples:
      tidemill acl flights
      tidemill acl flights --role reader --principal User:anna --apply
    """  # noqa: D301
    from schemas.loading import load_pipeline
    from streams.control.rights import rights

    if principal and len(role) != 1:
        raise click.UsageError("--principal is for one --role")
    if principal and not principal.startswith("User:"):
        raise click.UsageError(f"a principal looks like User:anna, not like {principal!r}")
    if revoke_others and not apply_:
        raise click.UsageError("--revoke-others needs --apply")
    declared = load_pipeline(pipeline)
    wanted = [
        right
        for one in role or tuple(ROLES)
        for right in rights(declared, one, principal=principal)
    ]
    told: dict[str, Any] = {"pipeline": declared.name, "rights": wanted}
    if apply_:
        told |= _apply(declared.name, wanted, revoke=revoke_others)
    if as_json:
        print_json(told)
        return
    _print(wanted)
    if apply_:
        console().print(
            f"granted {len(told['granted'])}, revoked {len(told['revoked'])}, "
            f"beyond what is needed {len(told['beyond'])}"
        )
        for right in told["beyond"]:
            console().print(f"  beyond: {_sentence(right)}. --revoke-others removes it.")


def _apply(pipeline: str, wanted: "list[Right]", *, revoke: bool) -> "dict[str, list[Right]]":
    from schemas.topics import audit_topic
    from streams.control.audit import append
    from streams.transport.administration import create_topics
    from streams.transport.authorization import present_rights, set_rights

    settings, _stack = running_if_any()
    create_topics(settings, [audit_topic()])
    present = set(present_rights(settings, (right.principal for right in wanted)))
    missing, beyond = sorted(set(wanted) - present), sorted(present - set(wanted))
    revoked = beyond if revoke else []
    set_rights(settings, grant=missing, revoke=revoked)
    if missing or revoked:
        append(
            settings,
            action="set rights",
            subject=pipeline,
            at_ms=time.time_ns() // 1_000_000,
            before=[_sentence(right) for right in sorted(present)],
            after=[_sentence(right) for right in sorted((present | set(missing)) - set(revoked))],
        )
    left = [] if revoke else beyond
    return {"granted": missing, "revoked": revoked, "beyond": left}


def _print(wanted: "list[Right]") -> None:
    merged: dict[tuple[str, str, str], list[str]] = {}
    for right in wanted:
        name = f"{right.name}*" if right.prefixed else right.name
        merged.setdefault((right.principal, right.resource, name), []).append(right.operation)
    lines = [(p, r, n, ", ".join(o)) for (p, r, n), o in merged.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    for line in lines:
        first = "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=False))
        click.echo(f"{first}  {line[3]}")


def _sentence(right: "Right") -> str:
    name = f"{right.name}*" if right.prefixed else right.name
    return f"{right.principal} {right.operation} {right.resource} {name}"
