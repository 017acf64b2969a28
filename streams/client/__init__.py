"""Tidemill from programs and notebooks: send events and labels, follow predictions, ask the store.

    from streams.client import Client

    with Client("payments.py") as client:
        client.send_events([{"event_id": "8c1f", "account_id": "A-17", ...}])
        table = client.predictions(start="earliest")            # Arrow
        late = client.query("SELECT * FROM payments WHERE score > {least:Float64}", {"least": 0.9})

`AsyncClient` is the same with ``await``. Tables are `pyarrow.Table`: ``table.to_pandas()`` and
``polars.from_arrow(table)`` make frames of them. Servers are those of the running ``tidemill up``,
or of ``TIDEMILL_KAFKA`` and ``TIDEMILL_CLICKHOUSE``. Nothing here imports torch, and importing this
opens no connection.
"""

from schemas.errors import RecordsRejected
from schemas.predictions import Prediction
from streams.client.asynchronous import AsyncClient
from streams.client.blocking import BlockingFollower, Client
from streams.client.following import Follower, Start, as_table
from streams.client.sending import Position

__all__ = [
    "AsyncClient",
    "BlockingFollower",
    "Client",
    "Follower",
    "Position",
    "Prediction",
    "RecordsRejected",
    "Start",
    "as_table",
]
