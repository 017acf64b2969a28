"""What is fuzzed, and where its inputs come from: each follows from the seed and its number alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

BYTES_MAX = 65_536
LONG_EVERY = 500
"""One input in so many repeats a short piece up to the longest input: what takes time that grows with
the square of the length is seen only there."""
EDGES = (
    0,
    1,
    -1,
    127,
    255,
    65535,
    1 << 31,
    (1 << 31) - 1,
    1 << 53,
    1 << 63,
    (1 << 63) - 1,
    1 << 64,
)
WORDS = (b"null", b"true", b"1e400", b"-0", b"1.5", b"\\ud800", b"\xff", b"\x00", b'"', b"'", b"\\",
         b"[", b"{", b"]", b"}", b",", b":", b"\n", b"\r\n", b"$", b"/*", b"*/", b"--", b"%00")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One door.

    Attributes:
        name: For the command line.
        seeds: Good inputs, which are mutated.
        check: Gives an input to the door; whatever it raises is a finding.
        words: Pieces that mean something there.
        bytes_max: The longest input.
    """

    name: str
    seeds: Sequence[bytes]
    check: Callable[[bytes], None]
    words: Sequence[bytes] = ()
    bytes_max: int = BYTES_MAX


@dataclass(slots=True)
class Inputs:
    """The inputs of one target under one seed."""

    target: Target
    seed: int
    _dice: Random = field(default_factory=Random)
    _words: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        self._words = (*WORDS, *self.target.words)

    def __getitem__(self, number: int) -> bytes:
        """Input ``number``: a seed with a few changes; sometimes noise, sometimes very long."""
        dice = self._dice
        dice.seed(self.seed << 40 | number)
        if number < len(self.target.seeds):
            return self.target.seeds[number]
        if number % LONG_EVERY == LONG_EVERY - 1:
            return self._long()
        if dice.random() < 0.02:
            return dice.randbytes(dice.randrange(64))
        content = bytearray(dice.choice(self.target.seeds))
        for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 8))):
            self._change(content)
        return bytes(content[: self.target.bytes_max])

    def _change(self, content: bytearray) -> None:
        dice = self._dice
        at = dice.randrange(len(content) + 1)
        end = min(len(content), at + dice.choice((1, 1, 2, 4, 8, 64)))
        match dice.randrange(8):
            case 0 if at < len(content):
                content[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(content):
                content[at] = dice.randrange(256)
            case 2:
                content[at:at] = dice.choice(self._words)
            case 3:
                content[at:end] = dice.choice(self._words)
            case 4:
                del content[at:end]
            case 5:
                content[at:at] = content[at:end] * dice.choice((1, 1, 2, 16, 200))
            case 6:
                number = dice.choice(EDGES) + dice.choice((0, 0, -1, 1))
                size = dice.choice((0, 0, 4, 8))
                content[at : at + size] = (
                    (number % (1 << (8 * size))).to_bytes(size, "little")
                    if size
                    else b"%d" % number
                )
            case _:
                other = dice.choice(self.target.seeds)
                content[at:] = other[dice.randrange(len(other) + 1) :]

    def _long(self) -> bytes:
        """The beginning of a seed, some brackets, and one or two words without an end."""
        dice, most = self._dice, self.target.bytes_max
        head = dice.choice(self.target.seeds)
        head = head[: dice.randrange(len(head) + 1)] + dice.choice((b"", b"[" * 101, b'"', b"("))
        unit = b"".join(dice.choice(self._words) for _ in range(dice.choice((1, 1, 2, 3)))) or b"x"
        return (head + unit * (most // len(unit)))[:most]
