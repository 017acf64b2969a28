"""What says who may be believed: audit entries, receipts of erasure, the list of keys; and backups."""

import atexit
import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

import msgspec

from models.audit import _PURPOSE, Broken, Chain
from models.keys import KeyFiles, parse_keys
from schemas.audit import FIRST, AuditEntry, encode_entry, entry_digest
from schemas.errors import SchemaError, SettingsError, SetupError, SignatureRefused
from schemas.receipts import Receipt, TableErasure, TopicErasure, decode_signed_receipt
from streams.control.audit import _row
from streams.protection.backup import MANIFEST, Backup, read_backup
from streams.protection.erasure import check_receipt, sign_receipt
from tests.fuzz.control import RING
from tests.fuzz.target import Target

KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
ENTRY = AuditEntry(
    number=0, previous=FIRST, at_ms=1, who="me@here", action="promote", subject="flights",
    before=None, after={"epoch": 1, "share": 2.5}, reason="é",
)  # fmt: skip
REVOCATION = msgspec.structs.replace(ENTRY, action="revoke key", subject=KEY)
RECEIPT = Receipt(
    pipeline="flights", key="N14228", at_ms=1, by="me@here", salt="ab", not_erased=["backups"],
    tables=[TableErasure(table="scored", rows=2, left=0)],
    topics=[TopicErasure(topic="flights.events", partition=0, records=2, newest_offset=9,
                         deleted=True, gone_by_ms=-1)],
)  # fmt: skip
BACKUP = Backup(
    made_at_ms=1, database="tidemill", pipelines=["flights"],
    digests={"kept": hashlib.sha256(b"kept").hexdigest()},
)  # fmt: skip


def check_audit_entry(content: bytes) -> None:
    """Signed by a trusted key it is an entry or named as broken; unsigned it is never believed."""
    signature = RING.sign(_PURPOSE, entry_digest(content).encode())
    for believed, sealed in ((True, signature), (False, None), (False, content)):
        chain = Chain(RING)
        link = chain.follow(content, sealed)
        assert believed or isinstance(link, Broken)
        assert chain.length == (not isinstance(link, Broken))
    row = _row(content, -1)
    assert row is None or row["entry"] == content.decode()


def check_receipt_file(content: bytes) -> None:
    """Nothing that differs from what was signed passes."""
    try:
        signed = decode_signed_receipt(content)
        check_receipt(RING, signed)
    except (SchemaError, SignatureRefused):
        return
    assert signed.receipt == RECEIPT


def check_keys(content: bytes) -> None:
    """A list that cannot be read is never taken for an empty one; nor is a setting."""
    files = KeyFiles(_folder() / "signing.pem")
    files.list_path.write_bytes(content)
    try:
        known = files.known()
    except SettingsError:
        known = {}
    for key in known:
        assert parse_keys(key) == (bytes.fromhex(key),)
    with contextlib.suppress(SettingsError):
        assert all(len(key) == 32 for key in parse_keys(content.decode(errors="replace")))


def check_backup(content: bytes) -> None:
    """A folder with this list of files is a backup or is refused; nothing outside of it counts."""
    folder = _folder()
    (folder / MANIFEST).write_bytes(content)
    with contextlib.suppress(SetupError):
        found = read_backup(folder)
        assert set(found.digests.values()) <= {*BACKUP.digests.values()}
        assert found.database.isidentifier()


_made: list[Path] = []


def _folder() -> Path:
    """One for all inputs of a process."""
    if not _made:
        _made.append(Path(tempfile.mkdtemp(prefix="tidemill-fuzz-")))
        atexit.register(shutil.rmtree, _made[0], ignore_errors=True)
        (_made[0] / "kept").write_bytes(b"kept")
    return _made[0]


AUDIT = Target(
    "audit", [encode_entry(ENTRY), encode_entry(REVOCATION)], check_audit_entry,
    [b'"number":', b'"previous":"', FIRST.encode()], bytes_max=8192,
)  # fmt: skip
RECEIPTS = Target(
    "receipt", [msgspec.json.encode(sign_receipt(RING, RECEIPT))], check_receipt_file,
    [b'"signature":"', b'"records":'], bytes_max=8192,
)  # fmt: skip
_KNOWN = b'[{"key":"%s","state":"%s","since_ms":1,"reason":"stolen"}]'
KEYS = Target(
    "keys", [_KNOWN % (KEY.encode(), state) for state in (b"trusted", b"revoked")], check_keys,
    [KEY.encode(), b"trusted"], bytes_max=8192,
)  # fmt: skip
BACKUPS = Target(
    "backup", [msgspec.json.encode(BACKUP)], check_backup, [b"../", b'"kept"', b"/etc/passwd"],
    bytes_max=8192,
)  # fmt: skip
