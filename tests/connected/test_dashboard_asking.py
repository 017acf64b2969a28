"""The dashboard's questions cannot write, whichever user its address names."""

from dataclasses import replace
from urllib.parse import quote

import pytest

from schemas.errors import PermanentError, StoreUnavailable
from schemas.settings import Settings
from streams.store.asking import Asker
from tests.connected.conftest import PASSWORD, Guarded


@pytest.mark.embedded
@pytest.mark.parametrize("user", ["ada", "will", "rita"])
async def test_nobody_can_write_and_everybody_can_ask(guarded: Guarded, user: str) -> None:
    """Administrators, writers and readers: also after a question that provokes a refusal."""
    place = f"http://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{guarded.process.port}"
    async with Asker(replace(Settings(), clickhouse=place)) as asker:
        assert (await asker.ask("SELECT a FROM t")).rows == [[2]]
        for sql in (
            "SELECT 1 SETTINGS readonly = 0",
            "INSERT INTO t VALUES (3)",
            "DROP TABLE t",
            "SET readonly = 0",
            "CREATE TABLE u (a Int32) ENGINE = Memory",
            "SELECT 1; DROP TABLE t",
        ):
            with pytest.raises(PermanentError):
                await asker.ask(sql)
        cut = await asker.ask("SELECT number FROM numbers(100)", rows_max=10)
        assert (len(cut.rows), cut.cut) == (10, True)
        exact = await asker.ask("SELECT toUInt64(18446744073709551615)", exact=True)
        assert exact.rows == [["18446744073709551615"]]
    assert guarded.ask("ada", "SELECT count() FROM tidemill.t").text.strip() == "1"


async def test_a_store_that_is_not_there_is_unavailable() -> None:
    """The page says that it is down, not that the question was wrong."""
    async with Asker(replace(Settings(), clickhouse="http://127.0.0.1:9")) as asker:
        with pytest.raises(StoreUnavailable):
            await asker.ask("SELECT 1")
