"""How long tables keep rows: read from the store and set there."""

import re
from typing import Final

from schemas.settings import Settings
from streams.store.client import Client, mapped_errors

EXPIRING: Final = {
    "scored": "predicted_at",
    "labels": "landed_at",
    "dead_letters": "landed_at",
    "examples": "produced_at",
    "evaluations": "landed_at",
    "alarms": "landed_at",
    "runs": "landed_at",
    "alerts": "landed_at",
    "silences": "landed_at",
}
"""The column from which the age of a row counts. Other tables keep theirs for good."""

MIGRATED_DAYS = 400
"""What the migrations say; any other number was set by somebody."""

_DAYS = re.compile(r"TTL .*?(?:toIntervalDay\((\d+)\)|INTERVAL (\d+) DAY)")


def present_days(client: Client) -> dict[str, int | None]:
    """For how many days each table keeps rows, None for good; without tables that are not there.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("read how long tables keep rows"):
        rows = client.query(
            "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"
        ).result_rows
    found: dict[str, int | None] = {}
    for name, engine in rows:
        if name in EXPIRING:
            match = _DAYS.search(engine)
            found[name] = int(match[1] or match[2]) if match else None
    return found


def keep_rows(client: Client, settings: Settings) -> None:
    """Keep rows of new tables as long as ``settings`` say.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    wanted = settings.row_retention_days
    new = [table for table, days in present_days(client).items() if days == MIGRATED_DAYS != wanted]
    set_days(client, new, wanted, cluster=settings.clickhouse_cluster)


def set_days(client: Client, tables: list[str], days: int, *, cluster: str = "") -> None:
    """Keep rows of ``tables`` for ``days``. What is older goes with the next merges, hours at most.

    Raises:
        StoreUnavailable: the store does not answer; some may be set. Repeating it is safe.
    """
    on_cluster = f"ON CLUSTER `{cluster}`" if cluster else ""
    for table in tables:
        with mapped_errors(f"set how long table {table} keeps rows"):
            client.command(
                f"ALTER TABLE `{table}` {on_cluster} MODIFY TTL "
                f"toDateTime({EXPIRING[table]}) + INTERVAL {int(days)} DAY"
            )
