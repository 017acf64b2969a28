"""Where the state of one pair of partitions is, as the text that its offset commits carry.

Kafka keeps at most `METADATA_CHARACTERS_MAX` characters beside a committed offset, and keeps both
or neither. So offset and pointer cannot disagree. The pointer names a snapshot, the offsets of both
topics at that snapshot, and every turn since: offsets alone do not fix how the two topics were
interleaved, and what depends on time (expiry) depends on that.
"""

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

from schemas.errors import SchemaError

METADATA_CHARACTERS_MAX = 4096
"""The broker's ``offset.metadata.max.bytes``; the text is ASCII, so characters are bytes."""
_OFFSET_MAX = 1 << 63
CHECKSUM_END = 1 << 64


def checksum_of(parts: Iterable[bytes]) -> int:
    """Sum of the CRC-32 of each part; those of several turns are added up, modulo 2**64."""
    return sum(map(zlib.crc32, parts)) % CHECKSUM_END


class _Text(msgspec.Struct, array_like=True):
    version: int
    snapshot: str
    scored: int
    labels: int
    turns: str
    rows: int
    checksum: int
    counts: dict[str, int]


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(_Text).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A snapshot, and how to get from it to the committed offsets.

    Attributes:
        snapshot: Name of the snapshot; empty for the empty ledger at the start of both topics.
        scored_offset: Where the scored topic went on at the snapshot.
        labels_offset: Where the labels topic went on at the snapshot.
        turns: For each turn since, how far the two offsets moved: (scored, labels).
        rows: Journal rows emitted by these turns.
        checksum: Theirs, as `checksum_of` sums it up.
        counts: The ledger's balance at the committed offsets, by name.
    """

    snapshot: str
    scored_offset: int
    labels_offset: int
    turns: tuple[tuple[int, int], ...] = ()
    rows: int = 0
    checksum: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def offsets(self) -> tuple[int, int]:
        """The offsets to commit with this pointer: (scored, labels)."""
        return (
            self.scored_offset + sum(turn[0] for turn in self.turns),
            self.labels_offset + sum(turn[1] for turn in self.turns),
        )

    def emitted(
        self, turn: tuple[int, int], *, rows: int, checksum: int, counts: dict[str, int]
    ) -> Self:
        """The pointer after one more turn, which sent ``rows`` rows with this `checksum`."""
        return replace(
            self,
            turns=(*self.turns, turn),
            rows=self.rows + rows,
            checksum=(self.checksum + checksum) % CHECKSUM_END,
            counts=counts,
        )

    def room(self) -> int:
        """Characters that are left; when few are, a new snapshot is due. Negative: too late."""
        return METADATA_CHARACTERS_MAX - len(self.encode())

    def encode(self) -> str:
        """The text of the offset commit. Not checked against the limit: ask `room`."""
        packed = bytearray()
        for turn in self.turns:
            for increment in turn:
                _put(packed, increment)
        return _encode(
            _Text(
                1,
                self.snapshot,
                self.scored_offset,
                self.labels_offset,
                base64.b64encode(packed).decode(),
                self.rows,
                self.checksum,
                self.counts,
            )
        ).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """The pointer that `encode` wrote.

        Raises:
            SchemaError: it did not. Nothing can be said about the state then: never go on with an
                empty ledger at an offset above 0.
        """
        try:
            found = _decode(text)
            numbers = _numbers(base64.b64decode(found.turns, validate=True))
            if found.version != 1 or len(numbers) % 2:
                raise ValueError(f"version={found.version}, increments={len(numbers)}")
            if not all(0 <= n < _OFFSET_MAX for n in (found.scored, found.labels, *numbers)):
                raise ValueError("an offset or an increment is no number of Kafka's")
        except (msgspec.MsgspecError, ValueError) as cause:
            raise SchemaError(
                f"could not read the state pointer of an offset commit: {cause}; "
                f"metadata={text[:80]!r}. Another program, or a tool, committed this offset."
            ) from cause
        return cls(
            snapshot=found.snapshot,
            scored_offset=found.scored,
            labels_offset=found.labels,
            turns=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
            rows=found.rows,
            checksum=found.checksum,
            counts=found.counts,
        )


def _put(packed: bytearray, number: int) -> None:
    """Append ``number`` as a varint: seven bits a byte, the lowest first."""
    if not 0 <= number < _OFFSET_MAX:
        raise ValueError(f"could not write increment {number}: offsets only grow")
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)


def _numbers(packed: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError("the last increment is cut off")
    return numbers
