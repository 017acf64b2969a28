"""Clients' ids and users in the engine's own tables, which know neither.

The engine gives every query an id and the user ``default``. Each statement runs behind a comment
that names its client's id and user (`Running.mark`). Where a query reads ``system.processes`` or
``system.query_log``, a subquery takes the table's place that reads the comment; ``queryID()``
becomes the client's id, and ``SHOW PROCESSLIST`` the query that it stands for.
"""

from typing import Final

from streams.store.gateway.statement import Token, quote, quote_name, tokens

MARK: Final = "/* gateway "

_ID: Final = r"decodeURLComponent(extract(p.query, '^/\\* gateway (\\S*) '))"
_USER: Final = r"decodeURLComponent(extract(p.query, '^/\\* gateway \\S* (\\S*) '))"
_TEXT: Final = r"replaceRegexpOne(p.query, '^/\\* gateway \\S* \\S* \\*/ ', '')"
_MARKED: Final = f"startsWith(p.query, '{MARK}')"

_PROCESSES: Final = (
    f"SELECT * REPLACE (if({_MARKED}, {_ID}, p.query_id) AS query_id, "
    f"if({_MARKED}, {_USER}, p.user) AS user, {_TEXT} AS query){{}} FROM system.processes AS p"
)
WITH_ENGINE_ID: Final = f"({_PROCESSES.format(', p.query_id AS gateway_engine_id')})"
"""``system.processes`` with the clients' ids, and the engine's in a column of its own."""

# What the gateway itself asks the engine has no mark, and is nobody's query.
_QUERY_LOG: Final = (
    f"SELECT * REPLACE ({_ID} AS query_id, {_ID} AS initial_query_id, {_USER} AS user, "
    f"{_USER} AS initial_user, {_TEXT} AS query) FROM system.query_log AS p WHERE {_MARKED}"
)
_TABLES: Final = {
    b"processes": f"({_PROCESSES.format('')})".encode(),
    b"query_log": f"({_QUERY_LOG})".encode(),
}
_FUNCTIONS: Final = frozenset({b"queryid", b"query_id", b"initialqueryid", b"initial_query_id"})
_WORDS: Final = (*_TABLES, b"processlist", *_FUNCTIONS)
_AFTER_TABLE: Final = frozenset(
    b"where prewhere order group having limit offset format settings union except intersect "
    b"join inner left right full cross any all asof semi anti global qualify window on "
    b"using".split()
)


def with_client_ids(sql: str, query_id: str) -> str:
    """``sql`` with clients' ids and users; its own id is ``query_id``.

    Text that names one of the tables in another place than behind FROM or JOIN is left as it is.
    The result must be judged like any other statement.
    """
    text = sql.encode()
    lowered = text.lower()
    if not any(word in lowered for word in _WORDS):
        return sql
    found = list(tokens(text))
    edits: list[tuple[int, int, bytes]] = []
    if [token.text for token in found[:2]] == [b"show", b"processlist"]:
        table = b"SELECT * FROM " + _TABLES[b"processes"] + b" AS processes ORDER BY elapsed DESC"
        edits.append((found[0].start, found[1].end, table))
    # Few of the tokens are names, and there may be 256 Ki of others.
    names = [place for place, token in enumerate(found) if token.kind in {"word", "quoted"}]
    for name in _TABLES:
        edits += _table_edits(found, names, name)
    for position in names:
        token = found[position]
        called = [part.text for part in found[position + 1 : position + 3]] == [b"(", b")"]
        if called and token.kind == "word" and token.text in _FUNCTIONS:
            end = found[position + 2].end
            # The column keeps the name that it would have.
            title = quote_name(text[token.start : end].decode())
            edits.append((token.start, end, f"({quote(query_id)} AS {title})".encode()))
    pieces, at = [], 0
    for start, end, instead in sorted(edits):
        pieces += [text[at:start], instead]
        at = end
    return b"".join([*pieces, text[at:]]).decode()


def _table_edits(found: list[Token], names: list[int], name: bytes) -> list[tuple[int, int, bytes]]:
    edits = []
    for position in names:
        token, path = found[position], found[position : position + 3]
        if tuple(_name(part) for part in path) == (b"system", b".", name):
            if not position or found[position - 1].text not in {b"from", b"join"}:
                return []
            following = found[position + 3] if position + 3 < len(found) else None
            alias = b" AS " + name if _bare(following) else b""
            edits.append((token.start, path[2].end, _TABLES[name] + alias))
    return edits


def _name(token: Token) -> bytes:
    return token.text.strip(b'`"') if token.kind == "quoted" else token.text


def _bare(following: Token | None) -> bool:
    """Whether a table has no alias, by what follows it."""
    if following is None or following.text in _AFTER_TABLE:
        return True
    return following.kind == "other"
