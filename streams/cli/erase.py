"""`tidemill erase`: what is known of a key goes, and a receipt says what went and what is left."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams.cli.console import console, running, running_if_any

if TYPE_CHECKING:
    from schemas.receipts import SignedReceipt

DAY = "%Y-%m-%d"


@click.command("erase")
@click.option("--pipeline", "-p", default="flights", show_default=True, help="Name or .py file.")
@click.option("--key", help="The person's key, as events have it.")
@click.option("--delete-records", is_flag=True, help="Also everybody's older records in topics.")
@click.option("--receipt", type=click.Path(path_type=Path, dir_okay=False), help="Where to put it.")
@click.option("--check", type=click.Path(path_type=Path, exists=True), help="Check a receipt.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(
    pipeline: str,
    key: str | None,
    receipt: Path | None,
    *,
    delete_records: bool,
    check: Path | None,
    yes: bool,
) -> None:
    """Erase one key of PIPELINE from tables and topics, with a signed receipt.

    Rows are deleted at once. Kafka cannot delete one record: those of the key are gone when the
    retention of their topics is over, which the receipt says for each; --delete-records deletes
    them at once, together with everybody's older records in the same partitions, where every step
    has done with them. Stop sending events of the key first. docs/security.md says what stays.

    Exit code 0: it is done, and the audit log has the receipt's digest.

    \b
    Examples:
      tidemill erase --pipeline flights --key N14228 --receipt N14228.json
      tidemill erase --check N14228.json
    """  # noqa: D301
    if check is not None:
        _check(check)
        return
    if not key or receipt is None:
        raise click.UsageError("--key and --receipt are needed, or --check")
    from schemas.loading import load_pipeline
    from streams.protection.erasure import erase

    declared, settings = load_pipeline(pipeline), running()
    # Before anything is gone: the receipt must have a place.
    fd = os.open(receipt, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    done = False
    try:
        if not yes:
            click.confirm(f"Erase {key} from {declared.name} for good?", abort=True)
        signed = erase(
            settings,
            declared,
            key,
            now_ms=time.time_ns() // 1_000_000,
            delete_records=delete_records,
        )
        _write(fd, signed)
        done = True
    finally:
        os.close(fd)
        if not done:
            receipt.unlink()
    _print(signed)
    console().print(f"receipt {receipt}: digest {signed.digest}", markup=False)


def _write(fd: int, signed: "SignedReceipt") -> None:
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(signed), indent=2) + b"\n"
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(text)


def _print(signed: "SignedReceipt") -> None:
    found = signed.receipt
    for table in found.tables:
        console().print(f"table {table.table:<13} {table.rows} rows deleted, {table.left} left")
    for topic in found.topics:
        gone = time.strftime(DAY, time.gmtime(topic.gone_by_ms / 1000))
        kept = "kept for good" if topic.gone_by_ms < 0 else f"gone by {gone}"
        when = "deleted" if topic.deleted else kept
        why = f" ({topic.held_back})" if topic.held_back else ""
        name = f"{topic.topic}/{topic.partition}"
        console().print(f"topic {name:<26} {topic.records} records, {when}{why}", markup=False)
    for sentence in found.not_erased:
        console().print(f"stays: {sentence}", markup=False)


def _check(path: Path) -> None:
    from models.signing import load_keyring
    from schemas.receipts import decode_signed_receipt
    from streams.protection.erasure import check_receipt

    settings, _stack = running_if_any()
    keyring = load_keyring(settings.signing_key_file, settings.trusted_keys)
    signed = decode_signed_receipt(path.read_bytes())
    signer = check_receipt(keyring, signed)
    console().print(f"whole: digest {signed.digest}, signed by {signer}")
