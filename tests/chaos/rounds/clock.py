"""Lets the calendar clock of processes jump, while those that only run forward stay.

`clock.c` beside this file does it, built by the system's C compiler. Not libfaketime: with its
monotonic clock left alone, 0.9.10 makes every `time.sleep` of Python 3.11 fail, and it costs a
system call for each look at the clock.
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
VARIABLES = ("LD_PRELOAD", "CLOCK_SHIFT")


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc")


class ShiftedClock:
    """The clock of all processes that are started with `variables`."""

    def __init__(self, folder: Path) -> None:
        self._shift, self._library = folder / "clock.shift", folder / "clock.so"
        self.jump(0)
        subprocess.run(
            [compiler() or "cc", "-O2", "-shared", "-fPIC", SOURCE, "-o", self._library, "-ldl"],
            check=True,
        )
        self.variables = {"LD_PRELOAD": str(self._library), "CLOCK_SHIFT": str(self._shift)}

    def jump(self, seconds: int) -> None:
        """Show so much more than the time, from now on."""
        file = os.open(self._shift, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, struct.pack("=q", seconds))  # in place: it is mapped
        finally:
            os.close(file)
