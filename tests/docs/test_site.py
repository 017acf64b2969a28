"""The site of the documentation: built without a warning, whole, and without anything from elsewhere."""

import json
import re
from dataclasses import dataclass, field, fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from schemas import errors
from schemas.errors import TidemillError
from schemas.settings import Settings, variable
from streams.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


@dataclass
class Read(HTMLParser):
    """What a page loads, where it leads, and which places it has."""

    loads: list[str] = field(default_factory=list)
    leads: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.places |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.leads.append(known["href"])
        elif tag == "link" and known.get("rel") not in {"canonical", "prev", "next"}:
            self.loads.append(known.get("href", ""))
        self.loads += [known[name] for name in ("src", "poster", "data") if name in known]
        self.loads += [
            part.split()[0] for part in known.get("srcset", "").split(",") if part.strip()
        ]


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Read]:
    """Every page that was built, read."""
    found = {}
    for file in sorted(site.rglob("*.html")):
        found[file] = Read()
        found[file].feed(file.read_text(encoding="utf-8"))
    return found


def test_every_page_of_the_documentation_is_on_the_site(site: Path) -> None:
    """Also one that somebody adds without a thought of the nav."""
    sources = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    home = (site / "index.html").read_text(encoding="utf-8")
    for source in sources:
        page = "index" if source.name == "README.md" else source.stem
        built = source.parent / f"{page}.html"
        assert (site / built).is_file(), source
        assert f'href="{built.as_posix()}"' in home, f"{source} is not in the nav"
    assert (site / "schemas" / "asyncapi.json").is_file()
    assert not list(site.rglob("hooks.py*"))


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Read]) -> None:
    """It is read on machines without a network, and nobody learns who reads it."""
    assert len(pages) > 25
    foreign = [(f.name, u) for f, page in pages.items() for u in page.loads if _foreign(u)]
    assert foreign == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        found = re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", text)
        assert found == [], style
    for page in pages:
        assert "mermaid" not in page.read_text(encoding="utf-8"), "its script would come from a CDN"


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Read]) -> None:
    """Inside of the site: the file is there, and so is the place in it."""
    dead = []
    for file, page in pages.items():
        for link in page.leads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            there = target.is_file() and (
                not parts.fragment
                or target.suffix != ".html"
                or unquote(parts.fragment) in pages[target].places
                or parts.fragment.startswith("__")
            )
            if not there and file.name != "404.html":
                dead.append((file.relative_to(site).as_posix(), link))
    assert dead == []


def test_the_reference_is_whole(site: Path) -> None:
    """It is made from the code, so what the code has must be in it."""
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert [f.name for f in fields(Settings) if variable(f.name) not in settings] == []
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'id="tidemill-{name}"' not in commands] == []
    messages = (site / "reference" / "messages.html").read_text(encoding="utf-8")
    advice = (site / "troubleshooting.html").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, TidemillError) and kind is not TidemillError:
            assert f'id="{kind.__name__.lower()}"' in messages, kind
            assert f"<code>{kind.__name__}</code>" in advice, kind
    assert "nothing runs on home=" in messages
    assert "send_events" in (site / "reference" / "client.html").read_text(encoding="utf-8")
    declared = (site / "reference" / "pipeline.html").read_text(encoding="utf-8")
    assert "quality_window" in declared


def test_frequent_messages_are_those_of_the_code() -> None:
    """A message that was reworded is looked for in vain."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(could not [^`]*)`", text, re.MULTILINE)
    assert len(shown) > 8
    code = "".join(
        re.sub(r"\"\s+f?\"", "", file.read_text(encoding="utf-8")).replace(
            'mapped_errors(f"', '"could not '
        )
        for folder in ("schemas", "models", "streams", "trainers")
        for file in (ROOT / folder).rglob("*.py")
    )
    for message in shown:
        pieces = [
            p for p in re.split(r"\.\.\.|'|\d+( of \d+)?|[A-Z_]{4,}", message) if p and len(p) > 9
        ]
        assert [p for p in pieces if p.strip(" :=.()") not in code] == [], message


def test_search_knows_the_pages(site: Path) -> None:
    """The index is a script, so that pages opened as files can search as well."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    assert any("recorded range" in entry["title"].lower() for entry in index["docs"])


def _foreign(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in {"", "data"}


def test_what_is_foreign_is_recognised() -> None:
    """Else the test above could not fail."""
    page = Read()
    page.feed(
        '<script src="//cdn.x/a.js"></script><link rel="stylesheet" href="https://f/x.css"><img src="a.png">'
    )
    assert [_foreign(u) for u in page.loads] == [True, True, False]
