"""`tidemill keys`: whose signatures are believed here, and a new key in the place of an old one."""

import time
from typing import TYPE_CHECKING

import click

from streams.cli.console import console, print_json, running_if_any

if TYPE_CHECKING:
    from models.keys import KeyFiles
    from schemas.settings import Settings


@click.group("keys")
def command() -> None:
    """List the keys that models, snapshots, announcements and audit entries are signed with.

    \b
    Example:
      tidemill keys list
    """  # noqa: D301


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_keys(as_json: bool) -> None:
    """Print the public keys: which one signs here, which are trusted, which were revoked.

    \b
    Example:
      tidemill keys list
    """  # noqa: D301
    from models.keys import public_of

    _settings, files = _place()
    own, known = public_of(files.private()), files.known()
    rows = [{"key": own, "state": "signs", "since_ms": 0, "reason": str(files.path)}]
    named = {key.hex(): "trusted" for key in files.others} | {k: v.state for k, v in known.items()}
    for key, state in named.items():
        if key != own:
            since = known[key].since_ms if key in known else 0
            reason = known[key].reason if key in known else "TIDEMILL_TRUSTED_KEYS"
            rows.append({"key": key, "state": state, "since_ms": since, "reason": reason})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        console().print(f"{row['key']}  {row['state']:<8}{row['reason']}")


@command.command("rotate")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def rotate(reason: str) -> None:
    """Sign with a new key from now on. What the old one signed is still believed.

    Running processes of this home notice it by themselves. Other machines must trust the new key
    before they meet its signature: `tidemill keys trust` there, or TIDEMILL_TRUSTED_KEYS. The old
    private key is gone then; if it may be in other hands, revoke it too.

    \b
    Example:
      tidemill keys rotate --reason "once a year"
    """  # noqa: D301
    settings, files = _place()
    old, new = files.rotate(now_ms=_now_ms())
    _record(settings, "rotate key", new, before=old, after=new, reason=reason)
    console().print(f"signs   {new}\ntrusted {old}")


@command.command("trust")
@click.argument("key")
@click.option("--reason", default="", help="Whose it is; kept in the audit log.")
def trust(key: str, reason: str) -> None:
    """Believe what KEY signs: 64 hexadecimal digits, as `keys list` prints them elsewhere.

    \b
    Example:
      tidemill keys trust 3b6a...27d1 --reason "the trainers' machine"
    """  # noqa: D301
    settings, files = _place()
    files.trust(key, now_ms=_now_ms(), reason=reason)
    _record(settings, "trust key", key, before=None, after="trusted", reason=reason)
    console().print(f"trusted {key}")


@command.command("revoke")
@click.argument("key")
@click.option("--reason", required=True, help="Why; kept in the audit log.")
def revoke(key: str, reason: str) -> None:
    """Never again believe what KEY signed, now or earlier. This is for good.

    Model versions and snapshots that it signed are not loaded any more, announcements are refused:
    train again, or promote a version that another key signed. Audit entries from before stay valid.

    \b
    Example:
      tidemill keys revoke 3b6a...27d1 --reason "laptop lost"
    """  # noqa: D301
    from models.audit import REVOKE

    settings, files = _place()
    known = files.known()
    before = known[key].state if key in known else None
    files.revoke(key, now_ms=_now_ms(), reason=reason)
    _record(settings, REVOKE, key, before=before, after="revoked", reason=reason)
    console().print(f"revoked {key}")


def _place() -> "tuple[Settings, KeyFiles]":
    from models.keys import KeyFiles, parse_keys

    settings, _stack = running_if_any()
    return settings, KeyFiles(settings.signing_key_file, parse_keys(settings.trusted_keys))


def _record(
    settings: "Settings", action: str, key: str, *, before: object, after: object, reason: str
) -> None:
    """In the audit log, where there is a broker: keys may be made before anything else is."""
    from streams.control.audit import note

    what = {"action": action, "subject": key, "reason": reason}
    if why := note(settings, **what, at_ms=_now_ms(), before=before, after=after):
        click.echo(f"note: done, but the audit log does not have it: {why}", err=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
