"""The state pointer: what an offset commit says must be read back exactly, or refused."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SchemaError
from schemas.labels import Label
from streams.ledger.columns import LabelColumns
from streams.ledger.pointer import METADATA_CHARACTERS_MAX, Pointer, checksum_of

offsets = st.integers(0, (1 << 53) - 1)


@given(offsets, offsets, st.lists(st.tuples(offsets, offsets)), st.integers(0, (1 << 64) - 1))
def test_what_is_written_is_read(
    scored: int, labels: int, turns: list[tuple[int, int]], checksum: int
) -> None:
    pointer = Pointer(
        snapshot="12-ab",
        scored_offset=scored,
        labels_offset=labels,
        turns=tuple(turns),
        rows=3,
        checksum=checksum,
        counts={"pending": 1},
    )
    assert Pointer.decode(pointer.encode()) == pointer


def test_turns_move_the_offsets_and_the_checksum_does_not_care_for_order() -> None:
    start = Pointer(snapshot="", scored_offset=10, labels_offset=20)
    both = checksum_of([b"a", b"b"])
    moved = start.emitted((3, 0), rows=5, checksum=both, counts={}).emitted(
        (0, 200), rows=0, checksum=(1 << 64) - 1, counts={"labels": 2}
    )
    assert moved.offsets == (13, 220)
    assert (moved.rows, moved.counts) == (5, {"labels": 2})
    assert moved.checksum == zlib.crc32(b"b") + zlib.crc32(b"a") - 1


def test_hundreds_of_turns_fit_before_a_snapshot_is_due() -> None:
    pointer = Pointer(
        snapshot="9" * 19 + "-" + "a" * 64,
        scored_offset=1 << 40,
        labels_offset=1 << 40,
        turns=((5000, 5000),) * 600,
        counts=dict.fromkeys((f"some_count_{n}" for n in range(20)), 10**9),
    )
    assert pointer.room() > 0
    assert len(pointer.encode()) + pointer.room() == METADATA_CHARACTERS_MAX


@pytest.mark.parametrize("text", ["", "{}", "hello", '[1,"",0,0,"gA==",0,0,{}]',
    '[1,"",0,0,"AQ==",0,0,{}]', '[2,"",0,0,"",0,0,{}]', '[1,"",0,0,"%",0,0,{}]'])  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """To go on with an empty ledger would lose every open prediction in silence."""
    with pytest.raises(SchemaError, match="could not read the state pointer"):
        Pointer.decode(text)


def test_labels_become_columns() -> None:
    labels = [
        Label(event_id="a", value=True, label_time_ms=5, revision=2),
        Label(event_id="b", value=0.5, label_time_ms=6),
    ]
    columns = LabelColumns.of(labels, [7, 9])
    assert (len(columns), columns.event_id) == (2, ["a", "b"])
    assert (columns.value.tolist(), columns.revision.tolist()) == ([1.0, 0.5], [2, 0])
    with pytest.raises(ValueError, match="labels=2, times=1"):
        LabelColumns.of(labels, [7])
