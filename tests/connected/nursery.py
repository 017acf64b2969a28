"""Join workers that start in a moment: forked from a process that has imported everything.

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
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


class Nursery:
    """Forks workers."""

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.connected.nursery",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_reason) -> None:
        self.process.kill()
        await self.process.wait()

    async def join(self, file: Path, settings: Settings) -> "Forked":
        """A joiner, as `tidemill worker join` runs it."""
        log = settings.home / "worker.log"
        order = {"file": str(file), "environment": settings.environment(), "log": str(log)}
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

    async def end(self, number: signal.Signals) -> None:
        """Send a signal that ends it, and wait until it is gone."""
        os.kill(self.pid, number)
        async with asyncio.timeout(GONE_S_MAX):
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
        from streams.worker import run_worker

        settings = Settings.from_environment(order["environment"])
        code = run_worker(
            "join", order["file"], settings, name=f"{Path(order['file']).stem}-join-0"
        )
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Import, then fork whenever asked to."""
    _die_with_the_parent()
    from schemas.arrow import spare_pandas

    spare_pandas()
    for name in ("join", "worker", "transport.again", "transport.commit", "transport.turns"):
        __import__(f"streams.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _work(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
