"""Many clients at once, and answers that come slowly."""

from collections.abc import Callable

from streams.store.gateway.sessions import CONNECTIONS_MAX
from tests.connected.store_http import send

Unique = Callable[[str], str]


def test_more_sessions_than_connections_lose_nothing(store: str, unique: Unique) -> None:
    """Each client of clickhouse-connect names a session; few ever put something into theirs."""
    name = unique("session")
    keep = {"session_id": name, "session_timeout": 600}
    assert send(store, "CREATE TEMPORARY TABLE kept (x Int32)", **keep).status == 200
    assert send(store, "SET max_threads = 5", **keep).status == 200
    first = {"session_id": f"{name}_0", "session_timeout": 600}
    for number in range(CONNECTIONS_MAX + 5):
        session = {"session_id": f"{name}_{number}", "session_timeout": 600}
        assert send(store, "SELECT 1", **session).text == "1\n"
    assert send(store, "SELECT count(), getSetting('max_threads') FROM kept", **keep).text == (
        "0\t5\n"
    )
    # Its connection was closed, which its client cannot tell.
    assert send(store, "SELECT 2", session_check=1, max_threads=3, **first).text == "2\n"
    assert send(store, "SELECT getSetting('max_threads') = 3", **first).text == "0\n"


def test_a_slow_answer_is_sent_as_it_comes(store: str) -> None:
    """Rows before a late error arrive; an error before any row still has its status."""
    late = send(
        store,
        "SELECT number, throwIf(number = 60) FROM numbers(100) WHERE sleepEachRow(0.05) = 0",
        max_block_size=1,
    )
    assert late.status == 200
    assert late.text.startswith("0\t0\n1\t0\n")
    assert "__exception__" in late.text
    assert "Code: 395" in late.text
    early = send(store, "SELECT throwIf(number = 0) FROM numbers(100)", max_block_size=1)
    assert (early.status, early.code) == (500, 395)
    whole = send(
        store,
        "SELECT throwIf(number = 30) FROM numbers(100) WHERE sleepEachRow(0.05) = 0",
        max_block_size=1,
        wait_end_of_query=1,
    )
    assert (whole.status, whole.code) == (500, 395)
