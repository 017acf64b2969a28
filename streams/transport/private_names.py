"""Fails at import, by name, when an upgrade of Faust or aiokafka removed what we rely on.

Both, and mode, which Faust is made of, are pinned exactly. This check is for the day somebody
raises a pin: without it the worker would fail in the middle of a fetch, or worse, count offsets
wrong in silence. Releases that were looked at are not looked at again, it takes a third of a
second.
"""

import inspect
from importlib.metadata import version
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import fetcher, group_coordinator, subscription_state
from aiokafka.producer import message_accumulator, sender
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.struct import Struct
from faust.tables import TableManager
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as faust_driver
from mode.threads import ServiceThread

LOOKED_AT = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}
"""Releases that have all of these names: a test of this repository asks."""

_ATTRIBUTES: list[tuple[Any, tuple[str, ...]]] = [
    (fetcher, ("FetchResult", "READ_COMMITTED")),
    (fetcher.FetchResult, ("check_assignment", "has_more", "_update_position", "getall")),
    (fetcher.PartitionRecords, ("_consume_aborted_up_to", "_contains_abort_marker")),
    (fetcher.Fetcher, ("_create_fetch_waiter", "_notify", "fetched_records", "error_future")),
    (
        group_coordinator.GroupCoordinator,
        ("ensure_coordinator_known", "coordinator_dead", "_send_req"),
    ),
    (sender, ("BACKOFF_OVERRIDE", "TxnOffsetCommitHandler", "CoordinationType")),
    (sender.Sender, ("_do_txn_offset_commit", "_find_coordinator", "_sender_routine")),
    (sender.Sender, ("_send_produce_req", "_fail_all", "_maybe_wait_for_pid")),
    (sender.TxnOffsetCommitHandler, ("create_request", "handle_response")),
    (AIOKafkaConnection, ("send", "_send_sasl_token")),
    (AIOKafkaProducer, ("create_batch", "send_batch", "send_offsets_to_transaction")),
    (
        faust_consumer.Consumer,
        (
            "getmany",
            "perform_seek",
            "_wait_next_records",
            "_filter_tps_with_pending_acks",
            "_new_offset",
            "_add_gap",
            "wait_empty",
            "on_partitions_assigned",
            "on_partitions_revoked",
            "verify_event_path",
            "wait_first",
        ),
    ),
    (RequestStruct, ("build_request_header", "parse_response_header")),
    (Struct, ("encode", "decode")),
    (TableManager, ("_update_channels", "recovery", "on_start")),
    (
        faust_driver.AIOKafkaConsumerThread,
        (
            "_create_worker_consumer",
            "_fetch_records",
            "_ensure_consumer",
            "_serve",
            "_gather_remaining_tasks",
            "set_shutdown",
        ),
    ),
]
_SOURCES: list[tuple[Any, tuple[str, ...]]] = [
    (fetcher.FetchResult, ("self._partition_records", "self._assignment")),
    (fetcher.PartitionRecords, ("self._records", "self._check_crcs", "self._aborted_producers")),
    (fetcher.PartitionRecords, ("self.next_fetch_offset", "self._isolation_level")),
    (fetcher.Fetcher, ("self._records", "self._wait_consume_future", "self._prefetch_backoff")),
    (fetcher.Fetcher, ("self._subscriptions", "self._closed")),
    (AIOKafkaConsumer, ("self._fetch_max_wait_ms", "self._fetch_min_bytes", "self._fetcher")),
    (AIOKafkaConsumer, ("self._isolation_level", "self._coordinator", "self._client")),
    (AIOKafkaConsumer, ("self._subscription", "self._closed")),
    (
        group_coordinator.GroupCoordinator,
        ("self._pending_exception", "self._coordination_task"),
    ),
    (AIOKafkaClient, ("self._sync_task", "self._md_update_fut", "def force_metadata_update")),
    (subscription_state.TopicPartitionState, ("self.lso", "self._position")),
    (AIOKafkaProducer, ("self._sender", "self._txn_manager")),
    (sender.Sender, ("self._in_flight.remove(", "self._muted_partitions.remove(")),
    (sender.SendProduceReqHandler, ("self._client.send(node_id, request)",)),
    (AIOKafkaClient, ("self._conns[(node_id, group)].send(",)),
    (message_accumulator.MessageAccumulator, ("def drain_by_nodes", "def waiter", "_batches")),
    (message_accumulator.BatchBuilder, ("self._builder.append(", "self._relative_offset += 1")),
    (faust_consumer.Consumer, ("self._active_partitions", "self._acked", "self._read_offset")),
    (faust_consumer.Consumer, ("self._unacked_messages", "self._acked_index")),
    (faust_consumer.Consumer, ("callback(message), self.suspend_flow.wait()",)),
    (AIOKafkaConnection, ("request.parse_response_header(resp)", "resp_type.decode(resp)")),
    (ServiceThread, ("self.Worker(self)", "self._thread.start()", "self._thread.stop()")),
]


def missing_names() -> list[str]:
    """The private names that this release of the libraries no longer has."""
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in _ATTRIBUTES
        for name in names
        if not hasattr(owner, name)
    ]
    for owner, texts in _SOURCES:
        source = inspect.getsource(owner)
        missing += [f"{owner.__name__}: {text}" for text in texts if text not in source]
    return missing


def known_releases() -> bool:
    """Whether exactly those releases are installed that `LOOKED_AT` names."""
    return all(version(name) == release for name, release in LOOKED_AT.items())


if not known_releases() and (_missing := missing_names()):
    raise ImportError(
        "could not load the batch transport: this release of faust-streaming or aiokafka lacks "
        f"{', '.join(_missing)}. Install the versions that requirements.lock pins."
    )
