"""Child processes that never outlive us, not even when we are killed with ``kill -9``.

Every child gets a *guard*: a tiny process that waits on a pipe of which only we hold the other end.
However we end, the kernel closes that end; the guard then asks the child to stop and kills it if it
does not. Linux could do this with ``PR_SET_PDEATHSIG``, but that signal fires when the *thread*
that started the child ends, and macOS has nothing like it; the pipe is right on both.

This file is also the program that becomes the child: ``python -I -S child.py FD ARGV...`` forks the
guard and then replaces itself by ``ARGV``, so the process id we know is the child's own. It imports
the standard library only, because ``-I -S`` starts in 15 ms and finds nothing else.

What it cannot see: a process that we fork without exec holds our end of the pipe too, so the child
ends when that process has ended as well.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LOG_BYTES_MAX = 8 << 20
"""A log larger than this is renamed to ``.log.1`` when its process starts again."""

GRACE_S = 5.0
"""How long an orphan may take to stop by itself before its guard kills it."""

POLL_S = 0.5
"""How often a guard looks whether its child is still there."""


class ChildProcess:
    """A running process that ends when we end; its output goes to one log file.

    It leads its own process group and session: Ctrl-C in the terminal reaches us alone, and we
    stop the children in order.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start ``argv`` in ``folder``; ``env`` replaces the whole environment if given."""
        self.argv = list(argv)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(f"{log.name}.1"))
        guard_end, self._our_end = os.pipe()
        wrapper = [sys.executable, "-I", "-S", __file__, str(guard_end)]
        try:
            with log.open("ab") as output:
                self._popen = subprocess.Popen(
                    [*wrapper, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=None if env is None else dict(env),
                    cwd=folder,
                    pass_fds=[guard_end],
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._our_end)
            raise
        finally:
            os.close(guard_end)
        self.pid = self._popen.pid

    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        code = self._popen.poll()
        if code is not None and self._our_end >= 0:
            os.close(self._our_end)
            self._our_end = -1
        return code

    def wait(self, timeout_s: float) -> bool:
        """Say whether it has ended within ``timeout_s``."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return self.exit_code() is not None

    def ask_to_stop(self) -> None:
        """Send SIGTERM to it alone: what to do with its own children is its decision."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it and everything in its process group at once (SIGKILL)."""
        if self.exit_code() is None:
            _signal_group(self.pid, signal.SIGKILL)
            self._popen.wait()
            self.exit_code()

    def stop(self, *, grace_s: float = 10.0) -> None:
        """End it: SIGTERM, then SIGKILL when ``grace_s`` have passed. Repeating it is harmless."""
        if self.exit_code() is None:
            self.ask_to_stop()
            if not self.wait(grace_s):
                self.kill()

    def log_tail(self, lines: int = 15) -> str:
        """The last ``lines`` of its log, for messages about why it ended."""
        return tail(self.log, lines=lines)


def tail(path: Path, *, lines: int) -> str:
    """The last lines of a text file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def end_leftover(pid: int, *, mark: str, timeout_s: float = 10.0) -> None:
    """Wait until process ``pid`` has ended if its command line holds ``mark``; then kill it.

    After a ``kill -9`` of its parent a child may still be stopping while the next ``up`` starts.
    ``mark`` (a path) keeps us from touching a stranger that got the same process id.
    """
    import psutil  # not needed by the guard

    try:
        process = psutil.Process(pid)
        if not any(mark in part for part in process.cmdline()):
            return
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
    except psutil.NoSuchProcess:
        return


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        return False
    return True


def _guard(fd: int, child: int) -> None:
    """Wait until our grandparent is gone, then end ``child``; return early when it has ended.

    ``child`` is our own parent, so as long as ``getppid`` names it, its process id cannot have
    been given to somebody else.
    """
    os.setsid()
    os.chdir("/")
    for inherited in (0, 1, 2):  # a log that nobody else writes to any more must see its end
        os.close(inherited)
    while os.getppid() == child:
        readable, _, _ = select.select([fd], [], [], POLL_S)
        if readable:
            break
    deadline = time.monotonic() + GRACE_S
    number: int = signal.SIGTERM
    while os.getppid() == child:
        _signal_group(child, number)
        time.sleep(0.05)
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _become(fd: int, argv: list[str]) -> None:
    child = os.getpid()
    if os.fork() == 0:
        try:
            _guard(fd, child)
        finally:
            os._exit(0)
    os.set_inheritable(fd, False)
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # becoming the child is the purpose
    except OSError as cause:
        sys.stderr.write(f"could not start {argv[0]}: {cause}\n")
        sys.exit(127)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
