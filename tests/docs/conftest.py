"""One `tidemill up flights` for all pages; a page with a block that stays has one of its own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from streams.telemetry import read_reports
from tests.docs.shell_blocks import ROOT, Block, files, matches

BASH = shutil.which("bash") or "bash"
COMMAND_S_MAX = 120


@dataclass(slots=True)
class Stack:
    """A folder to work in, a home, and what runs on it."""

    folder: Path
    home: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """That of a person who has activated the environment."""
        kept = {name: value for name, value in os.environ.items() if "TIDEMILL" not in name}
        path = f"{ROOT / '.venv' / 'bin'}:{kept.get('PATH', '')}"
        return kept | {"PATH": path, "TIDEMILL_HOME": str(self.home), "COLUMNS": "200"}

    def addresses(self) -> dict[str, str]:
        """The addresses of the documentation, and those that this stack has."""
        try:
            stack = msgspec.json.decode((self.home / "run" / "stack.json").read_bytes())
        except OSError:
            return {}
        return {"http://127.0.0.1:8123": stack["clickhouse"], "127.0.0.1:9092": stack["kafka"]}

    def shell(
        self, text: str, *, timeout_s: float = COMMAND_S_MAX
    ) -> "subprocess.CompletedProcess[str]":
        """Run it as it stands there, on the addresses that there are."""
        for shown, real in self.addresses().items():
            text = text.replace(shown, real)
        return subprocess.run(
            [BASH, "-euo", "pipefail", "-c", text], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def start(self, text: str) -> None:
        """Run it until the end of the page, and wait until all of it is ready."""
        log = self.folder / f"up{len(self.processes)}.log"
        with log.open("wb") as out:
            self.processes.append(
                subprocess.Popen(
                    [BASH, "-c", f"exec {text}"], cwd=self.folder, env=self.environment,
                    stdout=out, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        deadline = time.monotonic() + 180
        while not (self.home / "run" / "stack.json").is_file() or not self._workers_run():
            assert self.processes[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def _workers_run(self) -> bool:
        reports = [r for r in read_reports(self.home / "run") if "score" in r.name]
        return bool(reports) and all(r.state == "running" for r in reports)

    def stop(self) -> None:
        """End what was started, newest first."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(60)

    def run(self, block: Block) -> None:
        """Run its commands, and compare exit codes and what was printed."""
        for number, command in enumerate(block.commands):
            if block.stays:
                self.start(command.text)
                continue
            ran = self.shell(command.text)
            wanted = block.code if number == len(block.commands) - 1 else 0
            told = f"{block}: {command.text}\n{ran.stdout}\n{ran.stderr}"
            assert ran.returncode == wanted, told
            if command.shown:
                missing = matches(command.shown, ran.stderr if wanted else ran.stdout)
                assert not missing, f"not printed: {missing}\n{told}"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the documentation, as `make docs` builds it; a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert "WARNING" not in made.stdout + made.stderr
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`tidemill up flights`, with 3,000 events and their labels answered and landed."""
    folder = tmp_path_factory.mktemp("docs")
    found = Stack(folder, folder / "home")
    try:
        found.start("tidemill up flights --no-dashboard --by-hand")
        sent = found.shell("tidemill replay flights --events 3000")
        assert sent.returncode == 0, sent.stderr
        wait_landed(found, "flights", 3_000)
        wait_landed(found, "flights_outcomes", 2_500)
        yield found
    finally:
        found.stop()


def wait_landed(stack: Stack, view: str, rows: int) -> None:
    """Until a view of the pipeline has so many rows."""
    deadline = time.monotonic() + 120
    while True:
        asked = stack.shell(
            'curl -sf http://127.0.0.1:8123/ -d "SELECT count() FROM tidemill.' + view + '"'
        )
        if asked.stdout.strip().isdigit() and int(asked.stdout) >= rows:
            return
        assert time.monotonic() < deadline, asked.stdout + asked.stderr
        time.sleep(0.2)


@pytest.fixture
def page_stack(stack: Stack, tmp_path: Path) -> Iterator[Callable[[str, list[Block]], Stack]]:
    """Makes the stack of a page: the shared one in a folder of its own, or an own one."""
    made: list[Stack] = []

    def make(page: str, of_page: list[Block]) -> Stack:
        own = any(block.stays and not block.skipped for block in of_page)
        home = tmp_path / "home" if own else stack.home
        found = Stack(tmp_path, home)
        for name, text in files(page).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        made.append(found)
        return found

    yield make
    for found in made:
        found.stop()
