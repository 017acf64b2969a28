"""The exactly-once stage when answers leave before their transaction, as for at-least-once."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streams.transport.commit import Outgoing
from tests.unit.test_stage import FIRST, A, Bench, reach


@dataclass
class AtOnce:
    """Stands in for the producer of what leaves at once; acknowledged when the test says so."""

    sent: list[bytes] = field(default_factory=list)
    sent_bytes: int = 0
    futures: list["asyncio.Future[None]"] = field(default_factory=list)

    async def send(self, outgoing: list[Outgoing], *, timestamp_ms: int) -> list[Any]:
        assert timestamp_ms > 0
        self.sent += [value for part in outgoing for value in part.values]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        return [future]


async def test_what_leaves_at_once_is_not_in_the_transaction_and_comes_before_it(
    tmp_path: Path,
) -> None:
    """Offsets behind an answer that the broker does not have would lose it in a crash."""
    at_once = AtOnce()
    bench = Bench(tmp_path, at_once=at_once, at_once_topics=frozenset({"out"}))
    bench.assign(FIRST)
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 2))
    assert at_once.sent == [b"0", b"1"], "it does not wait for any transaction"
    done, _ = await asyncio.wait({committer}, timeout=0.05)
    assert (done, bench.broker.begun, bench.acknowledged) == (set(), 0, [])
    at_once.futures[0].set_result(None)
    await reach(lambda: bench.acknowledged == [1])
    assert bench.broker.done == [([], {A: 2}, FIRST)]
    committer.cancel()


async def test_an_answer_that_the_broker_refuses_moves_no_offset(tmp_path: Path) -> None:
    """The process ends, and the next owner answers again."""
    at_once = AtOnce()
    bench = Bench(tmp_path, at_once=at_once, at_once_topics=frozenset({"out"}))
    bench.assign(FIRST)
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 2))
    at_once.futures[0].set_exception(ConnectionError("refused"))
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(committer, 10)
    assert [what for what, _ in bench.failures] == ["transaction"]
    assert (bench.broker.begun, bench.acknowledged) == (0, [])


async def test_other_topics_stay_in_the_transaction(tmp_path: Path) -> None:
    """Only what was named leaves early."""
    at_once = AtOnce()
    bench = Bench(tmp_path, at_once=at_once, at_once_topics=frozenset({"elsewhere"}))
    bench.assign(FIRST)
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1))
    at_once.futures[0].set_result(None)
    await reach(lambda: bench.acknowledged == [1])
    assert (at_once.sent, bench.broker.done) == ([], [([b"0"], {A: 1}, FIRST)])
    committer.cancel()
