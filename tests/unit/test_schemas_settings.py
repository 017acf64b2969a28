"""Settings: one variable each, wrong ones refused at start-up, secrets never shown."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SettingsError
from schemas.settings import SECRETS, Settings, variable

SECRET = "correct-horse"


def read(**variables: str) -> Settings:
    return Settings.from_environment({f"TIDEMILL_{k.upper()}": v for k, v in variables.items()})


def test_an_empty_environment_gives_the_defaults() -> None:
    """And what belongs to others is none of our business."""
    assert Settings.from_environment({"PATH": "/bin", "KAFKA": "x"}) == Settings()


def test_every_setting_is_read_from_its_variable() -> None:
    """One rule for all names: TIDEMILL_ and the name in capitals."""
    found = read(kafka="a:1,b:2", home="/data", land_rows_max="7", log_format="json")
    assert (found.kafka, found.home, found.land_rows_max) == ("a:1,b:2", Path("/data"), 7)
    assert found.log_format == "json"
    assert variable("land_rows_max") == "TIDEMILL_LAND_ROWS_MAX"


def test_a_mistyped_variable_is_refused_and_the_known_ones_are_listed() -> None:
    """Ignored, it would be found weeks later."""
    with pytest.raises(SettingsError, match=r"TIDEMILL_KAFKAS is not a setting.*TIDEMILL_KAFKA,"):
        read(kafkas="a:1")


BAD = {
    "no number": ({"batch_rows_max": "many"}, r"TIDEMILL_BATCH_ROWS_MAX='many'"),
    "a fraction": ({"land_rows_max": "1.5"}, r"TIDEMILL_LAND_ROWS_MAX='1.5'"),
    "zero": ({"land_threads": "0"}, r"land_threads=0.*1 to 1000000000.*TIDEMILL_LAND_THREADS"),
    "negative": ({"replication": "-1"}, r"replication=-1"),
    "too large": ({"land_rows_max": "1000000001"}, r"land_rows_max=1000000001"),
    "empty": ({"kafka_port": ""}, r"TIDEMILL_KAFKA_PORT=''"),
    "batch above the bound": (
        {"batch_rows_max": "1000", "in_flight_rows_max": "999"},
        r"TIDEMILL_BATCH_ROWS_MAX or raise TIDEMILL_IN_FLIGHT_ROWS_MAX",
    ),
    "security": ({"kafka_security": "TLS"}, r"PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    "store without a scheme": ({"clickhouse": "host:8123"}, r"http://user:password@host:8123"),
    "store of another kind": ({"clickhouse": "clickhouse://h"}, r"http://user:password@host"),
    "log format": ({"log_format": "xml"}, r"human or json"),
    "secret file missing": ({"kafka_password_file": "/no/such"}, r"TIDEMILL_KAFKA_PASSWORD_FILE"),
}


@pytest.mark.parametrize(("variables", "message"), BAD.values(), ids=BAD.keys())
def test_a_value_that_cannot_work_is_refused_at_once(
    variables: dict[str, str], message: str
) -> None:
    """With its variable and what it may be, before anything is started."""
    with pytest.raises(SettingsError, match=message):
        read(**variables)


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    """As container secrets do; the line end that editors add is no part of it."""
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    assert read(kafka_password_file=str(file)).kafka_password == SECRET


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Settings end up in logs and error messages."""
    found = read(kafka_password=SECRET, clickhouse=f"http://u:{SECRET}@h:1")
    assert SECRET not in repr(found)
    hidden = {item.name for item in fields(Settings) if not item.repr}
    assert hidden == SECRETS
    with pytest.raises(SettingsError) as caught:
        read(clickhouse=f"ftp://u:{SECRET}@h")
    assert SECRET not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        read(kafka_password_file=str(tmp_path / "nothing"))
    assert SECRET not in str(caught.value)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_values: dict[str, st.SearchStrategy[Any]] = {
    "home": st.sampled_from([Path(".tidemill"), Path("/data/ä b")]),
    "kafka": _text,
    "kafka_password": _text,
    "kafka_security": st.sampled_from(["PLAINTEXT", "SASL_SSL"]),
    "clickhouse": st.sampled_from(["", "http://u:p%20q@h:1"]),
    "database": _text.filter(bool),
    "registry": st.sampled_from(["", "s3://bucket/models"]),
    "land_rows_max": st.integers(1, 10**9),
    "land_age_ms_max": st.integers(1, 10**9),
    "log_format": st.sampled_from(["human", "json"]),
}


@given(st.fixed_dictionaries({}, optional=_values))
def test_a_child_process_gets_the_same_settings(values: dict[str, Any]) -> None:
    """Whatever a person sets for `tidemill up` reaches every worker unchanged."""
    found = Settings(**values)
    environment = found.environment()
    assert all(name.startswith("TIDEMILL_") for name in environment)
    assert Settings.from_environment(environment) == found


def test_sasl_without_a_user_is_refused() -> None:
    """The broker would only say that authentication failed."""
    with pytest.raises(SettingsError, match="TIDEMILL_KAFKA_USERNAME is empty"):
        Settings(kafka="h:1", kafka_security="SASL_PLAINTEXT").kafka_client_options()


def test_client_options_follow_the_security() -> None:
    """Every client of ours gets these and nothing else."""
    plain = Settings(kafka="h:1").kafka_client_options()
    assert plain == {"bootstrap_servers": "h:1", "security_protocol": "PLAINTEXT"}
    sasl = Settings(
        kafka="h:1", kafka_security="SASL_SSL", kafka_username="u", kafka_password="p"
    ).kafka_client_options()
    assert {k: v for k, v in sasl.items() if k.startswith("sasl")} == {
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }
    assert sasl["ssl_context"].check_hostname
    with pytest.raises(SettingsError, match="TIDEMILL_KAFKA_CA"):
        Settings(kafka="h:1", kafka_security="SSL", kafka_ca="/no.pem").kafka_client_options()


def test_the_registry_lies_in_the_home_unless_told_otherwise() -> None:
    """As an absolute path: workers may run in another folder."""
    assert Path(Settings(home=Path("x")).registry_root) == Path.cwd() / "x" / "registry"
    assert Settings(registry="s3://bucket/models").registry_root == "s3://bucket/models"
