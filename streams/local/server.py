"""What the embedded broker and the embedded store have in common: start, readiness, stop."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from schemas.errors import SetupError, TransientError
from streams.local.child import ChildProcess, end_leftover
from streams.local.ports import free_port

POLL_S = 0.05
"""How often a starting server is asked whether it is ready."""

STOP_S_MAX = 20.0
"""How long a server may take to stop by itself; both normally take half a second."""


class EmbeddedServer(ABC):
    """One server process whose data stay in ``folder``, listening on 127.0.0.1 only.

    It ends when this process ends, however that happens. Usable as a context manager, and again
    after it was stopped or killed: port and data stay the same.
    """

    what: ClassVar[str]
    """Its name in messages: "the embedded broker"."""

    start_s_max: ClassVar[float]
    """How long a start may take on a saturated machine."""

    unavailable: ClassVar[type[TransientError]]
    """What is raised when it does not answer in time."""

    def __init__(self, folder: Path, *, port: int, log: Path | None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_port()
        self.log = log or self.folder.with_name(f"{self.folder.name}.log")
        self._pid_file = self.folder.with_name(f"{self.folder.name}.pid")
        self._process: ChildProcess | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line; prepares what the process needs. Must name ``folder``."""

    @abstractmethod
    def answers(self) -> bool:
        """Say whether it serves requests now; returns within two seconds."""

    @property
    def pid(self) -> int:
        """The process id of the server itself; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process is there; it may not answer yet."""
        return self._process is not None and self._process.exit_code() is None

    def exit_code(self) -> int | None:
        """How the process ended; None while it runs or before the first start."""
        return self._process.exit_code() if self._process else None

    def log_tail(self) -> str:
        """The last lines it logged."""
        return self._process.log_tail() if self._process else ""

    def start(self, timeout_s: float | None = None) -> None:
        """Start, and return when it answers.

        Raises:
            SetupError: something it needs is missing, or it ended while starting.
            TransientError: it did not answer within ``timeout_s``. It is killed then.
        """
        self.begin()
        self.wait_ready(timeout_s)

    def begin(self) -> None:
        """Start the process without waiting for its answer; nothing happens if it runs."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._end_leftover()
        self._process = ChildProcess(self.command(), log=self.log)
        self._pid_file.write_text(str(self._process.pid), encoding="utf-8")

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return when it answers; see `start`."""
        timeout_s = self.start_s_max if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            log_end = f"The end of {self.log}:\n{self.log_tail()}"
            if not self.running:
                raise SetupError(
                    f"could not start {self.what}: it ended with exit_code={self.exit_code()}; "
                    f"folder={self.folder}. {log_end}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise self.unavailable(
                    f"could not start {self.what}: no answer on 127.0.0.1:{self.port} in "
                    f"timeout_s={timeout_s:g}. {log_end}"
                )
            time.sleep(POLL_S)

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once."""
        if self._process is not None and self.running:
            self._process.ask_to_stop()

    def stop(self, *, grace_s: float = STOP_S_MAX) -> None:
        """Stop it cleanly; kills it after ``grace_s``. Repeating it is harmless."""
        if self._process is not None:
            self._process.stop(grace_s=grace_s)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _end_leftover(self) -> None:
        try:
            pid = int(self._pid_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        end_leftover(pid, mark=str(self.folder))
