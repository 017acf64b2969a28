"""The exactly-once stage with a commit that tests hold in their hand: order, generations, failures."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.telemetry import Reporter
from streams.transport import stage as stage_module
from streams.transport.commit import Outgoing
from streams.transport.records import Drain, Run
from streams.transport.stage import TransactionalStage
from streams.transport.wire import Membership

A, B = TP("events", 0), TP("events", 1)
FIRST, SECOND = Membership("g", 1, "m"), Membership("g", 2, "m")


@dataclass
class Broker:
    """Stands in for `GroupCommit`: a transaction ends when the test opens the gate."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0
    done: list[tuple[list[bytes], dict[TP, int], Membership]] = field(default_factory=list)
    error: BaseException | None = None
    sent_bytes: int = 0

    async def send(
        self,
        outgoing: list[Outgoing],
        offsets: Mapping[TP, int],
        *,
        membership: Membership,
        timestamp_ms: int,
    ) -> None:
        assert timestamp_ms > 0
        self.begun += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        values = [value for part in outgoing for value in part.values]
        self.done.append((values, dict(offsets), membership))


class Bench:
    """A stage, its broker and what was acknowledged."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.broker = Broker()
        self.failures: list[tuple[str, BaseException]] = []
        self.computed: list[tuple[TP, int]] = []
        self.spans: list[tuple[TP, int, int]] = []
        self.acknowledged: list[int] = []
        self.compute_error: Exception | None = None
        self.stage = TransactionalStage(
            self.broker,  # type: ignore[arg-type]  # a stand-in
            lambda runs: [part for run in runs for part in self._compute(run)],
            Reporter(folder, "w", "score"),
            on_failure=lambda what, error: self.failures.append((what, error)),
            **options,
        )

    def _compute(self, run: Run) -> list[Outgoing]:
        if self.compute_error is not None:
            raise self.compute_error
        self.computed.append((run.tp, run.first_offset))
        self.spans.append((run.tp, run.first_offset, run.next_offset))
        return [Outgoing("out", run.tp.partition, [b"%d" % offset for offset in run.offsets])]

    def assign(self, membership: Membership, **starts: int) -> None:
        self.stage.assigned(membership)
        for name, tp in (("a", A), ("b", B)):
            self.stage.settled(tp, OffsetAndMetadata(starts.get(name, 0), ""))

    def drain(self, number: int, generation: int, *parts: tuple[TP, int, int]) -> Drain:
        """Partition, first offset and rows of each run."""
        runs = [
            Run(tp, [None] * n, [b"x"] * n, [1] * n, range(first, first + n), first + n)
            for tp, first, n in parts
        ]
        drain = Drain(runs, generation)

        def ack(_consumer: object) -> None:
            drain.message.acked = True
            self.acknowledged.append(number)

        drain.message = SimpleNamespace(acked=False, ack=ack)  # type: ignore[assignment]
        return drain

    async def take(self, number: int, generation: int, *parts: tuple[TP, int, int]) -> None:
        await self.stage.take(self.drain(number, generation, *parts), None)

    def commit(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self.stage.commit_forever())


async def reach(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_nothing_is_acknowledged_before_its_transaction_is_committed(tmp_path: Path) -> None:
    """Acknowledged means durable: until then the rows count as in flight."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 2))
    await reach(lambda: bench.broker.begun == 1)
    await bench.take(2, 1, (A, 2, 1), (B, 0, 1))
    assert bench.acknowledged == []
    bench.broker.gate.set()
    await reach(lambda: bench.acknowledged == [1, 2])
    assert bench.broker.done == [
        ([b"0", b"1"], {A: 2}, FIRST),
        ([b"2", b"0"], {A: 3, B: 1}, FIRST),
    ]
    committer.cancel()


async def test_what_is_ready_shares_a_transaction_up_to_its_size(tmp_path: Path) -> None:
    """Group commit: the highest offset of each partition, messages in the order of the drains."""
    bench = Bench(tmp_path, transaction_rows_max=4)
    bench.assign(FIRST)
    await bench.take(1, 1, (A, 0, 2))
    await bench.take(2, 1, (B, 0, 1), (A, 5, 1))  # a gap is no reason to stop
    await bench.take(3, 1, (A, 6, 3))
    bench.broker.gate.set()
    committer = bench.commit()
    await reach(lambda: len(bench.acknowledged) == 3)
    assert bench.broker.done == [
        ([b"0", b"1", b"0", b"5"], {A: 6, B: 1}, FIRST),
        ([b"6", b"7", b"8"], {A: 9}, FIRST),
    ]
    assert bench.acknowledged == [1, 2, 3]
    committer.cancel()


async def test_a_drain_of_an_old_generation_is_dropped_and_let_go(tmp_path: Path) -> None:
    """Its rows will be read again under the new one; kept, they would be answered twice."""
    bench = Bench(tmp_path)
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(0, 1, (A, 0, 1))  # before any assignment
    bench.assign(SECOND)
    await bench.take(1, 1, (A, 0, 1))
    await bench.take(2, 2, (A, 0, 1))
    await reach(lambda: bench.acknowledged == [0, 1, 2])
    assert bench.broker.done == [([b"0"], {A: 1}, SECOND)]
    assert bench.computed == [(A, 0)]
    committer.cancel()


async def test_what_was_computed_under_an_old_generation_is_not_committed(tmp_path: Path) -> None:
    """Between the computation and the commit the partitions may have gone to another worker."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    await bench.take(1, 1, (A, 0, 1))
    await bench.stage.revoked({A, B})
    bench.assign(SECOND)
    await bench.take(2, 2, (A, 0, 1))
    bench.broker.gate.set()
    committer = bench.commit()
    await reach(lambda: bench.acknowledged == [1, 2])
    assert bench.broker.done == [([b"0"], {A: 1}, SECOND)]
    committer.cancel()


async def test_a_revocation_waits_for_the_open_transaction_and_forgets_the_rest(
    tmp_path: Path,
) -> None:
    """The next owner reads the committed offset after this: it must not move any more."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1))
    await reach(lambda: bench.broker.begun == 1)
    await bench.take(2, 1, (A, 1, 1))
    revocation = asyncio.create_task(bench.stage.revoked({A, B}))
    done, _ = await asyncio.wait({revocation}, timeout=0.05)
    assert not done
    bench.broker.gate.set()
    await asyncio.wait_for(revocation, 10)
    assert bench.broker.done == [([b"0"], {A: 1}, FIRST)]
    await reach(lambda: sorted(bench.acknowledged) == [1, 2])
    assert bench.broker.begun == 1
    assert bench.failures == []
    committer.cancel()


async def test_a_transaction_that_outlasts_a_revocation_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group will not wait longer; only an end makes sure that nothing of it is committed."""
    monkeypatch.setattr(stage_module, "REVOKE_S_MAX", 0.05)
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1))
    await reach(lambda: bench.broker.begun == 1)
    await bench.stage.revoked({A, B})
    [(what, error)] = bench.failures
    assert "revocation" in what
    assert isinstance(error, TimeoutError)
    committer.cancel()


async def test_a_failed_transaction_is_fatal_once_and_acknowledges_nothing(tmp_path: Path) -> None:
    """It may or may not have been committed: only the next owner can find out."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    bench.broker.error = ConnectionError("during the commit")
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1))
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(committer, 10)
    assert [what for what, _ in bench.failures] == ["transaction"]
    assert bench.acknowledged == []
    assert bench.broker.done == []


@pytest.mark.parametrize("rows", [1, 1000])
async def test_a_failed_computation_is_fatal_once_and_acknowledges_nothing(
    tmp_path: Path, rows: int
) -> None:
    """On the event loop as in the thread."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    bench.compute_error = ArithmeticError("broken model")
    committer = bench.commit()
    with pytest.raises(ArithmeticError):
        await bench.take(1, 1, (A, 0, rows))
    assert [what for what, _ in bench.failures] == ["compute"]
    assert (bench.acknowledged, bench.broker.begun) == ([], 0)
    committer.cancel()


async def test_partitions_that_have_not_settled_are_left_alone(tmp_path: Path) -> None:
    """Before the stable offset is known nobody can say which records are new."""
    bench = Bench(tmp_path)
    bench.stage.assigned(FIRST)
    bench.stage.settled(A, OffsetAndMetadata(0, ""))
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1), (B, 0, 1))
    await reach(lambda: bench.acknowledged == [1])
    assert bench.broker.done == [([b"0"], {A: 1}, FIRST)]
    committer.cancel()


async def test_a_drain_with_nothing_new_needs_no_transaction(tmp_path: Path) -> None:
    """It is let go all the same, or its rows would count as in flight for ever."""
    bench = Bench(tmp_path)
    bench.assign(FIRST, a=10)
    committer = bench.commit()
    await bench.take(1, 1, (A, 5, 3))
    await reach(lambda: bench.acknowledged == [1])
    assert bench.broker.begun == 0
    committer.cancel()


async def test_a_full_queue_holds_the_agent_back(tmp_path: Path) -> None:
    """Memory is bounded while a transaction takes its time."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    for number in range(stage_module.READY_DRAINS_MAX):
        await bench.take(number, 1, (A, number, 1))
    more = asyncio.create_task(bench.take(99, 1, (A, 99, 1)))
    done, _ = await asyncio.wait({more}, timeout=0.05)
    assert not done
    bench.broker.gate.set()
    committer = bench.commit()
    await asyncio.wait_for(more, 10)
    committer.cancel()


async def test_drains_gather_for_one_transaction_but_not_beyond_its_rows(tmp_path: Path) -> None:
    """An hour of gathering ends when the transaction is full."""
    bench = Bench(tmp_path, gather_ms=3_600_000, transaction_rows_max=3)
    bench.assign(FIRST)
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1))
    await bench.take(2, 1, (A, 1, 1))
    done, _ = await asyncio.wait({committer}, timeout=0.05)
    assert (done, bench.broker.begun) == (set(), 0)
    await bench.take(3, 1, (B, 0, 1))
    await reach(lambda: len(bench.acknowledged) == 3)
    assert bench.broker.done == [([b"0", b"1", b"0"], {A: 2, B: 1}, FIRST)]
    committer.cancel()


async def test_a_slow_model_leaves_the_event_loop_to_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few events are computed where fetches and heartbeats run only while that is short."""
    bench = Bench(tmp_path)
    bench.assign(FIRST)
    threads = []
    bench.stage.compute = lambda _runs: threads.append(threading.current_thread()) or []
    for number, s_max in enumerate([10.0, 0.0, 10.0]):
        monkeypatch.setattr(stage_module, "INLINE_S_MAX", s_max)
        await bench.take(number, 1, (A, number, 1))
    assert [thread is threading.main_thread() for thread in threads] == [True, False, True]


async def test_gathering_ends_after_its_time(tmp_path: Path) -> None:
    """One drain alone is committed, too."""
    bench = Bench(tmp_path, gather_ms=1)
    bench.assign(FIRST)
    bench.broker.gate.set()
    committer = bench.commit()
    await bench.take(1, 1, (A, 0, 1))
    await reach(lambda: bench.acknowledged == [1])
    committer.cancel()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([A, B]), st.integers(0, 20), st.integers(1, 5)), max_size=12
    ),
    st.integers(0, 10),
)
def test_no_offset_is_committed_twice_or_backwards(
    tmp_path_factory: pytest.TempPathFactory, offered: list[tuple[TP, int, int]], start: int
) -> None:
    """
    However runs repeat or overlap: what is sent of a partition ascends without repetition, and the
    committed offset is right behind the last of it.
    """

    async def world() -> None:
        bench = Bench(tmp_path_factory.getbasetemp())
        bench.assign(FIRST, a=start, b=start)
        bench.broker.gate.set()
        committer = bench.commit()
        for number, part in enumerate(offered):
            await bench.take(number, 1, part)
        await reach(lambda: len(bench.acknowledged) == len(offered))
        committer.cancel()
        behind = {A: start, B: start}
        for tp, first, following in bench.spans:
            assert first >= behind[tp]
            behind[tp] = following
        committed = {A: start, B: start}
        for _values, offsets, _membership in bench.broker.done:
            for tp, offset in offsets.items():
                assert offset > committed[tp]
                committed[tp] = offset
        assert committed == behind

    asyncio.run(world())
