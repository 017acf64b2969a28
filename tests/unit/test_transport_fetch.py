"""Columns out of real Kafka record batches: nothing skipped, nothing invented."""

import struct

import pytest
from aiokafka.consumer.fetcher import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    FetchResult,
    PartitionRecords,
)
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.transport import private_names
from streams.transport.take import take_run

T = TP("events", 0)
ABORT, COMMIT = 0, 1


def batch(offset, values, *, producer=-1, transactional=False, headers=(), keys=None):
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=transactional,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 30,
    )
    for i, value in enumerate(values):
        key = keys[i] if keys else b"k%d" % (offset + i)
        builder.append(i, timestamp=1000 + offset + i, key=key, value=value, headers=list(headers))
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, offset)  # the broker writes the base offset
    return bytes(data)


def marker(offset, producer, kind):
    """A control batch, as the broker appends it at the end of a transaction."""
    data = bytearray(
        batch(
            offset,
            [b"\0" * 6],
            producer=producer,
            transactional=True,
            keys=[struct.pack(">hh", 0, kind)],
        )
    )
    attributes = struct.unpack_from(">h", data, 21)[0]
    struct.pack_into(">h", data, 21, attributes | 0x20)
    return bytes(data)


class Assignment:
    """What a fetch result asks of aiokafka's subscription state."""

    active = True

    def __init__(self, position):
        self.position = position
        self.paused = False

    def state_value(self, _tp):
        return self

    def consumed_to(self, position):
        self.position = position


def result(data, *, position=0, aborted=(), isolation=READ_COMMITTED, check_crcs=False):
    records = PartitionRecords(
        T, MemoryRecords(data), list(aborted), position, None, None, check_crcs, isolation
    )
    return FetchResult(T, assignment=Assignment(position), partition_records=records, backoff=0)


def take_all(fetched, rows_max=1000, **options):
    runs = []
    while True:
        run = take_run(fetched, T, rows_max=rows_max, with_headers=False, **options)
        if run is None:
            if not fetched.has_more():
                return runs
            continue
        runs.append(run)


def test_values_keys_timestamps_and_offsets_are_those_of_the_records():
    run = take_all(result(batch(7, [b"a", None, b"c"]), position=7))[0]
    assert run.values == [b"a", None, b"c"]
    assert run.keys == [b"k7", b"k8", b"k9"]
    assert run.timestamps_ms == [1007, 1008, 1009]
    assert list(run.offsets) == [7, 8, 9]
    assert run.next_offset == 10


def test_headers_are_read_only_when_asked_for():
    data = batch(0, [b"a"], headers=[("h", b"1")])
    assert take_run(result(data), T, rows_max=9, with_headers=False).headers is None
    assert take_run(result(data), T, rows_max=9, with_headers=True).headers == [(("h", b"1"),)]


def test_start_in_the_middle_of_a_batch_skips_what_was_consumed():
    """A compressed batch comes whole although the position lies inside of it."""
    run = take_all(result(batch(10, [b"a", b"b", b"c"]), position=12))[0]
    assert (run.values, list(run.offsets)) == ([b"c"], [12])


def test_gaps_of_compaction_stay_gaps():
    run = take_all(result(batch(3, [b"a"]) + batch(9, [b"b"]), position=0))[0]
    assert list(run.offsets) == [3, 9]
    assert run.next_offset == 10


def test_aborted_transactions_are_skipped_and_markers_move_the_position():
    """Producer 1 aborts, producer 2 commits, interleaved; the commit must not lag at the marker."""
    data = (
        batch(0, [b"bad0"], producer=1, transactional=True)
        + batch(1, [b"good1", b"good2"], producer=2, transactional=True)
        + batch(3, [b"bad3"], producer=1, transactional=True)
        + marker(4, 1, ABORT)
        + marker(5, 2, COMMIT)
        + batch(6, [b"good6"], producer=1, transactional=True)
        + marker(7, 1, COMMIT)
    )
    [run] = take_all(result(data, aborted=[(1, 0)]))
    assert run.values == [b"good1", b"good2", b"good6"]
    assert list(run.offsets) == [1, 2, 6]
    assert run.next_offset == 8
    [everything] = take_all(result(data, aborted=[], isolation=READ_UNCOMMITTED))
    assert everything.values == [b"bad0", b"good1", b"good2", b"bad3", b"good6"]


def test_a_fetch_of_nothing_but_aborted_records_still_moves_on():
    """Otherwise the same bytes would be fetched for ever."""
    data = batch(0, [b"bad"], producer=1, transactional=True) + marker(1, 1, ABORT)
    fetched = result(data, aborted=[(1, 0)])
    assert take_all(fetched) == []
    assert fetched._assignment.position == 2


def test_corrupt_record_is_raised_after_the_good_ones_were_delivered():
    good, broken = batch(0, [b"a", b"b"]), bytearray(batch(2, [b"c"]))
    broken[-2] ^= 0xFF
    fetched = result(good + bytes(broken), check_crcs=True)
    run = take_run(fetched, T, rows_max=100, with_headers=False)
    assert run.values == [b"a", b"b"]
    assert run.next_offset == 2
    again = result(bytes(broken), position=2, check_crcs=True)
    with pytest.raises(CorruptRecordException):
        take_run(again, T, rows_max=100, with_headers=False)


def test_paused_or_moved_partition_yields_nothing():
    fetched = result(batch(0, [b"a"]))
    fetched._assignment.position = 5  # a seek happened after the fetch
    assert take_run(fetched, T, rows_max=9, with_headers=False) is None
    paused = result(batch(0, [b"a"]))
    paused._assignment.paused = True
    assert take_run(paused, T, rows_max=9, with_headers=False) is None


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),  # records
            st.integers(0, 3),  # hole before them
            st.sampled_from(["plain", "commit", "abort"]),
        ),
        min_size=1,
        max_size=10,
    ),
    st.integers(1, 12),
)
@settings(max_examples=200, deadline=None)
def test_any_log_is_read_whole_and_in_order(parts, rows_max):
    """Every committed record exactly once, in order, whatever is cut where."""
    data, expected, aborted, offset, producer = b"", [], [], 0, 10
    for size, hole, kind in parts:
        offset += hole
        producer += 1
        values = [b"%d" % (offset + i) for i in range(size)]
        transactional = kind != "plain"
        data += batch(
            offset, values, producer=producer if transactional else -1, transactional=transactional
        )
        if kind == "abort":
            aborted.append((producer, offset))
        else:
            expected += range(offset, offset + size)
        offset += size
        if transactional:
            data += marker(offset, producer, ABORT if kind == "abort" else COMMIT)
            offset += 1
    runs = take_all(result(data, aborted=aborted), rows_max=rows_max)
    assert [o for run in runs for o in run.offsets] == expected
    assert [int(v) for run in runs for v in run.values] == expected
    positions = [run.next_offset for run in runs]
    assert positions == sorted(positions)
    assert all(run.next_offset > run.last_offset for run in runs)


def test_installed_libraries_have_every_private_name_we_use():
    """Run this first after raising a pin of faust-streaming or aiokafka, then raise `LOOKED_AT`."""
    assert private_names.missing_names() == []
    assert private_names.known_releases()


def test_a_release_that_nobody_looked_at_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a pin that is raised alone fails at import, by name."""
    monkeypatch.setitem(private_names.LOOKED_AT, "aiokafka", "0.0.1")
    assert not private_names.known_releases()
