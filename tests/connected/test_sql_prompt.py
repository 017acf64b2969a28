"""The prompt of `tidemill sql`, on a terminal of its own."""

import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.cli.sql_prompt import HISTORY, complete
from tests.connected.store_http import send

WAIT_S = 60.0
# Whoever starts the tests in the background of a shell has them ignore Ctrl-C, and so all children.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What a person types and sees."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master, self.process, self.seen = master, process, ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while text not in self.seen:
            assert time.monotonic() < deadline_s, f"{text!r} is not in {self.seen[-2000:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                piece = os.read(self.master, 1 << 16).decode(errors="replace")
                self.seen += ESCAPES.sub("", piece)
                if "\x1b[6n" in piece:  # where is the cursor?
                    self.type("\x1b[1;1R")
        self.seen = self.seen.split(text, 1)[1]


@contextmanager
def prompt(store: str, home: Path) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    variables = {
        "TIDEMILL_CLICKHOUSE": store, "TIDEMILL_DATABASE": "system", "TIDEMILL_HOME": str(home),
        "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PAGER": "cat",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEARS_CTRL_C}from streams.cli.main import main; main()", "sql"],
        stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **variables},
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(master, process)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_statements_mistakes_history_and_ctrl_c(store: str, tmp_path: Path) -> None:
    with prompt(store, tmp_path) as terminal:
        terminal.wait_for("sql>")
        terminal.type("SELECT 20 + 2 AS answer,\r'x' AS y;\r")
        terminal.wait_for("22  x")
        terminal.wait_for("1 row, ")
        terminal.type("SELECT nope;\r")
        terminal.wait_for("[code 47]")
        terminal.type("SELECT 'endless', sum(sin(number)) FROM numbers(1000000000000);\r")
        runs = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT ''endless''%'"
        terminal.wait_for("rows read")
        assert send(store, runs).text == "1\n"
        # What Ctrl-C becomes on the terminal that controls a process.
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("ended")
        assert send(store, runs).text == "0\n"
        terminal.type("SELECT 30 + 3;\r")
        terminal.wait_for("33")
        terminal.wait_for("1 row, ")
        terminal.type("exit\r")
    history = tmp_path / HISTORY
    assert "+SELECT nope;" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_when_enter_runs_what_was_typed() -> None:
    assert complete("SELECT 1;")
    assert complete("SELECT 1\n")
    assert complete("exit")
    assert complete("")
    assert not complete("SELECT 1")
    assert not complete("exit x")
