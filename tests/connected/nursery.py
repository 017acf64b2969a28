"""Workers that start in a moment: forked from a process that has imported everything.

A worker spends most of its start on imports, which is not what a schedule of kills is about.
`python -m tests.connected.nursery` reads one JSON object a line and answers with the process id of
the worker it forked. What it forked dies with it, and it dies with the test.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Self

from schemas.settings import Settings

GONE_S_MAX = 60.0
ENDED = "worker ended itself with"
IMPORTS = {
    "join": ["streams.workers.join", "streams.transport.again"],
    "learn": ["streams.workers.learn", "streams.transport.again", "models.river_learners"],
}
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


class Nursery:
    """Forks workers.

    Args of the constructor:
        roles: What they will be; everything that these roles import is imported once.
    """

    def __init__(self, *roles: str) -> None:
        self._roles = roles or ("join",)
        self._count = 0

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.connected.nursery", *self._roles,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_reason) -> None:
        self.process.kill()
        await self.process.wait()

    async def join(self, file: Path, settings: Settings) -> "Forked":
        """A joiner, as `tidemill worker join` runs it."""
        return await self._fork(settings, role="join", file=str(file))

    async def learn(
        self, file: Path, settings: Settings, *, point: str = "", number: int = 0, name: str = ""
    ) -> "Forked":
        """A learner that ends itself with SIGKILL at a point of `tests.connected.learning`."""
        return await self._fork(
            settings, role="learn", file=str(file), point=point, number=number, name=name
        )

    async def _fork(self, settings: Settings, **order: object) -> "Forked":
        self._count += 1
        log = settings.home / f"worker-{self._count}.log"
        order |= {"environment": settings.environment(), "log": str(log)}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return Forked(int(await self.process.stdout.readline()), log)


class Forked:
    """One forked worker."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self._log = pid, log

    @property
    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def ended_itself(self) -> bool:
        """It said so: what SIGKILL ends says nothing."""
        return ENDED in self.log

    async def end(self, number: signal.Signals) -> None:
        """Send a signal that ends it, and wait until it is gone."""
        os.kill(self.pid, number)
        await self.gone()

    async def gone(self, *, limit_s: float = GONE_S_MAX) -> None:
        """Wait until it is."""
        async with asyncio.timeout(limit_s):
            while self.alive:
                await asyncio.sleep(0.02)


def _die_with_the_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)


def _work(order: dict) -> None:
    """The forked side; does not return."""
    code = 1
    try:
        _die_with_the_parent()
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in (1, 2):
            os.dup2(log, number)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from streams.workers.process import run_worker

        role, file = order["role"], order["file"]
        if order.get("point"):
            from tests.connected.learning import arm

            arm(order["point"], order["number"])
        name = order.get("name") or f"{Path(file).stem}-{role}-0"
        settings = Settings.from_environment(order["environment"])
        code = run_worker(role, file, settings, name=name)
    finally:
        print(f"{ENDED} {code}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Import, then fork whenever asked to."""
    _die_with_the_parent()
    from schemas.arrow import spare_pandas

    spare_pandas()
    wanted = ["streams.workers.process", "streams.transport.commit", "streams.transport.turns"]
    for name in (*wanted, *(name for role in sys.argv[1:] for name in IMPORTS[role])):
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _work(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
