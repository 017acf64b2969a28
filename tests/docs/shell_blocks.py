"""Finds the shell blocks of a page and says what is to happen with each.

A comment in front of a block says how it is run:

    <!-- not run: REASON -->     not at all
    <!-- slow -->                only by `make slow`
    <!-- stays -->               in the background, until the page is done; then its stack is up
    <!-- exit: N -->             ends with this code
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = ("console", "bash", "sh", "shell")
ELSEWHERE = ("docker", "kubectl", "helm", "systemctl", "journalctl", "sudo", "ssh", "scp")
"""Programs that act on other machines or on this one's services: none of it is here."""
_BLOCK = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!-- (not run|slow|stays|exit)(?:: ([^>\n]+?))? -->\s*\Z")
ANY_LINES = r"(?:.*\n)*?"
_NUMBER = r"[-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?"


@dataclass(frozen=True, slots=True)
class Command:
    """One command and the lines that it is said to print."""

    text: str
    shown: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, in the order of its page.

    Attributes:
        page: Path inside the project.
        line: Of the fence.
        commands: What it runs.
        skipped: Why it is not run; empty: it is.
        slow: It is run by `make slow` only.
        stays: It is run in the background.
        code: Exit code that its last command ends with.
    """

    page: str
    line: int
    commands: list[Command]
    skipped: str = ""
    slow: bool = False
    stays: bool = False
    code: int = 0

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page of the documentation."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found += sorted((ROOT / "streams" / "store" / "gateway").glob("*.md"))
    return [page.relative_to(ROOT).as_posix() for page in found]


def files(page: str) -> dict[str, str]:
    """Files that a page shows: blocks whose first line is a comment with the name of one."""
    found = {}
    for match in _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        if named := re.match(r"(?:#|//) ([\w-]+\.(?:py|json|sql|js|java|toml))\n", match["text"]):
            found[named[1]] = match["text"]
    return found


def blocks(page: str) -> list[Block]:
    """The shell blocks of ``page``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] not in LANGUAGES:
            continue
        before = text[: match.start()]
        marks = dict[str, str]()
        while mark := _MARK.search(before):
            marks[mark[1]] = mark[2] or ""
            before = before[: mark.start()].rstrip()
        commands = _commands(match["text"], match["indent"], match["language"])
        found.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                commands=commands,
                skipped=marks.get("not run", "") or _elsewhere(commands),
                slow="slow" in marks,
                stays="stays" in marks,
                code=int(marks.get("exit", 0)),
            )
        )
    return found


def _elsewhere(commands: list[Command]) -> str:
    for command in commands:
        for line in command.text.splitlines():
            program = re.sub(r"^(\w+=\S*\s+)*", "", line.strip()).split(" ")[0]
            if program in ELSEWHERE:
                return f"{program} acts on other machines or on services"
    return ""


def _commands(text: str, indent: str, language: str) -> list[Command]:
    lines = [line.removeprefix(indent) for line in text.splitlines()]
    if language != "console":
        return [Command("\n".join(lines))]
    found: list[Command] = []
    for line in lines:
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif line.startswith("> ") and found and not found[-1].shown:
            found[-1] = Command(f"{found[-1].text}\n{line[2:]}")
        elif found and line.strip():
            found[-1].shown.append(line)
    return found


def matches(shown: list[str], printed: str) -> str:
    """Empty if ``printed`` is as ``shown``, else the first line that is not.

    Numbers may be others, versions too, white space does not count, and ``...`` stands for
    anything: inside a line, or for any number of lines.
    """
    lines = "".join(f"{line.strip()}\n" for line in printed.splitlines() if line.strip())
    pieces = [ANY_LINES if line.strip() == "..." else f"{_pattern(line)}\n" for line in shown]
    if re.fullmatch("".join(pieces), lines):
        return ""
    for count in range(1, len(shown) + 1):
        if not re.match("".join(pieces[:count]), lines):
            return repr(shown[count - 1])
    return "no more lines"


def _pattern(line: str) -> str:
    parts = []
    for token in re.split(rf"(\.\.\.|\b[0-9a-f]{{12}}\b|(?<![\w-]){_NUMBER}\b|\s+)", line.strip()):
        if token == "...":
            parts.append(".*")
        elif re.fullmatch(r"[0-9a-f]{12}", token):
            parts.append("[0-9a-f]{12}")
        elif re.fullmatch(_NUMBER, token):
            parts.append(_NUMBER)
        elif token.isspace():
            parts.append(r"[ \t]+")
        else:
            parts.append(re.escape(token))
    return "".join(parts)
