"""The query log: what ran, for whom, how long, at what cost, in SQL and in the process's log.

The engine keeps it as ``system.query_log`` (`client_ids` shows clients' ids and users in it). A row
is written when a query has ended, and reaches the table within `FLUSH_MS`, or at once with ``SYSTEM
FLUSH LOGS``. It holds the query's text; the process's own log never does.
"""

from typing import Final

import structlog

from streams.store.gateway.rows import Counts

KEPT_DAYS: Final = 3
"""Older rows go, whole days at a time; one takes about 200 bytes on the disk."""
FLUSH_MS: Final = 2_000
SLOW_S: Final = 1.0
"""A query that took longer is noted in the process's log."""

QUERY_LOG_XML: Final = f"""<query_log>
    <database>system</database>
    <table>query_log</table>
    <partition_by>event_date</partition_by>
    <ttl>event_date + INTERVAL {KEPT_DAYS} DAY DELETE</ttl>
    <flush_interval_milliseconds>{FLUSH_MS}</flush_interval_milliseconds>
    <max_size_rows>65536</max_size_rows>
    <reserved_size_rows>256</reserved_size_rows>
    <buffer_size_rows_flush_threshold>32768</buffer_size_rows_flush_threshold>
  </query_log>"""
"""Part of the server's configuration."""
QUERY_LOG_PROFILE_XML: Final = "<log_queries_min_type>QUERY_FINISH</log_queries_min_type>"
"""Part of the users' configuration: one row per query, not two."""

log = structlog.get_logger()


def note_slow(query_id: str, user: str, verb: str, *, duration_s: float, counts: Counts) -> None:
    """Write one line if the query was slow; its text is found in the query log by its id."""
    if duration_s >= SLOW_S:
        log.info(
            "slow query",
            query_id=query_id,
            user=user,
            verb=verb,
            duration_s=round(duration_s, 3),
            rows_read=counts.read_rows,
            rows_written=counts.written_rows,
            rows_sent=counts.result_rows,
        )
