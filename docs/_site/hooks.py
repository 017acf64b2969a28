"""Hooks of MkDocs: pages from outside of docs/, links to them, and tables made from the code.

Named by `mkdocs.yml`. A line ``<!-- generated: NAME -->`` in a page is replaced by a table.
"""

import ast
import inspect
import itertools
import posixpath
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from schemas import errors
from schemas.errors import TidemillError
from schemas.loading import load_pipeline
from schemas.settings import SECRETS, Settings, variable
from schemas.topics import models_topic

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "streams/store/gateway/README.md": "store-gateway.md",
    "streams/store/gateway/USERS.md": "store-users.md",
}
"""Pages that lie beside the code, and their names on the site."""
FOLDERS = {
    "docs/schemas/": "docs/schemas/asyncapi.json",
    "docs/schemas": "docs/schemas/asyncapi.json",
}
SECTIONS = {"": "Operate", "benchmarks": "Benchmarks"}
"""Where pages go that the nav does not name, by their folder."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the nav does not name where they belong."""
    named = set(_leaves(config.nav))
    for folder, title in SECTIONS.items():
        [section] = [entry[title] for entry in config.nav or [] if title in entry]
        pages = sorted((ROOT / "docs" / folder).glob("*.md"), reverse=folder == "benchmarks")
        found = [page.relative_to(ROOT / "docs").as_posix() for page in pages]
        section.extend(page for page in found if page not in named)
    return config


def _leaves(nav: Any) -> Iterator[str]:
    for entry in nav if isinstance(nav, list) else [nav]:
        if isinstance(entry, dict):
            for inner in entry.values():
                yield from _leaves(inner)
        else:
            yield entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside the code."""
    for source, name in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in the tables, and turn links between files into links between pages."""
    own = {name: source for source, name in ELSEWHERE.items()}
    source = own.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = FOLDERS.get(path, path)
        if path not in ELSEWHERE and not path.startswith("docs/"):
            return text  # a file of the code: its name is enough here
        there = ELSEWHERE.get(path, path.removeprefix("docs/"))
        here = posixpath.dirname(page.file.src_uri)
        return f"[{text}]({posixpath.relpath(there, here or '.')}{anchor})"

    markdown = re.sub(r"\[([^\]\n]+)\]\(([\w./-]+)(#[\w-]+)?\)", link, markdown)
    return re.sub(r"<!-- generated: (\w+) -->", lambda m: TABLES[m[1]](), markdown)


def settings_table() -> str:
    """Every setting with its variable, its default and its docstring."""
    words: dict[str, str] = {}
    for kind in Settings.__mro__[:-1]:
        words |= _field_docstrings(Path(inspect.getfile(kind)), kind.__name__)
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for field in sorted(fields(Settings), key=lambda field: list(words).index(field.name)):
        default = f"`{field.default}`" if str(field.default) else "empty"
        secret = ""
        if field.name in SECRETS:
            secret = f" Never shown. `{variable(field.name)}_FILE` may name a file with it."
        rows.append(f"| `{variable(field.name)}` | {default} | {words[field.name]}{secret} |")
    return "\n".join(['<div class="names" markdown>\n', *rows, "\n</div>"])


def _field_docstrings(file: Path, name: str) -> dict[str, str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [body] = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    found = {}
    for field, after in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = _cell(str(after.value.value))
    return found


def topics_table() -> str:
    """The topics of `flights`, as every pipeline has them."""
    rows = ["| topic | one message | key | partitions | kept |", "|---|---|---|---|---|"]
    for topic in (*load_pipeline("flights").topics.all(), models_topic()):
        days = f"{topic.retention_ms // 86_400_000} days"
        kept = "newest of each key" if topic.cleanup == "compact" else days
        cells = (f"`{topic.name}`", topic.record, topic.key, str(topic.partitions), kept)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(['<div class="names" markdown>\n', *rows, "\n</div>"])


def error_classes() -> dict[str, type[TidemillError]]:
    """The error tree, by name."""
    found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, TidemillError)}


def messages() -> Iterator[tuple[str, str, str]]:
    """Class, text and file of every message that the code raises; values are written as …."""
    known = error_classes()
    for folder in ("schemas", "models", "streams", "trainers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                    continue
                name = ast.unparse(node.exc.func).rpartition(".")[2]
                text = _template(node.exc.args[0]) if node.exc.args else ""
                if name in known and text:
                    yield name, text, file.relative_to(ROOT).as_posix()


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            "…" if isinstance(v, ast.FormattedValue) else _template(v) for v in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return ""


def messages_table() -> str:
    """Every message by class: what could not be done, and what to do."""
    parts = []
    found = sorted(set(messages()))
    for name, kind in error_classes().items():
        rows = [(text, file) for of, text, file in found if of == name]
        parts.append(f"### {name}\n\n{kind.__doc__.splitlines()[0] if kind.__doc__ else ''}\n")
        if not rows:
            parts.append("Raised by its kinds only, or with the words of what failed.\n")
            continue
        parts += ["| message | what to do | raised in |", "|---|---|---|"]
        for text, file in rows:
            said, _, fix = _cell(text).partition(". ")
            parts.append(f"| {said} | {fix or '—'} | `{file}` |")
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    """Text as one cell of a table."""
    plain = re.sub(r"\s+", " ", text).strip().replace("``", "`")
    return plain.replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")


TABLES = {"settings": settings_table, "topics": topics_table, "messages": messages_table}
