"""What each role of the store may, and what nobody may."""

from pathlib import Path

import pytest

from tests.connected.conftest import Guarded
from tests.connected.test_store_closed import CODE, FILES, NETWORK, OUT

pytestmark = pytest.mark.embedded


READS = ["SELECT a FROM closed_own.t", "DESCRIBE closed_own.t", "SHOW TABLES FROM closed_own"]
CHANGES = [
    "INSERT INTO closed_own.t VALUES (7)",
    "INSERT INTO closed_own.t FORMAT TSV 7",
    "INSERT INTO closed_own.t SELECT 7",
    "ALTER TABLE closed_own.t DELETE WHERE a = 7",
    "CREATE TABLE closed_own.made (a Int32) ENGINE = Memory",
    "DROP TABLE closed_own.made",
    "CREATE VIEW closed_own.seen AS SELECT 1 AS a",
    "DROP VIEW closed_own.seen",
    "OPTIMIZE TABLE closed_own.t",
]
ADMINISTERS = ["SYSTEM FLUSH LOGS", "DROP DATABASE closed_made"]


@pytest.mark.parametrize("user", ["ada", "will", "rita", "wanda", "rolf"])
def test_what_each_role_may(guarded: Guarded, user: str) -> None:
    """The refusals come from the engine's grants: the statements are ordinary."""
    guarded.ask("ada", "CREATE DATABASE IF NOT EXISTS closed_made")
    if user in {"rita", "rolf"}:
        guarded.ask("ada", "CREATE TABLE IF NOT EXISTS closed_own.made (a Int32) ENGINE = Memory")
        guarded.ask("ada", "CREATE VIEW IF NOT EXISTS closed_own.seen AS SELECT 1 AS a")
    else:
        guarded.ask("ada", "DROP TABLE IF EXISTS closed_own.made")
        guarded.ask("ada", "DROP VIEW IF EXISTS closed_own.seen")
    for sql in READS:
        assert guarded.ask(user, sql).status == 200, sql
    for sql in CHANGES:
        reply = guarded.ask(user, sql)
        if user in {"rita", "rolf"}:
            assert (reply.code, reply.status) in {(497, 403), (164, 403)}, (sql, reply.text)
        else:
            assert reply.status == 200, (sql, reply.text)
    for sql in ADMINISTERS:
        reply = guarded.ask(user, sql)
        assert reply.status == (200 if user == "ada" else 403), (sql, reply.text)


ELSEWHERE = [
    "SELECT a FROM tidemill.t",
    "DESCRIBE tidemill.t",
    "SHOW CREATE TABLE tidemill.t",
    "SELECT * FROM {t:Identifier}",
    "SELECT * FROM loop(tidemill.t)",
    "SELECT * FROM loop('tidemill', 't')",
    "SELECT * FROM merge('tidemill', 't')",
    "SELECT * FROM mergeTreeIndex('tidemill', 't')",
    "SELECT * FROM view(SELECT * FROM tidemill.t)",
    "SELECT 1 IN (SELECT a FROM tidemill.t)",
    "SELECT 1 IN tidemill.t",
    "WITH (SELECT max(a) FROM tidemill.t) AS a SELECT a",
    "EXPLAIN ESTIMATE SELECT * FROM tidemill.t",
    "CHECK TABLE tidemill.t",
    "USE tidemill",
    "INSERT INTO tidemill.t VALUES (9)",
    "INSERT INTO tidemill.t FORMAT TSV 9",
    "INSERT INTO closed_own.t SELECT a FROM tidemill.t",
    "INSERT INTO FUNCTION loop(tidemill.t) VALUES (9)",
    "CREATE TABLE closed_own.copy AS tidemill.t",
    "CREATE TABLE closed_own.copy CLONE AS tidemill.t",
    "CREATE TABLE closed_own.copy ENGINE = Memory AS SELECT * FROM tidemill.t",
    "CREATE VIEW closed_own.copy AS SELECT * FROM tidemill.t",
    "CREATE VIEW closed_own.copy DEFINER = default SQL SECURITY DEFINER AS SELECT * FROM tidemill.t",
    "CREATE VIEW closed_own.copy SQL SECURITY NONE AS SELECT * FROM tidemill.t",
    "CREATE MATERIALIZED VIEW closed_own.copy ENGINE = Memory AS SELECT * FROM tidemill.t",
    (
        "CREATE MATERIALIZED VIEW closed_own.copy REFRESH EVERY 1 SECOND ENGINE = Memory "
        "AS SELECT * FROM tidemill.t"
    ),
    "CREATE MATERIALIZED VIEW closed_own.copy TO tidemill.t AS SELECT a FROM closed_own.t",
    "ALTER TABLE closed_own.t ATTACH PARTITION tuple() FROM tidemill.t",
    "ALTER TABLE closed_own.t MOVE PARTITION tuple() TO TABLE tidemill.t",
    "RENAME TABLE closed_own.t TO tidemill.gone",
    "EXCHANGE TABLES closed_own.t AND tidemill.t",
    "DROP TABLE tidemill.t",
    "DETACH TABLE tidemill.t",
    "TRUNCATE TABLE tidemill.t",
    "CREATE DATABASE closed_more",
    "DROP DATABASE tidemill",
    "DROP DATABASE closed_own",
    "SELECT hasColumnInTable('tidemill', 't', 'a') FROM tidemill.t",
    "SELECT joinGet('tidemill.t', 'a', 1)",
    "SET ROLE all",
    "SET ROLE admin_all",
    "SET DEFAULT ROLE admin_all TO default",
    "CREATE TABLE closed_own.p (a Int32) ENGINE = Memory PARALLEL WITH SET ROLE all",
    "CREATE TABLE closed_own.p (a Int32) ENGINE = Memory /**/ PARALLEL /**/ WITH USE tidemill",
    "SET profile = 'default'",
    "SELECT 1 SETTINGS profile = 'default'",
    "SET query_cache_tag = 'ada'",
    "SELECT 1 SETTINGS query_cache_tag = 'ada'",
    "EXECUTE AS default SELECT a FROM tidemill.t",
    "GRANT ALL ON *.* TO default",
    "SET readonly = 0",
]


@pytest.mark.parametrize("sql", ELSEWHERE)
@pytest.mark.parametrize("user", ["wanda", "rolf"])
def test_a_database_of_others_is_closed(guarded: Guarded, user: str, sql: str) -> None:
    """Both see `closed_own` alone, wanda to write."""
    if (user, sql) == ("wanda", "SET readonly = 0"):
        return  # it is 0
    reply = guarded.ask(user, sql, param_t="tidemill.t")
    assert reply.status >= 400, reply.text
    assert guarded.ask("ada", "SELECT groupArray(a) FROM tidemill.t").text == "[2]\n"
    assert guarded.ask(user, "SELECT 1 FROM tidemill.t").code == 497


@pytest.mark.parametrize(
    "table", ["Merge('tidemill', 't')", "Buffer('tidemill', 't', 1, 1, 1, 1, 1, 1, 1)"]
)
def test_tables_over_other_tables_show_nothing(guarded: Guarded, table: str) -> None:
    """They may be made, as on a server, but reading asks for rights on what is below."""
    made = guarded.ask(
        "wanda", f"CREATE OR REPLACE TABLE closed_own.over (a Int32) ENGINE = {table}"
    )
    if made.status == 200:
        assert "2" not in guarded.ask("wanda", "SELECT a FROM closed_own.over").text.split()[:1]
        guarded.ask("wanda", "INSERT INTO closed_own.over VALUES (9)")
        guarded.ask("wanda", "DROP TABLE closed_own.over")
    assert guarded.ask("ada", "SELECT groupArray(a) FROM tidemill.t").text == "[2]\n"


@pytest.mark.parametrize("user", ["ada", "will", "rita", "wanda", "rolf"])
def test_every_attack_is_refused_for_every_role(guarded: Guarded, user: str) -> None:
    """Also for an admin: what our own code needs of it runs inside the process."""
    guarded.ask("ada", "CREATE TABLE IF NOT EXISTS tidemill.closed (a String) ENGINE = Memory")
    guarded.ask("ada", "CREATE TABLE IF NOT EXISTS closed_own.closed (a String) ENGINE = Memory")
    for sql in FILES + NETWORK + CODE:
        reply = guarded.ask(user, sql, param_t="default.`/etc/passwd`")
        assert reply.status >= 400, (sql, reply.text)
        assert "root:" not in reply.text
        session = guarded.ask(user, sql, param_t="default.`/etc/passwd`", session_id="attack")
        assert session.status >= 400, (sql, session.text)
    stored = (
        "SELECT (SELECT count() FROM tidemill.closed) + (SELECT count() FROM closed_own.closed)"
    )
    assert guarded.ask("ada", stored).text == "0\n"
    assert not Path(OUT).exists()


@pytest.mark.parametrize(("user", "role"), [("ada", "admin"), ("will", "write"), ("rita", "read")])
def test_a_request_may_name_the_role_that_its_user_has(
    guarded: Guarded, user: str, role: str
) -> None:
    """``role=``, as of a server: one that was not granted is an error, not ignored."""
    assert guarded.ask(user, "SELECT 1", role=role).text == "1\n"
    for other in {"admin", "write", "read", "nobodys"} - {role}:
        assert guarded.ask(user, "SELECT 1", role=other).code == 512, other
