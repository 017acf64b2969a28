"""Two Kafka requests that aiokafka 0.14 lacks, as flexible schemas.

* TxnOffsetCommit v3 carries member and generation (KIP-447). A worker that was expelled from the
  group, but does not know it yet, has its transaction refused by the broker. With aiokafka's own v0
  it would succeed, and the new owner's work would be doubled.
* OffsetFetch v7 can insist on stable offsets. While a transaction that commits offsets is open, the
  plain fetch answers the *old* offset, from which a new owner would repeat committed work.

Remove this file when aiokafka sends these versions itself (upstream issue 1008: KIP-447).
"""

from collections import defaultdict
from typing import Any, NamedTuple

from aiokafka.errors import for_code
from aiokafka.producer import sender
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

UNSTABLE_OFFSET_COMMIT = 88
METADATA_CHARACTERS_MAX = 4096
"""Broker limit on the text beside a committed offset (``offset.metadata.max.bytes``)."""
FENCED_CODES = frozenset({22, 25, 82})
"""Illegal generation, unknown member, fenced instance: this worker no longer owns the
partitions."""

_STRING = CompactString("utf-8")


class Membership(NamedTuple):
    """A worker's place in its consumer group, as it was at one assignment."""

    group: str
    generation: int
    member: str


class _TxnOffsetCommitResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _STRING),
                (
                    "partition_errors",
                    CompactArray(
                        ("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 3
    RESPONSE_TYPE = _TxnOffsetCommitResponse
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("transactional_id", _STRING),
        ("group_id", _STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _STRING),
        ("group_instance_id", _STRING),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _STRING),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommit(Request[_TxnOffsetCommitStruct]):  # type: ignore[misc]
    API_KEY = 28

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(*self._fields)


class _OffsetFetchResponse(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _STRING),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetFetchResponse
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("group", _STRING),
        (
            "topics",
            CompactArray(
                ("topic", _STRING), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetFetch(Request[_OffsetFetchStruct]):  # type: ignore[misc]
    """Asks the group coordinator for committed offsets that no open transaction may still
    change.
    """

    API_KEY = 9

    def __init__(self, group: str, partitions: dict[str, list[int]]) -> None:
        self._group = group
        self._topics: list[Any] = [
            (topic, numbers, {}) for topic, numbers in sorted(partitions.items())
        ]

    def build(self, request_struct_class: Any) -> Any:
        """Fill the request's fields."""
        return request_struct_class(self._group, self._topics, True, {})


class FencedOffsetCommit(sender.TxnOffsetCommitHandler):  # type: ignore[misc]
    """Commits offsets inside the open transaction under the member's generation.

    A refusal for an old generation fails the transaction: it is then aborted, and neither the
    outputs nor the offsets become visible.
    """

    def __init__(self, owner: Any, offsets: dict[Any, Any], membership: Membership) -> None:
        super().__init__(owner, offsets, membership.group)
        self._membership = membership

    def create_request(self) -> _TxnOffsetCommit:
        """The request for all partitions at once."""
        transaction = self._sender._txn_manager
        topics: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for tp, commit in sorted(self._offsets.items()):
            topics[tp.topic].append((tp.partition, commit.offset, -1, commit.metadata, {}))
        return _TxnOffsetCommit(
            transaction.transactional_id,
            self._membership.group,
            transaction.producer_id,
            transaction.producer_epoch,
            self._membership.generation,
            self._membership.member,
            None,
            [(topic, partitions, {}) for topic, partitions in topics.items()],
            {},
        )

    def handle_response(self, response: Any) -> Any:
        """Fail the transaction when fenced; leave every other answer to aiokafka."""
        plain = []
        for topic, partitions, *_ in response.errors:
            for _partition, code, *_tags in partitions:
                if code in FENCED_CODES:
                    self._sender._txn_manager.error_transaction(for_code(code)())
                    return None
            plain.append((topic, [(partition, code) for partition, code, *_tags in partitions]))
        response.errors = plain
        return super().handle_response(response)
