"""The Faust app of a worker: on our transport, with nothing in it that listens or writes."""

from typing import Any

import faust
from faust.tables import TableManager

from schemas.settings import Settings
from streams.transport.consumer import PartitionOwner
from streams.transport.driver import install
from streams.transport.fetch import GATHER_ROWS_PER_S_MIN, FetchOptions


class _NoTables(TableManager):
    """Starts at once. Faust's own waits a second for tables that are declared late; here are none,
    and that second is one of each recovery.
    """

    async def on_start(self) -> None:
        """As in Faust, without the wait."""
        await self._update_channels()
        await self.recovery.start()


def build_app(
    settings: Settings,
    *,
    group: str,
    owner: PartitionOwner | None,
    read_committed: bool = False,
    wait_ms_max: int | None = None,
    gather_rows_per_s_min: float = GATHER_ROWS_PER_S_MIN,
) -> faust.App:
    """A Faust app on our transport, with nothing in it that listens or writes on its own."""
    options = settings.kafka_client_options()
    credentials: Any = None
    if settings.kafka_security.startswith("SASL"):
        credentials = faust.SASLCredentials(
            username=settings.kafka_username,
            password=settings.kafka_password,
            mechanism=settings.kafka_mechanism,
            ssl_context=options.get("ssl_context"),
        )
    elif settings.kafka_security == "SSL":
        credentials = faust.SSLCredentials(context=options["ssl_context"])
    folder = settings.home.absolute() / "faust"  # Faust wants one; with memory:// it stays empty
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        group,
        broker=[f"kafka://{address.strip()}" for address in settings.kafka.split(",")],
        broker_credentials=credentials,
        store="memory://",
        datadir=str(folder),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        autodiscover=False,
        # With an owner there is nothing to commit: it clears the book of what is in flight.
        broker_commit_interval=0.5 if owner is None else 2.0,
        broker_heartbeat_interval=max(0.2, settings.session_timeout_ms / 6000),
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_max_poll_records=settings.batch_rows_max,
        consumer_max_fetch_size=4 << 20,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,
        TableManager=_NoTables,
    )
    install(
        app,
        options=FetchOptions(
            wait_ms_max=wait_ms_max or settings.fetch_wait_ms_max,
            gather_rows_per_s_min=gather_rows_per_s_min,
            rows_max=settings.batch_rows_max,
            partition_rows_max=settings.partition_rows_max,
            read_committed=read_committed,
        ),
        in_flight_rows_max=settings.in_flight_rows_max,
        owner=owner,
    )
    app.finalize()
    return app
