"""A person's key: gone from every table, from the topics when and as far as Kafka can, and proven.

These tests take away what others look at, so their file comes after theirs.
"""

import asyncio
import json
import time
from pathlib import Path

import msgspec
import pytest

from models.signing import load_keyring
from schemas.errors import SignatureRefused
from schemas.receipts import decode_signed_receipt
from streams.books.committed import CommittedReader
from streams.protection.erasure import check_receipt
from streams.protection.traces import find_traces
from streams.store.client import connect
from tests.doors.conftest import NAME, Vault
from tests.doors.test_path import EVENTS, PASSENGERS, running, travelled

KEY = "p-0"
OTHER = "p-1"
THIRD = "p-2"
MINE = EVENTS // PASSENGERS
assert travelled, "a fixture"


def traces(vault: Vault, key: str) -> dict[str, int]:
    """How many records of each topic are about ``key``."""

    async def look() -> dict[str, int]:
        async with CommittedReader(vault.as_("operator")) as reader:
            found = await find_traces(reader, vault.pipeline, key)
        return {
            name.removeprefix(f"{NAME}."): len(one.places) for name, one in found.topics.items()
        }

    return asyncio.run(look())


def rows(vault: Vault, key: str) -> dict[str, int]:
    """How many rows of each table are about ``key``, asked in another way than the code does."""
    client = connect(vault.base)
    numbers = [i for i in range(EVENTS) if f"p-{i % PASSENGERS}" == key]
    ids = ",".join(f"'e{i}'" for i in numbers)
    found = {
        table: int(
            client.command(f"SELECT count() FROM {table} WHERE pipeline = '{NAME}' AND {what}")
        )
        for table, what in (
            ("scored", f"event_id IN ({ids})"),
            ("labels", f"event_id IN ({ids})"),
            ("examples", f"event_id IN ({ids})"),
            ("dead_letters", f"key = '{key}'"),
        )
    }
    client.close()
    return found


@pytest.mark.timeout(400)
def test_a_key_is_erased_and_everything_else_stays(travelled: Vault, tmp_path: Path) -> None:
    """
    Goal: what is said to be gone is gone, what is said to be left is left; the books are exact.

    Method: one of twenty keys is erased; topics and tables are searched again, from end to end.
    """
    before, others = rows(travelled, KEY), rows(travelled, OTHER)
    assert before == {"scored": MINE, "labels": MINE, "examples": MINE, "dead_letters": 1}
    held = traces(travelled, KEY)
    assert (held["events"], held["labels"], held["predictions"]) == (MINE + 1, MINE, MINE)
    assert min(held.values()) >= 1
    receipt = tmp_path / "receipt.json"
    line = ["erase", "--pipeline", travelled.named.reference, "--key", KEY, "--yes", "--receipt"]
    done = travelled.tidemill("operator", *line, str(receipt))
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(travelled, KEY) == dict.fromkeys(before, 0)
    assert rows(travelled, OTHER) == others
    signed = decode_signed_receipt(receipt.read_bytes())
    assert {t.table: (t.rows, t.left) for t in signed.receipt.tables} == {
        table: (count, 0) for table, count in before.items()
    }
    assert traces(travelled, KEY) == held, "Kafka cannot delete one record, and nothing claims it"
    assert not any(t.deleted for t in signed.receipt.topics)
    week_ms = 7 * 86_400_000
    now_ms = time.time_ns() // 1_000_000
    assert all(now_ms < t.gone_by_ms < now_ms + 6 * week_ms for t in signed.receipt.topics)
    books = travelled.tidemill("dashboard", "reconcile", travelled.named.reference)
    assert books.returncode == 0, books.stdout + books.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_records_are_deleted_as_far_as_nobody_needs_them(travelled: Vault, tmp_path: Path) -> None:
    """
    Goal: what a restart would read again is never deleted, what can go is gone at once.

    Method: the records of another key go; joiner and learner start again, and the books are exact.
    """
    held = traces(travelled, THIRD)
    receipt = tmp_path / "again.json"
    line = ["erase", "--pipeline", travelled.named.reference, "--key", THIRD, "--yes", "--receipt"]
    again = travelled.tidemill("operator", *line, str(receipt), "--delete-records")
    assert again.returncode == 0, again.stdout + again.stderr
    topics = decode_signed_receipt(receipt.read_bytes()).receipt.topics
    deleted = {t.topic.removeprefix(f"{NAME}.") for t in topics if t.deleted}
    assert {"events", "predictions"} <= deleted
    left = traces(travelled, THIRD)
    assert {name for name, count in left.items() if count} == {n for n in held if held[n]} - deleted
    assert all(t.held_back for t in topics if not t.deleted)
    with running(travelled, "join", "learn"):
        pass  # what a restart reads again is still there
    books = travelled.tidemill("dashboard", "reconcile", travelled.named.reference)
    assert books.returncode == 0, books.stdout + books.stderr


def test_a_receipt_can_be_held_against_us(travelled: Vault, tmp_path: Path) -> None:
    """Its digest is in the audit log, which does not name the key; a changed one is refused."""
    file = tmp_path / "receipt.json"
    line = ["erase", "-p", travelled.named.reference, "--key", "nobody-17", "--yes", "--receipt"]
    assert travelled.tidemill("operator", *line, str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    checked = travelled.tidemill("operator", "erase", "--check", str(file))
    digest = json.loads(file.read_bytes())["digest"]
    assert (checked.returncode, digest in checked.stdout) == (0, True), checked.stderr
    listed = travelled.tidemill("dashboard", "audit", "list", "--last", "1", "--json").stdout
    [entry] = json.loads(listed)
    assert (entry["action"], entry["after"]["receipt"]) == ("erase", digest)
    assert "nobody-17" not in listed
    signed = decode_signed_receipt(file.read_bytes())
    ring = load_keyring(travelled.base.signing_key_file)
    changed = msgspec.structs.replace(
        signed, receipt=msgspec.structs.replace(signed.receipt, key="somebody")
    )
    with pytest.raises(SignatureRefused, match="changed"):
        check_receipt(ring, changed)
    with pytest.raises(SignatureRefused):
        check_receipt(ring, msgspec.structs.replace(signed, signature="00"))


@pytest.mark.slow
def test_nothing_is_erased_before_there_is_a_place_for_the_receipt(
    travelled: Vault, tmp_path: Path
) -> None:
    """And not without a word of a person, nor by who may not."""
    taken = tmp_path / "taken.json"
    taken.write_text("{}")
    before = rows(travelled, OTHER)
    line = ["erase", "-p", travelled.named.reference, "--key", OTHER, "--receipt"]
    assert travelled.tidemill("operator", *line, str(taken), "--yes").returncode != 0
    free = tmp_path / "free.json"
    assert travelled.tidemill("operator", *line, str(free)).returncode != 0
    assert travelled.tidemill("reader", *line, str(free), "--yes").returncode != 0
    assert not free.exists()
    assert rows(travelled, OTHER) == before
