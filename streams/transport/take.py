"""Takes records out of aiokafka as columns.

aiokafka builds an 11-field `ConsumerRecord` per message; reading its C record iterator directly
into lists is three times cheaper and gives the agent what it wants anyway.
"""

from typing import Any

from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import CorruptRecordException
from faust.types import TP

from streams.transport.records import Run


def take_run(result: Any, tp: TP, *, rows_max: int, with_headers: bool) -> Run | None:
    """Take records out of one aiokafka fetch result, up to about ``rows_max`` of them.

    Follows `aiokafka.consumer.fetcher.PartitionRecords._unpack_records` step by step: aborted
    transactions and control records are skipped, gaps are kept as gaps.

    Raises:
        CorruptRecordException: the next record fails its checksum. Records before it have been
            returned by then; the partition will be fetched again from the broken one.
    """
    if not result.has_more() or not result.check_assignment(tp):
        return None
    partition = result._partition_records
    batches = partition._records
    run = Run(tp, [], [], [], [], partition.next_fetch_offset, [] if with_headers else None)
    keys, values, timestamps, headers = run.keys, run.values, run.timestamps_ms, run.headers
    offsets: list[int] = []
    position = partition.next_fetch_offset
    committed_only = partition._isolation_level == READ_COMMITTED
    corrupt = False
    while len(values) < rows_max and batches.has_next():
        batch = batches.next_batch()
        if partition._check_crcs and not batch.validate_crc():
            corrupt = True
            break
        if committed_only and batch.producer_id is not None:
            partition._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and partition._contains_abort_marker(batch):
                partition._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in partition._aborted_producers:
                position = batch.next_offset
                continue
        if not batch.is_control_batch:
            for record in batch:
                offset = record.offset
                if offset < position:
                    continue  # the start of a compressed batch that was consumed before
                offsets.append(offset)
                keys.append(record.key)
                values.append(record.value)
                timestamps.append(record.timestamp)
                if headers is not None:
                    headers.append(tuple(record.headers))
        position = batch.next_offset
    partition.next_fetch_offset = position
    result._update_position()
    if corrupt or not batches.has_next():
        result._partition_records = None
    if corrupt and not values:
        raise CorruptRecordException(
            f"checksum of a record of {tp} at or after {position} is wrong"
        )
    if not values:
        return None
    dense = offsets[-1] - offsets[0] + 1 == len(offsets)
    run.offsets = range(offsets[0], offsets[-1] + 1) if dense else offsets
    run.next_offset = position
    return run
