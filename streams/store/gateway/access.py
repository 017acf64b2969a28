"""Roles and what the engine grants them: who may do what, enforced below the SQL.

Every connection of the embedded engine is its only user, who holds all roles. So a connection that
is lent to somebody is first narrowed: by ``SET ROLE`` to that person's rights, by a name that row
filters of system tables compare (`IDENTITY`), and by a profile after which neither that name nor
the limits of memory and time can be changed any more. What would widen it again is refused
(`forbidden`).

Roles are fixed when the engine starts, so there is one for each database that the users file names.
"""

import enum
import urllib.parse
from collections.abc import Iterable
from typing import Final
from xml.sax.saxutils import escape

from streams.store.gateway.backup import BACKUP_RIGHTS

IDENTITY: Final = "query_cache_tag"
"""The setting that holds the user's name on a connection. chDB has no query cache, so it does
nothing else, and takes no settings of our own."""
FENCE: Final = "fenced"
"""The profile under which nobody changes `IDENTITY`."""


class Role(enum.StrEnum):
    """What a user may do: read tables; write and make them as well; everything over HTTP."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


# Nothing that reaches outside the engine (FILE, URL, REMOTE, S3, ...), no users, no dictionaries
# (their sources run programs), no SYSTEM SHUTDOWN: for nobody.
_READS: Final = "SHOW, SELECT, CHECK, dictGet"
_CHANGES: Final = (
    f"{_READS}, INSERT, ALTER, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE"
)
_GRANTS: Final = {
    Role.READ: _READS,
    Role.WRITE: f"{_CHANGES}, CREATE DATABASE",
    Role.ADMIN: f"{_CHANGES}, CREATE DATABASE, DROP, UNDROP TABLE, KILL QUERY, SYSTEM MERGES, "
    "SYSTEM TTL MERGES, SYSTEM VIEWS, SYSTEM FLUSH LOGS",
}
_ALL_SUFFIX: Final = "_all"

_OWN: Final = (
    f"has(currentRoles(), '{Role.ADMIN}{_ALL_SUFFIX}') OR "
    rf"extract(query, '^/\\* gateway \\S* (\\S*) ') = getSetting('{IDENTITY}')"
)
_ADMIN: Final = f"has(currentRoles(), '{Role.ADMIN}{_ALL_SUFFIX}')"

# SELECT on system tables cannot be taken away by grants, and these show what other people ask.
_FILTERS: Final = {
    **dict.fromkeys(("processes", "query_log"), _OWN),
    **dict.fromkeys(
        (
            *("errors", "error_log", "crash_log", "text_log", "trace_log", "stack_trace"),
            *("query_thread_log", "query_views_log", "query_metric_log", "session_log"),
            *("processors_profile_log", "opentelemetry_span_log", "asynchronous_inserts"),
            *("part_log", "merges", "mutations", "moves", "user_processes", "query_cache"),
            *("asynchronous_insert_log", "view_refreshes", "background_schedule_pool_log"),
        ),
        _ADMIN,
    ),
}


def identity(name: str) -> str:
    """``name`` as it stands in marks of statements and in `IDENTITY`: without blanks or quotes."""
    return urllib.parse.quote(name, safe="")


def engine_roles(role: Role, databases: tuple[str, ...]) -> tuple[str, ...]:
    """The engine's names of ``role`` on ``databases``, or on all of them if there are none."""
    if not databases:
        return (f"{role}{_ALL_SUFFIX}",)
    return tuple(f"{role}_in_{database.encode().hex()}" for database in databases)


def access_xml(databases: Iterable[str]) -> tuple[str, str, str]:
    """Parts of ``users.xml``: ``<roles>``, the grants of the only user, and its row filters.

    ``databases`` are those that some user is restricted to.
    """
    grants = {
        name: f"GRANT {_GRANTS[role]} ON *.*" for role in Role for name in engine_roles(role, ())
    }
    for database in sorted(set(databases)):
        quoted = "`" + database.replace("\\", "\\\\").replace("`", "\\`") + "`"
        for role, rights in ((Role.READ, _READS), (Role.WRITE, _CHANGES)):
            for name in engine_roles(role, (database,)):
                grants[name] = f"GRANT {rights} ON {quoted}.*"
    more = dict.fromkeys(grants, "GRANT CREATE TEMPORARY TABLE ON *.*")
    more[f"{Role.ADMIN}{_ALL_SUFFIX}"] += f", {BACKUP_RIGHTS}"
    roles = "".join(
        f"<{name}><grants><query>{escape(grant)}</query><query>{more[name]}</query></grants></{name}>"
        for name, grant in grants.items()
    )
    filters = "".join(
        f"<{table}><filter>{escape(rule)}</filter></{table}>" for table, rule in _FILTERS.items()
    )
    return (
        f"<roles>{roles}</roles>",
        f"<query>GRANT {', '.join(grants)}</query>",
        f"<databases><system>{filters}</system></databases>",
    )
