"""A worker whose state is a hash chain over two topics: order-sensitive, so it shows every mistake.

`python -m tests.connected.chaining '{...}'` runs one and kills it with SIGKILL at a named point.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

from schemas.errors import SetupError
from schemas.settings import Settings
from streams.telemetry import Reporter, configure_logging
from streams.transport.again import read_again
from streams.transport.app import build_app
from streams.transport.commit import GroupCommit, Outgoing
from streams.transport.driver import batch_topic
from streams.transport.turns import TurnStage

TURNS_PER_SNAPSHOT = 5
POINTS = ("snapshot", "computed", "offsets", "committed", "replay")


class Killer:
    """Ends this process at ``point``, the ``number``-th time it is passed."""

    def __init__(self, point: str, number: int) -> None:
        self._point, self._left = point, number

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def link(chain: str, topic: int, value: str) -> str:
    return hashlib.sha256(f"{chain}|{topic}|{value}".encode()).hexdigest()[:16]


class Chain:
    """Applies all rows of the first topic of a turn, then those of the second."""

    def __init__(self, partition: int, target: str, folder: Path, killer: Killer) -> None:
        self._partition, self._target, self._killer = partition, target, killer
        self._folder = folder / str(partition)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.chain, self._base, self._name = "", (0, 0), ""
        self._turns: list[tuple[int, ...]] = []
        self._recorded = ""

    def restore(self, metadata):
        if not metadata:
            return (0, 0), []
        pointer = json.loads(metadata)
        self._base, self._name = tuple(pointer["base"]), pointer["snapshot"]
        self._turns = [tuple(turn) for turn in pointer["turns"]]
        self._recorded = pointer["chain"]
        if self._name:
            self.chain = (self._folder / self._name).read_text()
        return self._base, self._turns

    def turn(self, runs):
        rows = [
            [topic, value.decode()]
            for topic, parts in enumerate(runs)
            for run in parts
            for value in run.values
        ]
        for topic, value in rows:
            self.chain = link(self.chain, topic, value)
        message = json.dumps({"chain": self.chain, "rows": rows}).encode()
        return [Outgoing(self._target, self._partition, [message])]

    def verify(self):
        self._killer("replay")
        if self.chain != self._recorded:
            raise SetupError(f"could not rebuild: {self.chain} is not {self._recorded}")

    def record(self, offsets):
        self._killer("computed")
        self._turns.append(offsets)
        if len(self._turns) > TURNS_PER_SNAPSHOT:
            name = (
                f"{sum(offsets):012d}-{self.chain}"  # a sleeper must not overwrite its successor's
            )
            self._name, self._base, self._turns = name, offsets, []
            (self._folder / self._name).write_text(self.chain)
            self._killer("snapshot")
        pointer = {"base": self._base, "snapshot": self._name, "turns": self._turns}
        return json.dumps(pointer | {"chain": self.chain})

    def committed(self):
        self._killer("committed")
        for path in self._folder.iterdir():
            if path.name.split("-")[0] < self._name.split("-")[0]:
                path.unlink()


async def work(options: dict) -> None:
    settings = Settings(
        kafka=options["kafka"], home=Path(options["folder"]), session_timeout_ms=3000
    )
    killer = Killer(options["point"], options["number"])
    commit = GroupCommit(settings, transactional_id=options["group"] + options.get("name", ""))
    await commit.start()
    ending = commit._producer.commit_transaction

    async def commit_transaction() -> None:
        killer("offsets")
        await ending()

    commit._producer.commit_transaction = commit_transaction
    stage = TurnStage(
        commit,
        tuple(options["topics"]),
        lambda p: Chain(p, options["target"], Path(options["folder"]) / "snapshots", killer),
        partial(read_again, settings),
        Reporter(settings.run_folder, "chain", "chain"),
        turn_ms_max=20,
    )
    app = build_app(settings, group=options["group"], owner=stage, read_committed=True)
    source = batch_topic(app, *options["topics"])

    @app.agent(source)
    async def chain(drains) -> None:
        async for drain in drains.noack():
            await stage.take(drain, app.consumer)

    @app.task
    async def committer() -> None:
        await stage.commit_forever()

    await app.start()
    parent = os.getppid()
    while os.getppid() == parent:  # a failed test run must leave nothing behind
        await asyncio.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    configure_logging("human")
    asyncio.run(work(json.loads(sys.argv[1])))
