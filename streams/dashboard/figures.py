"""What a page consists of: figures, each of which is a question that anybody can ask as well."""

import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "line", "bars", "reliability", "heat", "table", "tiles", "flow", "rollout", "versions"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One picture, table or row of numbers.

    Attributes:
        name: Unique on its page, a word for addresses.
        title: What a person reads above it.
        kind: How it is drawn.
        about: One or two sentences: what it shows and how to read it.
        sql: The question to the store; empty if the answer is not in the store.
        source: What is asked where there is no ``sql``; a name in `streams.dashboard.sources`.
        command: What gives the same in a terminal.
        empty: What to say, and what to do, when there is no answer yet.
        every_s: How often it is asked at most, while somebody looks.
        wide: Whether it takes the whole width.
        drawn: How columns become a picture; see ``static/plot.js`` and ``static/table.js``.
    """

    name: str
    title: str
    kind: Kind
    about: str = ""
    sql: str = ""
    source: str = ""
    command: str = ""
    empty: str = "Nothing yet."
    every_s: float = 2.0
    wide: bool = False
    drawn: dict[str, Any] = field(default_factory=dict)

    @property
    def shown_command(self) -> str:
        """The command that gives the same, ready to be copied."""
        return self.command or f"tidemill sql {shlex.quote(' '.join(self.sql.split()))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page about one pipeline.

    Attributes:
        name: Its address.
        title: Its heading.
        about: One sentence under the heading.
        figures: In the order in which they are read.
        body: More HTML before the figures, made here and free of anything from outside.
    """

    name: str
    title: str
    about: str
    figures: tuple[Figure, ...]
    body: str = ""
