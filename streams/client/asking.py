"""Asks the store; answers are Arrow tables over the very bytes that came."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from schemas.errors import SetupError

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.settings import Settings
    from streams.store.client import Client

ROWS_MAX = 10_000_000
SECONDS_MAX = 60


class Asker:
    """One connection to the store, made when it is first needed; threads may share it."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._client: Client | None = None
        self._lock = threading.Lock()

    def query(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None,
        *,
        rows_max: int,
        seconds_max: int,
    ) -> "pa.Table":
        """The answer to one statement; see `AsyncClient.query`."""
        from schemas.arrow import spare_pandas
        from streams.store.client import mapped_errors

        client = self._connected()
        spare_pandas()
        with mapped_errors("run the query"):
            return client.query_arrow(
                sql.strip().rstrip(";"),
                parameters=dict(parameters) if parameters else None,
                settings=self._limits(rows_max, seconds_max),
                use_strings=True,
            )

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> "Client":
        from streams.store.client import connect

        with self._lock:
            if self._client is None:
                if not self._settings.clickhouse:
                    raise SetupError(
                        "could not find the store: set TIDEMILL_CLICKHOUSE to "
                        "http://user:password@host:8123, or start `tidemill up`."
                    )
                self._client = connect(self._settings)
            return self._client

    def _limits(self, rows_max: int, seconds_max: int) -> dict[str, Any]:
        from streams.store.client import Address

        limits: dict[str, Any] = {
            "max_result_rows": rows_max,
            "result_overflow_mode": "throw",
            "max_execution_time": seconds_max,
        }
        if Address(self._settings.clickhouse).local:
            # Uncompressed buffers are used where they lie; packed ones would be copied out first.
            limits["output_format_arrow_compression_method"] = "none"
        return limits
