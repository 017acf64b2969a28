"""The ClickHouse client of every worker, for the embedded store and for a server alike."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DatabaseError,
    OperationalError,
)

from schemas.errors import PermanentError, SettingsError, SetupError, StoreUnavailable
from schemas.settings import Settings

CONNECT_S_MAX = 5
ANSWER_S_MAX = 60
INSERT_ROWS_MAX = 1_048_449
"""The engine's ``max_insert_block_size``: up to here an insert is one block, all or nothing."""

# Codes after which the same call may succeed: timeouts, overload, too many parts, Keeper trouble.
_TRANSIENT = frozenset({159, 202, 209, 210, 236, 241, 242, 243, 252, 319, 394, 425, 439, 999, 1002})
# No repetition heals these and no row is to blame: a table, a right or a password is missing.
_SETUP = frozenset({60, 81, 192, 193, 194, 497, 516})
_DISK_FULL = "No space left on device"
_TRANSIENT_STATUS = ("status 429", "status 502", "status 503", "status 504")

__all__ = ["Client", "TableSink", "connect", "count_range", "insert_rows", "mapped_errors"]


def connect(settings: Settings, *, database: str | None = None) -> Client:
    """A client for ``settings.clickhouse``; several threads may share it.

    It has no session, so concurrent calls do not lock each other out, and it does not repeat calls
    by itself. ``database`` defaults to ``settings.database``.

    Raises:
        StoreUnavailable: nobody answers.
        SetupError: the database is missing, or user or password are wrong.
        SettingsError: the address cannot be used.
    """
    address = Address(settings.clickhouse)
    options: dict[str, Any] = {"async_insert": 0}
    if settings.clickhouse_cluster:
        # An acknowledged insert survives the loss of a replica, and a count sees it.
        options |= {"insert_quorum": "auto", "select_sequential_consistency": 1}
    with mapped_errors(f"connect to the store at {address.shown}", secret=address.password):
        client: Client = clickhouse_connect.get_client(
            host=address.host,
            port=address.port,
            secure=address.secure,
            ca_cert=settings.clickhouse_ca or None,
            username=address.user,
            password=address.password,
            database=settings.database if database is None else database,
            compress=False if address.local else "lz4",
            autogenerate_session_id=False,
            connect_timeout=CONNECT_S_MAX,
            send_receive_timeout=ANSWER_S_MAX,
            query_retries=0,
            settings=options,
            client_name="tidemill",
        )
    return client


def insert_rows(client: Client, table: str, rows: pa.Table, *, token: str) -> None:
    """Insert ``rows`` as one block: all of them or none, and not again under the same ``token``.

    ClickHouse drops a block whose token is among the last 100,000 of the table and still answers
    that it was written. Columns must be those of `streams.store.tables.TABLES`; they are not
    checked here.

    Raises:
        StoreUnavailable: not known whether it was inserted; repeat it with the same token.
        PermanentError: these rows will never be taken.
        SetupError: the table or the right to write to it is missing.
    """
    assert rows.num_rows <= INSERT_ROWS_MAX, f"{rows.num_rows} rows are more than one block"
    with mapped_errors(f"insert {rows.num_rows} rows into {table}"):
        client.insert_arrow(
            table,
            rows.combine_chunks(),
            settings={
                "insert_deduplication_token": token,
                "async_insert": 0,
                # A repetition must come in the same block for its token to match.
                "max_insert_threads": 1,
                "input_format_parallel_parsing": 0,
                # On by default since 26.1 only.
                "deduplicate_blocks_in_dependent_materialized_views": 1,
            },
        )


def count_range(
    client: Client, table: str, *, pipeline: str, topic_partition: int, first: int, last: int
) -> int:
    """Rows of ``table`` landed from offsets ``first`` to ``last``, both included.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors(f"count rows of {table}"):
        found = client.query(
            f"SELECT count() FROM `{table}` WHERE pipeline = {{pipeline:String}} "
            "AND topic_partition = {topic_partition:UInt32} "
            "AND topic_offset BETWEEN {first:UInt64} AND {last:UInt64}",
            parameters={
                "pipeline": pipeline,
                "topic_partition": topic_partition,
                "first": first,
                "last": last,
            },
        )
    return int(found.result_rows[0][0])


@dataclass(frozen=True, slots=True)
class TableSink:
    """One partition's part of one table, as `streams.store.recorded_range.Sink`."""

    store: Client
    table: str
    pipeline: str
    partition: int

    def insert(self, rows: pa.Table, token: str) -> None:
        """See `insert_rows`."""
        insert_rows(self.store, self.table, rows, token=token)

    def count(self, first: int, last: int) -> int:
        """See `count_range`."""
        return count_range(
            self.store,
            self.table,
            pipeline=self.pipeline,
            topic_partition=self.partition,
            first=first,
            last=last,
        )


@contextmanager
def mapped_errors(what: str, *, secret: str = "") -> Iterator[None]:
    """Turn what the driver raises into `StoreUnavailable`, `SetupError` or `PermanentError`.

    ``what`` completes "could not ...". ``secret`` is removed from the message.
    """
    try:
        yield
    except (ClickHouseError, ConnectionError, TimeoutError) as cause:
        text = str(cause).strip()[:1000]
        if secret:
            text = text.replace(secret, "***")
        message = f"could not {what}: {text}"
        code = getattr(cause, "code", None)
        if code in _SETUP:
            raise SetupError(message) from cause
        if _transient(cause, code, text):
            raise StoreUnavailable(message) from cause
        raise PermanentError(message) from cause


def _transient(cause: Exception, code: int | None, text: str) -> bool:
    if code is not None:
        return code in _TRANSIENT or _DISK_FULL in text
    if isinstance(cause, OperationalError) or not isinstance(cause, DatabaseError):
        return isinstance(cause, OperationalError | ConnectionError | TimeoutError)
    return any(status in text for status in _TRANSIENT_STATUS)


class Address:
    """The parts of ``http://user:password@host:port``."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Not chained: the cause may repeat the password.
            raise _unusable() from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise _unusable()
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = port or (8443 if self.secure else 8123)
        self.user = unquote(parts.username or "default")
        self.password = unquote(parts.password or "")

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether compression would only cost: the server is on this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _unusable() -> SettingsError:
    return SettingsError(
        "could not use the address in TIDEMILL_CLICKHOUSE: it must look like "
        "http://user:password@host:8123."
    )
