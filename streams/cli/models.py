"""`tidemill models`: the versions of a pipeline, and which one serves."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import console, print_json, running, running_if_any
from streams.cli.foreign import export_model, import_model
from streams.cli.judge import command as judge
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    from schemas.manifest import Announcement
    from schemas.settings import Settings

DAY_MS = 86_400_000


@click.group("models")
def command() -> None:
    """List the versions of a pipeline, show one, try one, make one serve, go back, hold.

    \b
    Example:
      tidemill models promote flights 54464d902222
    """  # noqa: D301


for other in (judge, import_model, export_model):
    command.add_command(other)


@command.command("list")
@click.argument("pipeline", type=PIPELINE, default="flights")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_versions(pipeline: str, as_json: bool) -> None:
    """List every version of PIPELINE, the newest first, and what the gate said about it.

    \b
    Example:
      tidemill models list flights
    """  # noqa: D301
    settings, name = _place(pipeline)
    serving = _serving(settings, name)
    rows = sorted(_versions(settings, name, serving), key=_newest_first, reverse=True)
    if as_json:
        print_json(rows)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("version", "", "trained", "AUC", "log-loss", "gate", "why"):
        table.add_column(title, justify="right" if title in {"AUC", "log-loss"} else "left")
    for row in rows:
        metrics = row.get("metrics") or {}
        model = metrics.get("model") or {}
        table.add_row(
            row["version"],
            "serves" if row["serves"] else "",
            _moment(row.get("trained_at_ms")),
            f"{model['auc']:.4f}" if model else "",
            f"{model['log_loss']:.4f}" if model else "",
            {True: "passed", False: "refused", None: ""}[row["passed"]],
            escape(row["why"]),
        )
    console().print(table if rows else f"no version of {name} in {settings.registry_root}")


@command.command("show")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version", required=False)
def show(pipeline: str, version: str | None) -> None:
    """Print manifest and verdict of VERSION as JSON; without one, of what serves.

    \b
    Example:
      tidemill models show flights | jq .manifest.data
    """  # noqa: D301
    import msgspec

    from models.registry import open_registry
    from schemas.errors import ModelError

    settings, name = _place(pipeline)
    serving = _serving(settings, name)
    chosen = version or (serving.version if serving else None)
    if chosen is None:
        raise ModelError(f"could not show a version of {name}: none serves. Name one.")
    registry = open_registry(settings)
    print_json(
        {
            "version": chosen,
            "digest": registry.digest(name, chosen),
            "serves": serving is not None and serving.version == chosen,
            "manifest": msgspec.to_builtins(registry.manifest(name, chosen)),
            "verdict": msgspec.to_builtins(registry.verdict(name, chosen)),
        }
    )


@command.command("promote")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version")
@click.option("--force", is_flag=True, help="Although the gate did not pass it.")
@click.option("--reason", default="", help="Why; kept with the decision.")
def promote(pipeline: str, version: str, force: bool, reason: str) -> None:
    """Make VERSION serve: announce it with a higher epoch. Workers switch within seconds.

    Refused unless the gate passed it against what serves now. Exit code 0: it is announced.

    \b
    Examples:
      tidemill models promote flights 54464d902222
      tidemill models promote flights 54464d902222 --force --reason "back to what worked"
    """  # noqa: D301
    from streams.rollout.promotion import promote as promote_version

    if force and not reason:
        raise click.UsageError("--force needs a --reason: it is kept with the decision")
    settings = running()
    _, name = _place(pipeline)
    announced = promote_version(
        settings,
        name,
        version,
        now_ms=_now_ms(),
        force_reason=reason if force else "",
    )
    console().print(f"version {version} of {name} serves from now on, epoch {announced.epoch}")


@command.command("try")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version")
@click.option("--force", is_flag=True, help="Although the gate did not pass it.")
@click.option("--reason", default="", help="Why; kept with the decision.")
def try_version(pipeline: str, version: str, force: bool, reason: str) -> None:
    """Begin a rollout: VERSION answers as a shadow, then a growing share of the keys.

    `tidemill models judge` takes the steps, or takes it back.

    \b
    Example:
      tidemill models try flights 54464d902222
    """  # noqa: D301
    from streams.rollout.promotion import try_out

    if force and not reason:
        raise click.UsageError("--force needs a --reason: it is kept with the decision")
    settings = running()
    _, name = _place(pipeline)
    announced = try_out(
        settings,
        name,
        version,
        now_ms=_now_ms(),
        force_reason=reason if force else "",
        reason=reason,
    )
    console().print(f"version {version} of {name} is a shadow, epoch {announced.epoch}")


@command.command("rollback")
@click.argument("pipeline", type=PIPELINE)
@click.option("--reason", default="by hand", show_default=True, help="Kept with the decision.")
def rollback(pipeline: str, reason: str) -> None:
    """Take the challenger back; without one, the champion before serves again. Nothing is loaded.

    \b
    Example:
      tidemill models rollback flights --reason "angry customers"
    """  # noqa: D301
    _steer(pipeline, "roll_back", reason)


@command.command("hold")
@click.argument("pipeline", type=PIPELINE)
@click.option("--reason", default="by hand", show_default=True, help="Kept with the decision.")
def hold(pipeline: str, reason: str) -> None:
    """Keep everything as it is: the judge changes nothing until `release`.

    \b
    Example:
      tidemill models hold flights
    """  # noqa: D301
    _steer(pipeline, "hold", reason)


@command.command("release")
@click.argument("pipeline", type=PIPELINE)
@click.option("--reason", default="by hand", show_default=True, help="Kept with the decision.")
def release(pipeline: str, reason: str) -> None:
    """Let the judge act again.

    \b
    Example:
      tidemill models release flights
    """  # noqa: D301
    _steer(pipeline, "release", reason)


@command.command("prune")
@click.argument("pipeline", type=PIPELINE)
@click.option("--days", type=click.IntRange(min=0), default=30, show_default=True, help="Age.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def prune(pipeline: str, days: int, dry_run: bool) -> None:
    """Remove versions that nobody needs: older than --days, not the champion, not one it can be
    rolled back to, and not named by any prediction in the store.

    \b
    Example:
      tidemill models prune flights --dry-run
    """  # noqa: D301
    from models.registry import open_registry
    from streams.control.audit import note
    from streams.rollout.promotion import garbage, in_use, referenced

    settings = running()
    _, name = _place(pipeline)
    registry = open_registry(settings)
    names = garbage(
        registry,
        name,
        serving=in_use(_serving(settings, name)),
        predicted=referenced(settings, name),
        before_ms=_now_ms() - days * DAY_MS,
    )
    for version in names:
        if not dry_run:
            registry.remove(name, version)
            removed = f"{name}/{version}"
            note(settings, action="remove version", subject=removed, at_ms=_now_ms())
        console().print(f"{'would remove' if dry_run else 'removed'} {version}")
    if not names:
        console().print("nothing to remove")


def _steer(pipeline: str, action: str, reason: str) -> None:
    from models import rollout
    from streams.rollout.promotion import existing, steer

    settings = running()
    _, name = _place(pipeline)
    now_ms = _now_ms()
    how = {"roll_back": rollout.roll_back, "hold": rollout.hold, "release": rollout.release}[action]
    told = steer(
        settings,
        name,
        lambda before: how(existing(before, name), at_ms=now_ms, reason=reason),
        now_ms=now_ms,
    )
    tried = f", {told.challenger.version} is tried ({told.stage})" if told.challenger else ""
    held = ", held" if told.held else ""
    console().print(f"version {told.version} of {name} serves{tried}{held}, epoch {told.epoch}")


def _place(pipeline: str) -> "tuple[Settings, str]":
    from schemas.loading import load_pipeline

    settings, _stack = running_if_any()
    return settings, load_pipeline(pipeline).name


def _serving(settings: "Settings", pipeline: str) -> "Announcement | None":
    """What serves, as far as anybody here can tell."""
    from schemas.errors import PreflightError
    from streams.control.announce import champion

    if not settings.kafka:
        return None
    try:
        return asyncio.run(champion(settings, pipeline))
    except PreflightError:  # no topic yet, so nothing serves
        return None


def _versions(
    settings: "Settings", pipeline: str, serving: "Announcement | None"
) -> list[dict[str, Any]]:
    import msgspec

    from models.registry import open_registry
    from schemas.errors import ModelError

    registry = open_registry(settings)
    rows: list[dict[str, Any]] = []
    for version, found in registry.survey(pipeline).items():
        row: dict[str, Any] = {
            "version": version,
            "serves": serving is not None and serving.version == version,
            "passed": None,
            "why": "",
        }
        if isinstance(found, ModelError):
            row["why"] = str(found)
        else:
            row |= {
                "trained_at_ms": found.trained_at_ms,
                "parent": found.parent,
                "metrics": msgspec.to_builtins(found.metrics),
                "data": msgspec.to_builtins(found.data),
            }
            try:
                verdict = registry.verdict(pipeline, version)
            except ModelError as error:
                row["why"] = str(error)
            else:
                row["checks"] = [] if verdict is None else msgspec.to_builtins(verdict.checks)
                row["passed"] = None if verdict is None else verdict.passed
                row["why"] = "" if verdict is None else verdict.reason
        rows.append(row)
    return rows


def _newest_first(row: dict[str, Any]) -> int:
    return int(row.get("trained_at_ms", 0))


def _moment(at_ms: int | None) -> str:
    return "" if at_ms is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_ms / 1000))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
