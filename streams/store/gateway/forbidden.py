"""What is refused whatever the engine's grants say.

Grants refuse every source in files, networks and other databases, and constraints pin the settings
that name files (`configuration`). What is left has no privilege of its own in the embedded engine;
each of these was tried with the grants in place, and read a file or ran a program:

* ``file`` as a scalar function, also as ``APPLY(file)``, ``arrayMap(file, ...)``, inside views,
  defaults and subqueries;
* the table functions ``Python``, ``executable`` and ``eval`` (a query in a string);
* ``INTO OUTFILE`` and ``FROM INFILE``;
* engines such as ``Executable``, ``EmbeddedRocksDB`` and ``FileLog``;
* ``SET ROLE``, also behind ``PARALLEL WITH``, which would give a connection every right, and what
  would change the profile or the name that it carries (`access`);
* expressions in VALUES, also through the table function ``format(Values, ...)`` with a string that
  no search for words would find.

The judge is the engine's parser: it prints the statement in canonical form (`Engine.canonical`),
without comments and heredocs, with quotes where they are needed, and that is searched.
"""

import re

from streams.store.gateway.access import IDENTITY
from streams.store.gateway.backup import check_backup, is_backup
from streams.store.gateway.errors import ACCESS_DENIED, EngineError, refusal
from streams.store.gateway.limits import LIMITED, Limits
from streams.store.gateway.statement import Token, first_word, tokens

_SUSPECT = re.compile(
    rb"file|python|executable|catboost|eval|engine|dialect|disk|backup|restore|interpret_expr|"
    rb"deduce_templ|\\|role|parallel|query_cache_tag|" + "|".join(sorted(LIMITED)).encode(),
    re.IGNORECASE,
)
"""Only a statement with one of these can hold a refused part; a backslash may hide one of the words
inside a quoted name."""

_FUNCTIONS = frozenset(
    {b"file", b"python", b"executable", b"executablepool", b"catboostevaluate", b"eval", b"disk"}
)
VALUES_SETTINGS = (
    "input_format_values_interpret_expressions",
    "input_format_values_deduce_templates_of_expressions",
)
"""Off by configuration. The gateway turns them on for an INSERT whose VALUES are harmless."""
REFUSED_SETTINGS = frozenset({"dialect", "profile", IDENTITY, *VALUES_SETTINGS})
_REFUSED_SETTINGS = frozenset(name.encode() for name in REFUSED_SETTINGS)

_HARMFUL_VALUES = re.compile(
    rb"file|python|executable|catboost|eval|format|[`\"][^`\"]*\\", re.IGNORECASE
)
_ENGINES = frozenset(
    b"mergetree replacingmergetree summingmergetree aggregatingmergetree collapsingmergetree "
    b"versionedcollapsingmergetree coalescingmergetree graphitemergetree log tinylog stripelog "
    b"memory null set join buffer merge generaterandom view materializedview atomic".split()
)


def suspect(sql: bytes) -> bool:
    """Whether the statement must be judged in its canonical form."""
    return _SUSPECT.search(sql) is not None


def harmless_values(sql: bytes) -> bool:
    """Whether this is an ``INSERT ... VALUES`` whose expressions stay inside the engine."""
    if first_word(sql[:4096]) != b"insert" or b"values" not in sql[:65536].lower():
        return False
    return _HARMFUL_VALUES.search(sql) is None


def check_canonical(sql: bytes, limits: Limits) -> None:
    """Refuse what reads or writes files, runs code, or lifts a limit of its user.

    ``sql`` is as the engine printed it.

    The engine quotes a plain name such as `file` only where a column is declared. Everywhere else
    an unquoted one may be a function, so a column of that name must be written ``t.file``.

    Raises:
        EngineError: ACCESS_DENIED, with the part that is refused, or a setting beyond a limit.
    """
    if is_backup(sql):
        check_backup(sql)
        return
    found = list(tokens(sql))
    makes = _places_table(found)
    names = [_plain(token) for token in found]
    for position, token in enumerate(found):
        name = names[position]
        one = names[position - 1] if position > 0 else b""
        two = names[position - 2] if position > 1 else b""
        if token.kind not in {"word", "quoted"}:
            continue
        if (one, name) in {(b"into", b"outfile"), (b"from", b"infile")}:
            raise _denied(f"{one.decode().upper()} {name.decode().upper()}")
        called = sql[token.end : token.end + 1] == b"("
        bare = token.kind == "word" and one != b"." and name != b"disk"
        if name in _FUNCTIONS and (called or bare):
            raise _denied(f"the function {name.decode()}")
        if makes and name == b"disk" and sql[token.end :].lstrip()[:1] == b"=":
            raise _denied("the setting disk")
        follows = found[position + 1 : position + 3]
        assigned = bool(follows) and follows[0].text == b"="
        if name in _REFUSED_SETTINGS and (assigned or name != b"profile"):
            raise _denied(f"the setting {name.decode()}")
        if name == b"role" and one in {b"set", b"default"} and not assigned:
            raise _denied("SET ROLE")
        if (one, name) == (b"parallel", b"with"):
            raise _denied("PARALLEL WITH")
        if assigned and name.decode(errors="replace") in LIMITED:
            value = follows[1].text.strip(b"'") if len(follows) > 1 else b""
            limits.check(name.decode(), value.decode(errors="replace"))
        if (two, one) == (b"engine", b"=") and name not in _ENGINES:
            raise _denied(f"the engine {name.decode(errors='replace')}")


def _places_table(found: list[Token]) -> bool:
    """Whether ``disk = ...`` in a statement chooses where a table lies."""
    return bool(found) and found[0].text in {b"create", b"alter", b"attach"}


def _plain(token: Token) -> bytes:
    return token.text.strip(b'`"').lower() if token.kind == "quoted" else token.text


def _denied(what: str) -> EngineError:
    return refusal(ACCESS_DENIED, f"Not enough privileges: {what} is not available over HTTP.")
